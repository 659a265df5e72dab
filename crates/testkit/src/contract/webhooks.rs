//! What a store has to do with webhooks and what they are told.

use std::time::Duration;

use astrfleet_core::{
    Error,
    event::Kind,
    id::{DeliveryId, EventId, TenantId},
    page::PageRequest,
    ports::{Deliveries, NewDelivery, PassOver, Recorded, Store},
    session::Session,
    tenant::{Status, Tenant},
    time::Timestamp,
    webhook::{Delivery, DisabledReason, Outcome, SCHEDULE, State, Tried, Webhook},
};
use futures_util::future::join_all;

use super::{
    messages::{accepted, message},
    sessions::stored_session,
    store::{Make, NOW},
};

/// Longer than any suite takes.
const LIFE: Duration = Duration::from_hours(1);
/// How long a webhook may fail.
const PATIENCE: Duration = Duration::from_hours(120);

/// One that is not stored yet.
#[must_use]
pub fn webhook(make: &Make, tenant: &TenantId) -> Webhook {
    Webhook {
        id: make.ids.webhook(),
        tenant_id: tenant.clone(),
        url: "https://example.com/größe".to_owned(),
        events: vec![Kind::MessageAccepted, Kind::ReplyDone],
        description: "Shop 🛒".to_owned(),
        enabled: true,
        disabled_reason: None,
        failing_since: None,
        previous_secret_until: None,
        created_at: NOW,
        updated_at: NOW,
        version: 1,
    }
}

/// One that is stored.
pub async fn stored_webhook(store: &dyn Store, make: &Make, tenant: &TenantId) -> Webhook {
    let webhook = webhook(make, tenant);
    store.webhooks(tenant).insert(&webhook, "sealed", 1_000).await.unwrap();
    webhook
}

/// Everything of it.
pub async fn all(store: &dyn Store, make: &Make) {
    webhooks(store, make).await;
    secrets(store, make).await;
    fan_out(store, make).await;
    claims(store, make).await;
    order(store, make).await;
    tries(store, make).await;
    giving_up(store, make).await;
    across_tenants(store, make).await;
}

fn after(seconds: u64) -> Timestamp {
    NOW.plus(Duration::from_secs(seconds))
}

fn tried(outcome: Outcome) -> Tried {
    let status = if outcome == Outcome::Taken { 204 } else { 500 };
    Tried { outcome, status: Some(status), body: Some("a\0b".to_owned()), error: None }
}

/// An event of a session, for this webhook.
async fn told(store: &dyn Store, make: &Make, webhook: &Webhook, session: &Session) -> Delivery {
    let tenant = &webhook.tenant_id;
    accepted(store, &message(make, session)).await;
    let to = store.events(tenant).bounds().await.unwrap().1;
    let from = store.webhooks(tenant).seen(&webhook.id).await.unwrap();
    let new = NewDelivery {
        id: make.ids.delivery(),
        event: EventId::of(tenant, to),
        kind: "message.accepted".to_owned(),
        session_id: Some(session.id.clone()),
    };
    let id = new.id.clone();
    assert!(store.webhooks(tenant).fan_out(&webhook.id, from, to, &[new], NOW).await.unwrap());
    deliveries(store, webhook).get(&id).await.unwrap()
}

fn deliveries(store: &dyn Store, webhook: &Webhook) -> Box<dyn Deliveries> {
    store.deliveries(&webhook.tenant_id, &webhook.id)
}

fn ids(deliveries: &[Delivery]) -> Vec<DeliveryId> {
    deliveries.iter().map(|delivery| delivery.id.clone()).collect()
}

