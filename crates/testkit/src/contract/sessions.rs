//! What a store has to do with sessions.

use std::time::Duration;

use astrfleet_core::{
    Error,
    id::TenantId,
    page::PageRequest,
    ports::Store,
    session::{CloseReason, Event, Session, State},
};

use super::store::{Make, NOW};

/// One that is not stored yet.
#[must_use]
pub fn session(make: &Make, tenant: &TenantId, end_user: &str) -> Session {
    Session {
        id: make.ids.session(),
        tenant_id: tenant.clone(),
        end_user: end_user.to_owned(),
        channel: "api".to_owned(),
        umo: None,
        state: State::Bot,
        close_reason: None,
        metadata: serde_json::json!({ "order": 7, "note": "Größe 🎈 \u{0}" }),
        generation: 1,
        created_at: NOW,
        last_active_at: NOW,
        version: 1,
    }
}

/// One that is stored.
pub async fn stored_session(store: &dyn Store, make: &Make, tenant: &TenantId, end_user: &str) -> Session {
    let session = session(make, tenant, end_user);
    store.sessions(tenant).insert(&session).await.unwrap();
    session
}

/// Everything of it.
pub async fn all(store: &dyn Store, make: &Make) {
    let tenant = make.stored_tenant(store, "sessions-ours").await;
    let other = make.stored_tenant(store, "sessions-theirs").await;
    let (ours, theirs) = (store.sessions(&tenant), store.sessions(&other));

    let first = stored_session(store, make, &tenant, "ada").await;
    let second = stored_session(store, make, &tenant, "bob").await;
    let third = stored_session(store, make, &tenant, "ada").await;
    assert_eq!(ours.get(&first.id).await.unwrap(), first);
    let homeless = session(make, &make.ids.tenant(), "ada");
    let refused = store.sessions(&homeless.tenant_id).insert(&homeless).await;
    assert!(matches!(refused, Err(Error::NotFound { what: "tenant" })));

    let page = ours.list(None, &PageRequest { limit: 2, after: None }).await.unwrap();
    assert_eq!(page.items, [third.clone(), second.clone()], "the newest first");
    let page = ours.list(None, &PageRequest { limit: 2, after: page.next_cursor }).await.unwrap();
    assert_eq!((page.items, page.next_cursor), (vec![first.clone()], None));
    let page = ours.list(Some("ada"), &PageRequest { limit: 1, after: None }).await.unwrap();
    assert_eq!(page.items, [third], "the end user's alone");
    let page = ours.list(Some("ada"), &PageRequest { limit: 1, after: page.next_cursor }).await.unwrap();
    assert_eq!((page.items, page.next_cursor), (vec![first.clone()], None));
    assert_eq!(ours.list(Some("Ada"), &PageRequest::first()).await.unwrap().items, []);

    let later = NOW.plus(Duration::from_secs(1));
    let closed = second.after(Event::Closed(CloseReason::Idle), later).unwrap();
    let stored = ours.update(&closed).await.unwrap();
    assert_eq!(stored, Session { version: 2, ..closed.clone() }, "as stored");
    assert_eq!(ours.get(&second.id).await.unwrap(), stored);
    assert!(matches!(ours.update(&closed).await, Err(Error::Stale { what: "session" })));
    let earlier = Session { last_active_at: NOW, metadata: serde_json::json!({}), ..stored };
    let stored = ours.update(&earlier).await.unwrap();
    assert_eq!((stored.last_active_at, &stored.metadata), (later, &earlier.metadata), "activity never goes back");

    assert!(matches!(theirs.get(&first.id).await, Err(Error::NotFound { what: "session" })), "another tenant's");
    assert!(matches!(theirs.update(&first).await, Err(Error::NotFound { what: "session" })));
    assert_eq!(theirs.list(None, &PageRequest::first()).await.unwrap().items, []);
    assert_eq!(theirs.list(Some("ada"), &PageRequest::first()).await.unwrap().items, []);
    assert_eq!(ours.get(&first.id).await.unwrap(), first, "and nothing was changed");
}
