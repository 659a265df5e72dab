//! Webhooks from what happens to the receiver: signed, tried again, in order, never to where only we can reach.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

mod processes;
mod reach;
mod secrets;
mod turns;

use std::time::Duration;

use astrfleet_core::{id::WebhookId, policy::Role, tenant::Tenant};
use astrfleet_server::config::ServerConfig;
use astrfleet_testkit::{
    app::{Caller, TestApp},
    receiver::{Answer, Got, Receiver},
};
use serde_json::{Value, json};

/// A hang is a failure, not a wait for ever.
const PATIENCE: Duration = Duration::from_mins(1);

struct World {
    test: TestApp,
    acme: Tenant,
    owner: Caller,
    receiver: Receiver,
}

/// As it is where receivers are on this machine.
fn open(config: &mut ServerConfig) {
    config.webhooks.allow_http = true;
    config.webhooks.allow_private = true;
}

impl World {
    async fn new() -> Self {
        Self::configured(open).await
    }

    async fn configured(change: impl FnOnce(&mut ServerConfig)) -> Self {
        let test = TestApp::configured(change).await;
        test.app.manager.set_llm_base_url("http://127.0.0.1:1/llm/v1".to_owned());
        let acme = test.tenant("acme").await;
        let owner = test.member(&acme, Role::Owner).await;
        Self { test, acme, owner, receiver: Receiver::start().await }
    }

    /// With everything running.
    async fn started(self) -> Self {
        self.test.app.start_loops();
        self.test.app.manager.wait_ready(&self.acme.id, PATIENCE).await.unwrap();
        self
    }

    async fn webhook(&self, body: Value) -> Value {
        self.test.post(&self.owner, "/tenants/acme/webhooks", body).await.expect(201).json
    }

    async fn session(&self) -> String {
        let made = self.test.post(&self.owner, "/tenants/acme/sessions", json!({"end_user": "ada"})).await.expect(201);
        made.json["id"].as_str().unwrap().to_owned()
    }

    async fn close(&self, session: &str) {
        self.test.post(&self.owner, &format!("/tenants/acme/sessions/{session}/close"), json!({})).await.expect(200);
    }

    async fn ask(&self, session: &str, text: &str) {
        let path = format!("/tenants/acme/sessions/{session}/messages");
        self.test.post(&self.owner, &path, json!({"text": text})).await.expect(200);
    }

    async fn deliveries(&self, webhook: &Value) -> Vec<Value> {
        let path = format!("/tenants/acme/webhooks/{}/deliveries?limit=200", webhook["id"].as_str().unwrap());
        let page = self.test.get(&self.owner, &path).await.expect(200).json;
        page["items"].as_array().unwrap().clone()
    }