async fn webhooks(store: &dyn Store, make: &Make) {
    let tenant = make.stored_tenant(store, "webhooks-ours").await;
    let other = make.stored_tenant(store, "webhooks-theirs").await;
    let (ours, theirs) = (store.webhooks(&tenant), store.webhooks(&other));
    let first = stored_webhook(store, make, &tenant).await;
    assert_eq!(ours.get(&first.id).await.unwrap(), first);
    let second = Webhook { events: Vec::new(), enabled: false, ..webhook(make, &tenant) };
    ours.insert(&second, "sealed", 2).await.unwrap();
    let third = ours.insert(&webhook(make, &tenant), "sealed", 2).await;
    assert!(matches!(third, Err(Error::Conflict { .. })), "no more than that: {third:?}");
    let homeless = webhook(make, &make.ids.tenant());
    let refused = store.webhooks(&homeless.tenant_id).insert(&homeless, "sealed", 2).await;
    assert!(matches!(refused, Err(Error::NotFound { what: "tenant" })));
    let page = ours.list(&PageRequest { limit: 1, after: None }).await.unwrap();
    assert_eq!(page.items, std::slice::from_ref(&first));
    let page = ours.list(&PageRequest { limit: 1, after: page.next_cursor }).await.unwrap();
    assert_eq!((page.items, page.next_cursor), (vec![second.clone()], None));

    let changed = Webhook { url: "https://example.org".to_owned(), events: Vec::new(), updated_at: after(1), ..first };
    let stored = ours.update(&changed).await.unwrap();
    assert_eq!(stored, Webhook { version: 2, ..changed.clone() });
    assert_eq!(ours.get(&stored.id).await.unwrap(), stored);
    assert!(matches!(ours.update(&changed).await, Err(Error::Stale { what: "webhook" })));

    assert!(matches!(theirs.get(&stored.id).await, Err(Error::NotFound { what: "webhook" })), "another tenant's");
    assert!(matches!(theirs.update(&stored).await, Err(Error::NotFound { what: "webhook" })));
    assert!(matches!(theirs.delete(&stored.id).await, Err(Error::NotFound { what: "webhook" })));
    assert!(matches!(theirs.secrets(&stored.id).await, Err(Error::NotFound { what: "webhook" })));
    assert!(matches!(theirs.seen(&stored.id).await, Err(Error::NotFound { what: "webhook" })));
    assert!(matches!(theirs.rotate(&stored.id, "mine", NOW, NOW).await, Err(Error::NotFound { what: "webhook" })));
    assert_eq!(theirs.list(&PageRequest::first()).await.unwrap().items, []);
    ours.delete(&second.id).await.unwrap();
    assert!(matches!(ours.delete(&second.id).await, Err(Error::NotFound { what: "webhook" })));
    assert_eq!(ours.list(&PageRequest::first()).await.unwrap().items, [stored]);
}

async fn secrets(store: &dyn Store, make: &Make) {
    let tenant = make.stored_tenant(store, "webhooks-secrets").await;
    let webhook = stored_webhook(store, make, &tenant).await;
    let webhooks = store.webhooks(&tenant);
    let secrets = webhooks.secrets(&webhook.id).await.unwrap();
    assert_eq!((secrets.current.as_str(), secrets.previous), ("sealed", Vec::new()));
    let rotated = webhooks.rotate(&webhook.id, "second", after(60), after(1)).await.unwrap();
    assert_eq!((rotated.previous_secret_until, rotated.version), (Some(after(60)), 2));
    let previous = async || webhooks.secrets(&webhook.id).await.unwrap().previous;
    assert_eq!(previous().await, [("sealed".to_owned(), after(60))]);
    let rotated = webhooks.rotate(&webhook.id, "third", after(70), after(2)).await.unwrap();
    assert_eq!(rotated.previous_secret_until, Some(after(70)));
    let both = [("sealed".to_owned(), after(60)), ("second".to_owned(), after(70))];
    assert_eq!(previous().await, both, "each until its own end");
    let secrets = webhooks.secrets(&webhook.id).await.unwrap();
    assert_eq!(secrets.current, "third");
    webhooks.rotate(&webhook.id, "fourth", after(80), after(60)).await.unwrap();
    assert_eq!(previous().await, [("second".to_owned(), after(70)), ("third".to_owned(), after(80))], "one is over");
    for more in 0..9 {
        webhooks.rotate(&webhook.id, &format!("more {more}"), after(80), after(60)).await.unwrap();
    }
    assert_eq!(previous().await.len(), 4, "no more than that");
    webhooks.rotate(&webhook.id, "last", after(200), after(100)).await.unwrap();
    assert_eq!(previous().await, [("more 8".to_owned(), after(200))]);
    let all = join_all((0..3).map(|n| webhooks.rotate(&webhook.id, ["a", "b", "c"][n], after(200), after(100)))).await;
    assert!(all.iter().all(Result::is_ok), "{all:?}");
    assert_eq!(previous().await.len(), 4, "none is lost where several do so at the same moment");
    assert!(!format!("{secrets:?}").contains("third"), "not even sealed ones are shown");
}

