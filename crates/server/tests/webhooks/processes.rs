//! Several processes tell the same receivers.

use std::sync::Arc;

use astrfleet_core::{
    event::{Kind, NewEvent},
    id::{EventId, TenantId, WebhookId},
    ports::Store,
};
use astrfleet_server::{
    events::{Heard, Seen, Tail},
    role::Role as Part,
};
use astrfleet_testkit::{
    app::TestApp,
    contract::store as contract,
    watched::{Eyes, WatchedStore},
};
use serde_json::{Value, json};

use super::{PATIENCE, World, kinds};

#[tokio::test]
async fn two_processes_tell_each_thing_once_and_each_session_in_order() {
    let world = World::new().await.started().await;
    let webhook = world.webhook(json!({"url": world.receiver.url()})).await;
    let other = world.test.restarted().await;
    other.app.start_loops();
    let mut followers = Vec::new();
    for process in [&world.test, &other] {
        followers.push(process.app.events.follow(&world.acme.id, None, Some(Seen::Nothing)).await.unwrap());
    }
    let mut sessions = Vec::new();
    for _ in 0..6 {
        sessions.push(world.session().await);
    }
    for session in &sessions {
        world.ask(session, "Hi").await;
        world.close(session).await;
    }
    let done = |all: &[Value]| all.len() == 24 && all.iter().all(|delivery| delivery["state"] == "succeeded");
    let all = world.until(&webhook, done).await;
    assert!(all.iter().all(|delivery| delivery["attempts"] == 1), "{all:#?}");
    let got = world.receiver.got();
    assert_eq!(got.len(), 24, "each once");
    for session in &sessions {
        let of: Vec<_> = got.iter().filter(|got| got.json["session_id"] == session.as_str()).cloned().collect();
        assert_eq!(kinds(&of), ["session.opened", "message.accepted", "reply.done", "session.closed"]);
    }
    assert!(got.iter().all(|got| got.at_once <= 8), "no more at once than may be");
    for mut follower in followers {
        let expected: Vec<_> = (1..=24).map(|seq| EventId::of(&world.acme.id, seq)).collect();
        assert_eq!(heard(&mut follower, 24).await, expected, "each once and in order");
    }
}

async fn heard(tail: &mut Tail, count: usize) -> Vec<EventId> {
    let mut heard = Vec::new();
    while heard.len() < count {
        match tokio::time::timeout(PATIENCE, tail.next()).await.expect("it goes on") {
            Heard::Event(event) => heard.push(event.id.clone()),
            other => panic!("something is missing, or it ends: {other:?}"),
        }
    }
    heard
}

#[tokio::test]
async fn what_happens_while_two_processes_move_a_webhook_on_is_told() {
    let world = World::new().await;
    let webhook = world.webhook(json!({"url": world.receiver.url()})).await;
    let id = WebhookId::parse(webhook["id"].as_str().unwrap()).unwrap();
    let eyes = Eyes::default();
    let slow = world
        .test
        .beside(Part::ALL, |ports, _| {
            let inner = Arc::clone(&ports.store);
            ports.store = Arc::new(WatchedStore { inner, eyes: eyes.clone() });
        })
        .await;
    let tell = async |store: &dyn Store, tenant: &TenantId| {
        let data = json!({"webhook": {}});
        let event =
            NewEvent { kind: Kind::WebhookDisabled, session_id: None, message_id: None, data, at: contract::NOW };
        store.events(tenant).append(&event).await.unwrap();
    };
    tell(&world.test.store, &world.acme.id).await;
    let first = world.test.store.webhooks(&world.acme.id).seen(&id).await.unwrap() + 1;

    // The slow one finds the webhook behind. Then the other one moves it on, the slow one finds no more events, and then
    // there is one more.
    let (store, tenant, of) = (world.test.store.clone(), world.acme.id.clone(), id.clone());
    eyes.before("webhooks.seen", async move {
        let told = store.webhooks(&tenant).fan_out(&of, first - 1, first, &[], contract::NOW).await;
        assert!(told.unwrap());
    });
    let (store, tenant) = (world.test.store.clone(), world.acme.id.clone());
    eyes.after("events.brief_after", async move { tell(&store, &tenant).await });
    let fan_out = async |of: &TestApp| {
        let job = astrfleet_server::webhook::loops(&of.app).into_iter().find(|job| job.name == "webhook.fan_out");
        (job.unwrap().run)().await.unwrap()
    };
    assert_eq!(fan_out(&slow).await, 0, "what the other one did");
    assert_eq!((eyes.calls("webhooks.seen"), eyes.calls("events.brief_after")), (1, 1), "it came so far");
    assert_eq!(world.test.store.webhooks(&world.acme.id).seen(&id).await.unwrap(), first, "it has seen no more");
    assert_eq!(fan_out(&world.test).await, 1);
    let deliveries = world.deliveries(&webhook).await;
    assert_eq!(deliveries.len(), 1, "the one that came in between: {deliveries:#?}");
}