    /// Waits until a delivery is as a test wants it. Returns them all.
    async fn until(&self, webhook: &Value, condition: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        let waited = async {
            loop {
                let deliveries = self.deliveries(webhook).await;
                if condition(&deliveries) {
                    return deliveries;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let Ok(deliveries) = tokio::time::timeout(PATIENCE, waited).await else {
            panic!("it never came so far: {:#?}", self.deliveries(webhook).await);
        };
        deliveries
    }

    /// What the platform itself did, by the tenant's audit log: written after it was done.
    async fn noted(&self) -> Value {
        let waited = async {
            loop {
                let log = self.test.get(&self.owner, "/tenants/acme/audit-log").await.expect(200);
                if let Some(entry) =
                    log.json["items"].as_array().unwrap().iter().find(|entry| entry["actor"] == "system")
                {
                    return entry.clone();
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, waited).await.expect("an entry of the platform's")
    }
}

fn kinds(got: &[Got]) -> Vec<&str> {
    got.iter().map(|got| got.json["type"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_receiver_is_told_what_happens_and_can_check_who_says_so() {
    let world = World::new().await.started().await;
    let before = world.session().await;
    let webhook = world.webhook(json!({"url": world.receiver.url(), "description": "shop"})).await;
    let replies = Receiver::start().await;
    world.webhook(json!({"url": replies.url(), "events": ["reply.done"]})).await;
    let secret = webhook["secret"].as_str().unwrap();
    assert!(secret.starts_with("whsec_"));
    world.ask(&before, "Hi").await;
    let got = world.receiver.wait_for(2).await;
    assert_eq!(kinds(&got), ["message.accepted", "reply.done"], "not what happened before there was a webhook");
    assert_eq!(got[1].json["data"]["message"]["text"], "You said: Hi");
    for got in &got {
        assert_eq!(got.id, got.json["id"].as_str().unwrap());
        assert_eq!(got.timestamp, world.test.app.clock.now().seconds().to_string());
        assert_eq!((got.signatures.len(), got.path.as_str()), (1, "/hook"));
        assert!(got.is_signed_with(secret));
        assert!(!got.is_signed_with("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"));
    }
    assert_eq!(kinds(&replies.wait_for(1).await), ["reply.done"], "only what it asked for");
    let done = world.until(&webhook, |all| all.iter().all(|delivery| delivery["state"] == "succeeded")).await;
    assert_eq!(done.len(), 2);
    assert_eq!((&done[0]["attempts"], &done[0]["response_status"]), (&json!(1), &json!(204)));
    assert_eq!(done[0]["event_id"], got[1].id.as_str());

    let shown =
        world.test.get(&world.owner, &format!("/tenants/acme/webhooks/{}", webhook["id"].as_str().unwrap())).await;
    assert!(shown.json["secret"].is_null() && !shown.text.contains("whsec_"), "it is shown once: {}", shown.text);
    let id = WebhookId::parse(webhook["id"].as_str().unwrap()).unwrap();
    let sealed = world.test.app.store.webhooks(&world.acme.id).secrets(&id).await.unwrap();
    assert!(!sealed.current.contains(&secret[6..20]), "and not stored as it is");
    let audit = world.test.get(&world.owner, "/tenants/acme/audit-log").await.expect(200);
    assert!(audit.text.contains("webhook.manage") && !audit.text.contains("whsec_"), "{}", audit.text);
}

#[tokio::test]
async fn what_is_not_taken_is_sent_again_and_what_comes_after_it_waits() {
    let world = World::new().await.started().await;
    let webhook = world.webhook(json!({"url": world.receiver.url()})).await;
    world.receiver.next([Answer::Status(500, "no\u{1b}[2J room".to_owned()), Answer::Later(503, 60)]);
    let session = world.session().await;
    world
        .until(&webhook, |all| all.first().is_some_and(|first| first["attempts"] == 1 && first["error"].is_string()))
        .await;
    world.close(&session).await;
    let other = world.session().await;
    world.receiver.wait_for(2).await;
    let all = world.until(&webhook, |all| all.len() == 3 && all[0]["error"].is_string()).await;
    assert_eq!(all[0]["session_id"], other.as_str(), "another session does not wait");
    assert_eq!((&all[1]["type"], &all[1]["attempts"]), (&json!("session.closed"), &json!(0)), "it waits for the first");
    assert_eq!(
        (&all[2]["response_status"], &all[2]["error"]),
        (&json!(500), &json!("the answer was 500 Internal Server Error"))
    );
    assert_eq!(all[2]["response_body"], "no [2J room", "what a receiver says steers no terminal");
    let at = |delivery: &Value| delivery["next_attempt_at"].as_str().unwrap().to_owned();
    let now = world.test.app.clock.now();
    let (five, sixty) = (now.plus(Duration::from_secs(5)), now.plus(Duration::from_mins(1)));
    assert!((five.to_string()..now.plus(Duration::from_secs(6)).to_string()).contains(&at(&all[2])), "{}", all[2]);
    assert_eq!(at(&all[0]), sixty.to_string(), "the receiver asked for a minute");
    let path = format!(
        "/tenants/acme/webhooks/{}/deliveries/{}/replay",
        webhook["id"].as_str().unwrap(),
        all[2]["id"].as_str().unwrap()
    );
    world.test.post(&world.owner, &path, json!({})).await.expect(409);

    world.test.advance(Duration::from_secs(6));
    let got = world.receiver.wait_for(4).await;
    assert_eq!(kinds(&got), ["session.opened", "session.opened", "session.opened", "session.closed"]);
    assert_eq!((&got[0].id, &got[0].body), (&got[2].id, &got[2].body), "the same again, under the same id");
    let all = world.until(&webhook, |all| all[1]["state"] == "succeeded").await;
    assert_eq!((&all[2]["state"], &all[2]["attempts"]), (&json!("succeeded"), &json!(2)));

    let replayed = world.test.post(&world.owner, &path, json!({})).await.expect(202).json;
    assert_eq!(replayed["replay_of"], all[2]["id"]);
    let got = world.receiver.wait_for(5).await;
    assert_eq!(got[4].id, got[0].id);
    world.until(&webhook, |all| all[0]["state"] == "succeeded" && all[0]["id"] == replayed["id"]).await;
    let failed = format!("/tenants/acme/webhooks/{}/deliveries?state=failed", webhook["id"].as_str().unwrap());
    assert_eq!(world.test.get(&world.owner, &failed).await.expect(200).json["items"], json!([]));
}

#[tokio::test]
async fn a_webhook_that_takes_nothing_for_five_days_is_switched_off_and_it_is_said_so() {
    let mut world = World::new().await.started().await;
    world.receiver.always(Answer::Status(500, String::new()));
    let webhook =
        world.webhook(json!({"url": world.receiver.url(), "events": ["session.opened", "session.closed"]})).await;
    let path = format!("/tenants/acme/webhooks/{}", webhook["id"].as_str().unwrap());
    world.session().await;
    world.until(&webhook, |all| all.first().is_some_and(|first| first["error"].is_string())).await;
    let since = world.test.get(&world.owner, &path).await.expect(200).json["failing_since"].clone();
    // A new one each half day, which is tried, and fails.
    for days in 1..=9 {
        world.test.advance(Duration::from_hours(12));
        world.owner = world.test.log_in(world.owner.user.clone().unwrap()).await;
        let shown = world.test.get(&world.owner, &path).await.expect(200).json;
        assert_eq!((&shown["enabled"], &shown["failing_since"]), (&json!(true), &since), "after {days} half days");
        world.session().await;
        world.until(&webhook, |all| all.len() == 1 + days && all[0]["error"].is_string()).await;
    }
    world.test.advance(Duration::from_hours(12));
    world.owner = world.test.log_in(world.owner.user.clone().unwrap()).await;
    world.session().await;
    world.until(&webhook, |all| all.iter().all(|delivery| delivery["state"] == "failed")).await;
    let shown = world.test.get(&world.owner, &path).await.expect(200).json;
    assert_eq!(shown["enabled"], false);
    let owner = world.owner.clone();
    assert_eq!(shown["disabled_reason"], "failing");
    let events = world.test.app.store.events(&world.acme.id);
    let newest = events.bounds().await.unwrap().1;
    let told = events.after(0, None, 200).await.unwrap();
    let notice =
        told.iter().find(|event| event.kind == "webhook.disabled").unwrap_or_else(|| panic!("none of {newest}"));
    assert_eq!(notice.data["webhook"]["host"], "127.0.0.1");
    assert!(!notice.data.to_string().contains("/hook"), "the address may hold a secret: {}", notice.data);
    let entry = world.noted().await;
    assert_eq!((&entry["action"], &entry["detail"]["reason"]), (&json!("webhook.manage"), &json!("failing")));
    let deliveries = world.test.get(&owner, &format!("{path}/deliveries?state=pending")).await.expect(200);
    assert_eq!(deliveries.json["items"], json!([]), "nothing waits any more");

    let before = world.receiver.got().len();
    world.receiver.always(Answer::Status(200, String::new()));
    world.test.patch(&owner, &path, json!({"enabled": true})).await.expect(200);
    let made = world.test.post(&owner, "/tenants/acme/sessions", json!({"end_user": "ada"})).await.expect(201);
    let got = world.receiver.wait_for(before + 1).await;
    assert_eq!(got[before].json["session_id"], made.json["id"], "it begins anew");
}

#[tokio::test]
async fn what_cannot_be_a_webhook_is_refused() {
    let world = World::configured(|config| config.webhooks.max_per_tenant = 2).await;
    let path = "/tenants/acme/webhooks";
    for (field, body) in [
        ("url", json!({"url": ""})),
        ("url", json!({"url": "http://example.com/"})),
        ("url", json!({"url": "https://user:secret@example.com/"})),
        ("url", json!({"url": "https://localhost:0/"})),
        ("body", json!({"url": "https://example.com/", "events": ["everything"]})),
        ("description", json!({"url": "https://example.com/", "description": "x".repeat(201)})),
        ("description", json!({"url": "https://example.com/", "description": "a\u{0}b"})),
        ("body", json!({"url": "https://example.com/", "secret": "mine"})),
    ] {
        let refused = world.test.post(&world.owner, path, body.clone()).await.expect(400);
        assert_eq!(refused.json["field"], field, "{body}: {}", refused.text);
    }
    for _ in 0..2 {
        world.webhook(json!({"url": "https://example.com/", "events": ["reply.done", "reply.done"]})).await;
    }
    world.test.post(&world.owner, path, json!({"url": "https://example.com/"})).await.expect(409);
    let listed = world.test.get(&world.owner, path).await.expect(200).json;
    assert_eq!(listed["items"][0]["events"], json!(["reply.done"]));
    let id = listed["items"][0]["id"].as_str().unwrap();
    let seen = world.test.get(&world.owner, &format!("{path}/{id}")).await.expect(200);
    let change = json!({"description": "other"});
    let stale = [("if-match", "\"77\"")];
    let method = axum::http::Method::PATCH;
    world
        .test
        .send(method.clone(), &world.owner, &format!("{path}/{id}"), Some(change.clone()), &stale)
        .await
        .expect(412);
    let fresh = [("if-match", seen.header("etag"))];
    let changed =
        world.test.send(method, &world.owner, &format!("{path}/{id}"), Some(change), &fresh).await.expect(200);
    assert_eq!(changed.json["description"], "other");
    world.test.delete(&world.owner, &format!("{path}/{id}")).await.expect(204);
    world.test.get(&world.owner, &format!("{path}/{id}")).await.expect(404);
    world.test.get(&world.owner, &format!("{path}/{id}/deliveries")).await.expect(404);
    let theirs = world.test.tenant("globex").await;
    let stranger = world.test.member(&theirs, Role::Owner).await;
    let other = listed["items"][1]["id"].as_str().unwrap();
    world.test.get(&stranger, &format!("/tenants/globex/webhooks/{other}")).await.expect(404);
}