async fn fan_out(store: &dyn Store, make: &Make) {
    let tenant = make.stored_tenant(store, "webhooks-fan-out").await;
    let session = stored_session(store, make, &tenant, "ada").await;
    let webhook = stored_webhook(store, make, &tenant).await;
    let (webhooks, system) = (store.webhooks(&tenant), store.system("the suite of the store"));
    assert_eq!(webhooks.seen(&webhook.id).await.unwrap(), 1, "what happened before is not told");
    let behind = async |pending_max| {
        let all = system.webhooks_behind(pending_max, 1_000).await.unwrap();
        all.into_iter().any(|(of, id)| of == tenant && id == webhook.id)
    };
    assert!(!behind(10).await);
    for _ in 0..3 {
        accepted(store, &message(make, &session)).await;
    }
    assert!(behind(10).await);
    let brief = store.events(&tenant).brief_after(1, 2).await.unwrap();
    assert_eq!(brief.iter().map(|event| event.id.seq()).collect::<Vec<_>>(), [2, 3]);
    assert_eq!((brief[0].kind.as_str(), &brief[0].session_id), ("message.accepted", &Some(session.id.clone())));
    let new: Vec<_> = brief
        .into_iter()
        .map(|event| NewDelivery {
            id: make.ids.delivery(),
            event: event.id,
            kind: event.kind,
            session_id: event.session_id,
        })
        .collect();
    let both = join_all((0..2).map(|_| webhooks.fan_out(&webhook.id, 1, 3, &new, NOW))).await;
    assert_eq!(both.into_iter().filter(|outcome| *outcome.as_ref().unwrap()).count(), 1, "one of two who do the same");
    assert!(!webhooks.fan_out(&webhook.id, 1, 3, &new, NOW).await.unwrap());
    let listed = deliveries(store, &webhook).list(None, &PageRequest::first()).await.unwrap().items;
    assert_eq!(ids(&listed), [new[1].id.clone(), new[0].id.clone()], "the newest first");
    let expected = Delivery {
        id: new[0].id.clone(),
        tenant_id: tenant.clone(),
        webhook_id: webhook.id.clone(),
        event_id: EventId::of(&tenant, 2),
        kind: "message.accepted".to_owned(),
        session_id: Some(session.id.clone()),
        state: State::Pending,
        attempts: 0,
        next_attempt_at: Some(NOW),
        response_status: None,
        response_body: None,
        error: None,
        replay_of: None,
        created_at: NOW,
        updated_at: NOW,
    };
    assert_eq!(listed[1], expected);
    assert!(behind(3).await && !behind(2).await, "whoever has too much waiting gets no more");
    let page = deliveries(store, &webhook).list(None, &PageRequest { limit: 1, after: None }).await.unwrap();
    let page = PageRequest { limit: 1, after: page.next_cursor };
    assert_eq!(deliveries(store, &webhook).list(None, &page).await.unwrap().items, [expected]);
    // More than go into one statement; and none, which is how it passes over what it does not want.
    let many: Vec<_> = (0..150).map(|_| NewDelivery { id: make.ids.delivery(), ..new[0].clone() }).collect();
    let many: Vec<_> =
        (10..).zip(many).map(|(seq, new)| NewDelivery { event: EventId::of(&tenant, seq), ..new }).collect();
    assert!(webhooks.fan_out(&webhook.id, 3, 200, &many, NOW).await.unwrap());
    assert_eq!(system.webhooks_behind(1_000, 1_000).await.unwrap().iter().filter(|(of, _)| *of == tenant).count(), 0);
    assert!(webhooks.fan_out(&webhook.id, 200, 201, &[], NOW).await.unwrap());

    let off = webhooks.update(&Webhook { enabled: false, updated_at: after(3), ..webhook.clone() }).await.unwrap();
    assert!(!webhooks.fan_out(&webhook.id, 201, 202, &[], NOW).await.unwrap(), "switched off");
    let failed = deliveries(store, &webhook).list(Some(State::Failed), &PageRequest::first()).await.unwrap().items;
    assert_eq!(failed.len(), 152, "what waits is given up");
    assert!(failed[0].error.as_ref().unwrap().contains("switched off") && failed[0].updated_at == after(3));
    webhooks.update(&Webhook { enabled: true, ..off }).await.unwrap();
    let newest = store.events(&tenant).bounds().await.unwrap().1;
    assert_eq!(webhooks.seen(&webhook.id).await.unwrap(), newest, "it begins with what happens from now on");
}

