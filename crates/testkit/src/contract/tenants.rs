//! What a store has to do with tenants.

use std::{sync::Mutex, time::Duration};

use astrfleet_core::{
    Error,
    audit::NewEntry,
    id::{EventId, TenantId, UserId},
    page::PageRequest,
    policy::Role,
    ports::{Accepted, Begun, Erased, NewDelivery, NewMessage, Store},
    tenant::{Event, Tenant},
};

use super::{
    api_keys, attachments, audit, blocklist, bridge, budgets, exports, invitations,
    messages::message,
    search,
    sessions::stored_session,
    store::{Make, NOW},
    usage, webhooks,
};

/// Everything of it.
pub async fn all(store: &dyn Store, make: &Make) {
    together_or_not_at_all(store, make).await;
    names_and_addresses(store, make).await;
    changes(store, make).await;
    pages(store, make).await;
    erasure(store, make).await;
}

async fn together_or_not_at_all(store: &dyn Store, make: &Make) {
    let owner = make.stored_user(store, "founder").await;
    let (tenant, instance) = make.tenant("founded");
    store.tenants().insert(&tenant, &instance, Some(&owner)).await.unwrap();
    assert_eq!(store.tenants().get(&tenant.id).await.unwrap(), tenant);
    assert_eq!(store.tenants().by_name("founded").await.unwrap(), tenant);
    assert_eq!(store.instances(&tenant.id).get().await.unwrap(), instance);
    assert_eq!(store.members(&tenant.id).get(&owner).await.unwrap().role, Role::Owner);

    let (homeless, instance) = make.tenant("homeless");
    let nobody = make.ids.user();
    let refused = store.tenants().insert(&homeless, &instance, Some(&nobody)).await;
    assert!(matches!(refused, Err(Error::NotFound { what: "user" })));
    assert!(matches!(store.tenants().get(&homeless.id).await, Err(Error::NotFound { what: "tenant" })));
    assert!(store.instances(&homeless.id).get().await.is_err(), "its bot is not there either");
    assert!(matches!(store.tenants().by_name("found\0ed").await, Err(Error::NotFound { what: "tenant" })));
    assert!(matches!(store.tenants().by_name("homeless").await, Err(Error::NotFound { what: "tenant" })));
}

async fn names_and_addresses(store: &dyn Store, make: &Make) {
    let tenants = store.tenants();
    let (first, instance) = make.tenant("taken");
    tenants.insert(&first, &instance, None).await.unwrap();
    let reason = |outcome: Result<(), Error>| match outcome {
        Err(Error::Conflict { reason }) => reason,
        other => panic!("expected a conflict, not {other:?}"),
    };
    let (same_name, instance) = make.tenant("taken");
    let same_name = Tenant { email: "other@tenants.example".to_owned(), ..same_name };
    assert!(reason(tenants.insert(&same_name, &instance, None).await).contains("name"));
    let (same_email, instance) = make.tenant("free");
    let same_email = Tenant { email: "TAKEN@tenants.example".to_owned(), ..same_email };
    assert!(reason(tenants.insert(&same_email, &instance, None).await).contains("e-mail"), "in any case");

    let (renamed, instance) = make.tenant("renamed");
    tenants.insert(&renamed, &instance, None).await.unwrap();
    let grabbing = Tenant { name: "taken".to_owned(), ..renamed };
    assert!(reason(tenants.update(&grabbing).await.map(|_| ())).contains("name"));
}

async fn changes(store: &dyn Store, make: &Make) {
    let tenants = store.tenants();
    let (tenant, instance) = make.tenant("changing");
    tenants.insert(&tenant, &instance, None).await.unwrap();
    let changed = tenant.after(Event::Deleted, NOW.plus(Duration::from_secs(1)), Duration::from_mins(1));
    let changed = Tenant { plan: "large".to_owned(), display_name: "Größer 🚀".to_owned(), ..changed };
    let stored = tenants.update(&changed).await.unwrap();
    assert_eq!(stored, Tenant { version: 2, ..changed.clone() });
    assert_eq!(tenants.get(&tenant.id).await.unwrap(), stored);
    assert!(matches!(tenants.update(&changed).await, Err(Error::Stale { what: "tenant" })), "read before that change");
    // Not due for any suite after this one.
    tenants.update(&stored.after(Event::Resumed, NOW, Duration::ZERO)).await.unwrap();
}

async fn pages(store: &dyn Store, make: &Make) {
    for number in 0..3 {
        make.stored_tenant(store, &format!("page-{number}")).await;
    }
    let whole = store.tenants().list(&PageRequest::first()).await.unwrap().items;
    assert!(whole.is_sorted_by_key(|tenant| tenant.id.clone()), "the newest last");
    let first = store.tenants().list(&PageRequest { limit: 2, after: None }).await.unwrap();
    assert_eq!(first.items, whole[..2]);
    let second = store.tenants().list(&PageRequest { limit: 2, after: first.next_cursor }).await.unwrap();
    assert_eq!(second.items, whole[2..4]);
}