async fn claims(store: &dyn Store, make: &Make) {
    let tenant = make.stored_tenant(store, "webhooks-claims").await;
    let webhook = stored_webhook(store, make, &tenant).await;
    let mut waiting = Vec::new();
    for _ in 0..6 {
        let session = stored_session(store, make, &tenant, "ada").await;
        waiting.push(told(store, make, &webhook, &session).await);
    }
    let ours = deliveries(store, &webhook);
    assert_eq!(ours.claim(NOW.minus(Duration::from_secs(1)), LIFE, 9).await.unwrap(), [], "not due yet");
    // Several who claim at the same moment get different ones.
    let claims = join_all((0..4).map(|_| ours.claim(NOW, LIFE, 2))).await;
    let mut claimed: Vec<Delivery> = claims.into_iter().flat_map(Result::unwrap).collect();
    while claimed.len() < 6 {
        let more = ours.claim(NOW, LIFE, 1).await.unwrap();
        assert_eq!(more.len(), 1, "all of them are claimed once");
        claimed.extend(more);
    }
    claimed.sort_by(|one, other| one.id.cmp(&other.id));
    assert_eq!(ids(&claimed), ids(&waiting));
    assert!(claimed.iter().all(|delivery| delivery.attempts == 1 && delivery.state == State::Pending));
    assert_eq!(ours.claim(after(1), LIFE, 9).await.unwrap(), [], "whoever claimed them has them");
    let system = store.system("the suite of the store");
    let due = async || {
        system
            .webhooks_due(after(1), &PassOver::default(), 1_000)
            .await
            .unwrap()
            .iter()
            .any(|(_, id)| *id == webhook.id)
    };
    assert!(!due().await);

    // One that was not tried comes back as it was; one whose claim ran out, too.
    ours.release(&claimed[0]).await.unwrap();
    assert!(due().await);
    let again = ours.claim(after(1), Duration::ZERO, 9).await.unwrap();
    assert_eq!((ids(&again), again[0].attempts), (vec![waiting[0].id.clone()], 1));
    let stolen = ours.claim(after(1), LIFE, 9).await.unwrap();
    assert_eq!((ids(&stolen), stolen[0].attempts), (vec![waiting[0].id.clone()], 2));
    let late = ours.record(&again[0], &tried(Outcome::Taken), after(2), 0, PATIENCE).await.unwrap();
    assert_eq!(late, Recorded::Lost, "who comes back too late changes nothing");
    ours.release(&again[0]).await.unwrap();
    assert_eq!(ours.get(&waiting[0].id).await.unwrap(), stolen[0]);
    let noted = ours.record(&stolen[0], &tried(Outcome::Taken), after(2), 0, PATIENCE).await.unwrap();
    assert_eq!(noted, Recorded::Noted);
    let twice = ours.record(&stolen[0], &tried(Outcome::Refused(None)), after(3), 0, PATIENCE).await.unwrap();
    assert_eq!(twice, Recorded::Lost, "an end stays");
    let done = ours.get(&waiting[0].id).await.unwrap();
    assert_eq!((done.state, done.next_attempt_at, done.response_status), (State::Succeeded, None, Some(204)));
    assert_eq!((done.response_body.as_deref(), done.updated_at), (Some("a\u{fffd}b"), after(2)));
}

async fn order(store: &dyn Store, make: &Make) {
    let tenant = make.stored_tenant(store, "webhooks-order").await;
    let webhook = stored_webhook(store, make, &tenant).await;
    let (one, two) = (stored_session(store, make, &tenant, "a").await, stored_session(store, make, &tenant, "b").await);
    let first = told(store, make, &webhook, &one).await;
    let second = told(store, make, &webhook, &one).await;
    let third = told(store, make, &webhook, &one).await;
    let beside = told(store, make, &webhook, &two).await;
    let ours = deliveries(store, &webhook);
    let claimed = ours.claim(NOW, LIFE, 9).await.unwrap();
    assert_eq!(ids(&claimed), [first.id.clone(), beside.id.clone()], "the first of each session");
    assert_eq!(ours.claim(NOW, LIFE, 9).await.unwrap(), []);
    ours.record(&claimed[0], &tried(Outcome::Refused(None)), after(1), 0, PATIENCE).await.unwrap();
    assert_eq!(ours.claim(after(2), LIFE, 9).await.unwrap(), [], "it waits for the one before it");
    // One that is done again waits for nobody, and nobody waits for it.
    let replayed = Delivery { id: make.ids.delivery(), replay_of: Some(third.id.clone()), ..third.clone() };
    ours.replay(&replayed).await.unwrap();
    let claimed = ours.claim(after(2), LIFE, 9).await.unwrap();
    assert_eq!(ids(&claimed), std::slice::from_ref(&replayed.id));
    assert_eq!(claimed[0].replay_of, Some(third.id.clone()));

    let claimed = ours.claim(after(10), LIFE, 9).await.unwrap();
    assert_eq!((ids(&claimed), claimed[0].attempts), (vec![first.id], 2));
    ours.record(&claimed[0], &tried(Outcome::Impossible), after(10), 0, PATIENCE).await.unwrap();
    let claimed = ours.claim(after(10), LIFE, 9).await.unwrap();
    assert_eq!(ids(&claimed), [second.id], "given up: the next one may go");
    ours.record(&claimed[0], &tried(Outcome::Taken), after(10), 0, PATIENCE).await.unwrap();
    assert_eq!(ids(&ours.claim(after(10), LIFE, 9).await.unwrap()), [third.id]);
    let lost = Delivery { id: make.ids.delivery(), ..replayed };
    let nowhere = store.deliveries(&tenant, &make.ids.webhook()).replay(&lost).await;
    assert!(nowhere.is_err(), "a webhook that is not there");
}