async fn erasure(store: &dyn Store, make: &Make) {
    let tenants = store.tenants();
    let mut ids = Vec::new();
    for (name, grace) in [("erased-second", 20), ("erased-first", 10), ("erased-never", 21)] {
        let (tenant, owner) = make.stored_tenant_with_owner(store, name).await;
        let deleting = tenants.get(&tenant).await.unwrap().after(Event::Deleted, NOW, Duration::from_secs(grace));
        tenants.update(&deleting).await.unwrap();
        fill(store, make, &tenant, &owner).await;
        ids.push(tenant);
    }
    let due = |limit| tenants.due_for_erasure(NOW.plus(Duration::from_secs(20)), limit);
    let found: Vec<_> = due(9).await.unwrap().into_iter().map(|tenant| tenant.name).collect();
    assert_eq!(found, ["erased-first", "erased-second"], "the longest due first, the moment included");
    assert_eq!(due(1).await.unwrap().len(), 1);

    let before = store.audit(None).list(&PageRequest::first()).await.unwrap().items.len();
    let erased = erase(store, make, &ids[0]).await.unwrap();
    for (table, rows) in [("tenants", 1), ("messages", 2), ("sessions", 2), ("api_keys", 1), ("webhook_deliveries", 1)]
    {
        assert_eq!(erased[table], rows, "{table}: {erased:?}");
    }
    assert_eq!(erase(store, make, &ids[0]).await, None);
    let log = store.audit(None).list(&PageRequest::first()).await.unwrap().items;
    assert_eq!(log.len(), before + 1, "the proof stands in the log, once");
    assert_eq!((log[0].action.as_str(), log[0].target.as_str()), ("tenant.erase", ids[0].as_str()));
    assert_eq!(store.audit(None).find("tenant.erase", ids[0].as_str()).await.unwrap(), log[0]);
    let none = store.audit(None).find("tenant.erase", ids[1].as_str()).await;
    assert!(matches!(none, Err(Error::NotFound { what: "audit entry" })));
    assert!(matches!(tenants.get(&ids[0]).await, Err(Error::NotFound { what: "tenant" })), "twice is once");
    assert_eq!(store.members(&ids[0]).list(&PageRequest::first()).await.unwrap().items, []);
    assert_eq!(store.api_keys(&ids[0]).list(&PageRequest::first()).await.unwrap().items, []);
    assert_eq!(store.audit(Some(&ids[0])).list(&PageRequest::first()).await.unwrap().items, []);
    assert_eq!(store.members(&ids[1]).list(&PageRequest::first()).await.unwrap().items.len(), 1, "another's stay");
    assert_eq!(store.api_keys(&ids[1]).list(&PageRequest::first()).await.unwrap().items.len(), 1);
    assert_eq!(store.audit(Some(&ids[1])).list(&PageRequest::first()).await.unwrap().items.len(), 2);
}

/// Erases a tenant. Returns how many rows of each table; none where there was no tenant.
pub async fn erase(store: &dyn Store, make: &Make, tenant: &TenantId) -> Option<Erased> {
    let seen = Mutex::new(None);
    let proof = |erased: &Erased| {
        *seen.lock().unwrap() = Some(erased.clone());
        Ok(NewEntry { target: tenant.to_string(), ..audit::entry(make, None, "tenant.erase") })
    };
    let erased = store.tenants().erase(tenant, &proof).await.unwrap();
    assert_eq!(erased, seen.lock().unwrap().is_some());
    seen.into_inner().unwrap()
}

/// Puts a row of `tenant` into every table that has rows of tenants.
pub async fn fill(store: &dyn Store, make: &Make, tenant: &TenantId, owner: &UserId) {
    let (key, hash) = api_keys::key(make, tenant, owner);
    store.api_keys(tenant).insert(&key, &hash).await.unwrap();
    let begun = store.idempotency(key.id.as_str()).begin("key", &hash, Duration::ZERO).await.unwrap();
    assert_eq!(begun, Begun::New);
    store.audit(Some(tenant)).append(&audit::entry(make, Some(tenant), "tenant.delete")).await.unwrap();
    let (invitation, hash) = invitations::invitation(make, owner, "late@users.example", Role::Viewer);
    store.invitations(tenant).insert(&invitation, &hash).await.unwrap();

    let session = stored_session(store, make, tenant, "ada").await;
    let asked = message(make, &session);
    // With a key: it is taken in a table beside the messages.
    let idempotency = Some(("fill".to_owned(), [7; 32]));
    let new = NewMessage { message: asked.clone(), idempotency };
    assert_eq!(store.messages(tenant).accept(new).await.unwrap(), Accepted::New);
    let brought = bridge::inbound(make, tenant, "tg1:FriendMessage:7", "fill", 1);
    assert!(store.bridge(tenant).take_in(brought).await.unwrap().is_new);
    store.exports(tenant).insert(&exports::export(make, tenant, NOW)).await.unwrap();
    let attachment = attachments::attachment(make.ids.attachment(), tenant, 1);
    store.attachments(tenant).insert(&attachment, u64::MAX).await.unwrap();
    store.blocklist(tenant).put(&blocklist::block(make, None, "mallory", None)).await.unwrap();
    assert!(store.search(tenant).add(&search::block(&asked.id, &asked.id, &["erased"])).await.unwrap());
    let webhook = webhooks::stored_webhook(store, make, tenant).await;
    let delivery = NewDelivery {
        id: make.ids.delivery(),
        event: EventId::of(tenant, 1),
        kind: "session.opened".to_owned(),
        session_id: Some(session.id.clone()),
    };
    let seen = store.webhooks(tenant).seen(&webhook.id).await.unwrap();
    assert!(store.webhooks(tenant).fan_out(&webhook.id, seen, seen + 1, &[delivery], NOW).await.unwrap());
    store.usage(tenant).append(&[usage::line(make, tenant, NOW, 1, 2)]).await.unwrap();
    budgets::fill(store, make, tenant).await;
}