async fn tries(store: &dyn Store, make: &Make) {
    let tenant = make.stored_tenant(store, "webhooks-tries").await;
    let session = stored_session(store, make, &tenant, "ada").await;
    let webhook = stored_webhook(store, make, &tenant).await;
    let delivery = told(store, make, &webhook, &session).await;
    let ours = deliveries(store, &webhook);
    let mut now = NOW;
    for (number, wait) in (1..).zip(SCHEDULE.iter().skip(1).map(Some).chain([None])) {
        let claimed = ours.claim(now, LIFE, 9).await.unwrap();
        assert_eq!((ids(&claimed), claimed[0].attempts), (vec![delivery.id.clone()], number));
        let refused = Tried { error: Some("the answer was 500".to_owned()), ..tried(Outcome::Refused(None)) };
        assert_eq!(ours.record(&claimed[0], &refused, now, 0, PATIENCE).await.unwrap(), Recorded::Noted);
        let noted = ours.get(&delivery.id).await.unwrap();
        assert_eq!((noted.response_status, noted.error.as_deref()), (Some(500), Some("the answer was 500")));
        if let Some(wait) = wait {
            assert_eq!((noted.state, noted.next_attempt_at), (State::Pending, Some(now.plus(*wait))));
            now = now.plus(*wait);
        } else {
            assert_eq!((noted.state, noted.next_attempt_at, noted.attempts), (State::Failed, None, 8));
        }
    }
    let failing = store.webhooks(&tenant).get(&webhook.id).await.unwrap();
    assert_eq!((failing.failing_since, failing.enabled), (Some(NOW), true));
    told(store, make, &webhook, &session).await;
    let claimed = ours.claim(now, LIFE, 9).await.unwrap();
    ours.record(&claimed[0], &tried(Outcome::Taken), now, 0, PATIENCE).await.unwrap();
    assert_eq!(store.webhooks(&tenant).get(&webhook.id).await.unwrap().failing_since, None, "it works again");
}

async fn giving_up(store: &dyn Store, make: &Make) {
    for (name, outcome, reason) in [
        ("webhooks-failing", Outcome::Refused(None), DisabledReason::Failing),
        ("webhooks-gone", Outcome::Gone, DisabledReason::Gone),
    ] {
        let tenant = make.stored_tenant(store, name).await;
        let session = stored_session(store, make, &tenant, "ada").await;
        let webhook = stored_webhook(store, make, &tenant).await;
        let first = told(store, make, &webhook, &session).await;
        let second = told(store, make, &webhook, &session).await;
        let ours = deliveries(store, &webhook);
        let mut at = NOW.plus(PATIENCE);
        if reason == DisabledReason::Failing {
            let claimed = ours.claim(NOW, LIFE, 9).await.unwrap();
            assert_eq!(ours.record(&claimed[0], &tried(outcome), NOW, 0, PATIENCE).await.unwrap(), Recorded::Noted);
            // The second one after all that time: it has heard little, and two bad moments are not five days.
            for number in 2..8 {
                let now = at.plus(Duration::from_hours(12 * (number - 2)));
                let claimed = ours.claim(now, LIFE, 9).await.unwrap();
                assert_eq!(ids(&claimed), std::slice::from_ref(&first.id), "{number}");
                let recorded = ours.record(&claimed[0], &tried(outcome), now, 0, PATIENCE).await.unwrap();
                assert_eq!(recorded, Recorded::Noted, "{number}");
            }
            at = at.plus(Duration::from_hours(100));
        }
        let claimed = ours.claim(at, LIFE, 9).await.unwrap();
        assert_eq!(ids(&claimed), std::slice::from_ref(&first.id));
        let recorded = ours.record(&claimed[0], &tried(outcome), at, 0, PATIENCE).await.unwrap();
        assert_eq!(recorded, Recorded::Disabled(reason), "{name}");
        let off = store.webhooks(&tenant).get(&webhook.id).await.unwrap();
        assert_eq!((off.enabled, off.disabled_reason, off.version), (false, Some(reason), 2));
        for id in [&first.id, &second.id] {
            assert_eq!(ours.get(id).await.unwrap().state, State::Failed, "{name}");
        }
        let newest = store.events(&tenant).bounds().await.unwrap().1;
        let notice = store.events(&tenant).after(newest - 1, None, 1).await.unwrap().pop().unwrap();
        assert_eq!(notice.kind, "webhook.disabled");
        assert_eq!(notice.data["webhook"]["id"], webhook.id.as_str());
        assert_eq!(notice.data["webhook"]["host"], "example.com");
        assert!(!notice.data.to_string().contains("größe"), "the rest of an address is often a secret");
        let on = Webhook { enabled: true, disabled_reason: None, ..off };
        let on = store.webhooks(&tenant).update(&on).await.unwrap();
        assert_eq!((on.enabled, on.failing_since, on.disabled_reason), (true, None, None), "as if nothing had been");
    }
}

async fn across_tenants(store: &dyn Store, make: &Make) {
    let (ours, theirs) =
        (make.stored_tenant(store, "webhooks-due-ours").await, make.stored_tenant(store, "webhooks-due-theirs").await);
    let mut waiting = Vec::new();
    for tenant in [&ours, &theirs] {
        let session = stored_session(store, make, tenant, "ada").await;
        let webhook = stored_webhook(store, make, tenant).await;
        let delivery = told(store, make, &webhook, &session).await;
        waiting.push((webhook, delivery));
    }
    let system = store.system("the suite of the store");
    let due = system.webhooks_due(NOW, &PassOver::default(), 1_000).await.unwrap();
    for (webhook, _) in &waiting {
        assert_eq!(due.iter().filter(|(_, id)| *id == webhook.id).count(), 1);
    }
    assert_eq!(system.webhooks_due(NOW, &PassOver::default(), 1).await.unwrap().len(), 1);
    let due = async |pass_over: PassOver| {
        let due = system.webhooks_due(NOW, &pass_over, 1_000).await.unwrap();
        let is_due = |webhook: &Webhook| due.iter().any(|(_, id)| *id == webhook.id);
        (is_due(&waiting[0].0), is_due(&waiting[1].0))
    };
    let webhooks = vec![waiting[0].0.id.clone(), make.ids.webhook()];
    assert_eq!(due(PassOver { webhooks, ..PassOver::default() }).await, (false, true), "one that is passed over");
    let tenants = vec![make.ids.tenant(), theirs.clone()];
    assert_eq!(due(PassOver { tenants, ..PassOver::default() }).await, (true, false));
    let served = store.tenants().get(&ours).await.unwrap();
    let suspended = Tenant { status: Status::Suspended, ..served };
    let suspended = store.tenants().update(&suspended).await.unwrap();
    assert_eq!(due(PassOver::default()).await, (false, true), "what is not served waits");
    store.tenants().update(&Tenant { status: Status::Active, ..suspended }).await.unwrap();
    assert_eq!(due(PassOver::default()).await, (true, true));
    let (webhook, delivery) = &waiting[0];
    let foreign = store.deliveries(&theirs, &webhook.id);
    assert_eq!(foreign.claim(NOW, LIFE, 9).await.unwrap(), [], "another tenant's");
    assert!(matches!(foreign.get(&delivery.id).await, Err(Error::NotFound { what: "delivery" })));
    assert_eq!(foreign.list(None, &PageRequest::first()).await.unwrap().items, []);
    let claimed = deliveries(store, webhook).claim(NOW, LIFE, 9).await.unwrap();
    let lost = foreign.record(&claimed[0], &tried(Outcome::Taken), NOW, 0, PATIENCE).await.unwrap();
    assert_eq!(lost, Recorded::Lost);

    let long_ago = NOW.minus(Duration::from_hours(24 * 365));
    deliveries(store, webhook).record(&claimed[0], &tried(Outcome::Taken), long_ago, 0, PATIENCE).await.unwrap();
    assert_eq!(system.delete_deliveries(long_ago.plus(Duration::from_secs(1)), 10).await.unwrap(), 1);
    assert_eq!(system.delete_deliveries(long_ago.plus(Duration::from_secs(1)), 10).await.unwrap(), 0);
    assert!(deliveries(store, webhook).get(&delivery.id).await.is_err());
    assert!(deliveries(store, &waiting[1].0).get(&waiting[1].1.id).await.is_ok(), "what waits stays");
    store.webhooks(&theirs).delete(&waiting[1].0.id).await.unwrap();
    assert!(deliveries(store, &waiting[1].0).get(&waiting[1].1.id).await.is_err(), "and goes with its webhook");
}
