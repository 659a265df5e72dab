//! The bridge and the people who answer in its stead, through the real router. The plugin itself, in real bots, is walked
//! through in the journeys.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::time::Duration;

use astrfleet_core::{
    policy::Role,
    ports::{BusEvent, Clock, Store},
    tenant::Tenant,
};
use astrfleet_testkit::app::{Answer, Caller, TestApp};
use futures_util::StreamExt;
use serde_json::{Value, json};

const UMO: &str = "tg1:FriendMessage:7";

/// A tenant whose bot is ready, its bridge, and an agent.
async fn ready(app: &TestApp, name: &str) -> (Tenant, Caller, Caller) {
    let tenant = app.tenant(name).await;
    let agent = app.member(&tenant, Role::Agent).await;
    app.app.manager.set_llm_base_url("http://127.0.0.1:1/llm/v1".to_owned());
    app.app.start_loops();
    app.app.manager.wait_ready(&tenant.id, Duration::from_mins(1)).await.unwrap();
    let bridge = bridge(app, &tenant).await;
    (tenant, bridge, agent)
}

async fn bridge(app: &TestApp, tenant: &Tenant) -> Caller {
    let instance = app.instance(tenant).await;
    let token = app.app.secrets.bridge_token(&instance.id, instance.secrets_version).unwrap();
    Caller { user: None, credential: Some(token) }
}

fn inbound(number: &str, delivery: &str, text: &str) -> Value {
    json!({"channel": "tg1", "umo": UMO, "platform_message_id": number, "delivery": delivery, "start": 1,
        "sender": {"id": "7", "name": "ann"}, "text": text, "addressed": true})
}

fn outbound(number: &str, generation: &Value) -> Value {
    json!({"umo": UMO, "platform_message_id": number, "generation": generation})
}

fn sent(number: &str, told: &str, outcome: &str, text: &str) -> Value {
    json!({"umo": UMO, "platform_message_id": number, "told_id": told, "outcome": outcome, "text": text})
}

async fn ask(app: &TestApp, bridge: &Caller, what: &str, body: Value) -> Answer {
    app.post(bridge, &format!("//bridge/v1/{what}"), body).await
}

async fn told(app: &TestApp, bridge: &Caller, what: &str, body: Value) -> Value {
    ask(app, bridge, what, body).await.expect(200).json
}

/// The path of the newest session of the channel, and everything in it.
async fn history(app: &TestApp, agent: &Caller, tenant: &Tenant) -> (String, Vec<Value>) {
    let sessions = app.get(agent, &format!("/tenants/{}/sessions?end_user=7", tenant.name)).await.expect(200).json;
    let id = sessions["items"][0]["id"].as_str().unwrap().to_owned();
    let path = format!("/tenants/{}/sessions/{id}", tenant.name);
    let messages = app.get(agent, &format!("{path}/messages")).await.expect(200).json;
    (path, messages["items"].as_array().unwrap().clone())
}

#[tokio::test]
async fn a_message_is_stored_once_and_answered_once() {
    let app = TestApp::new().await;
    let (tenant, bridge, agent) = ready(&app, "acme").await;
    let first = told(&app, &bridge, "inbound", inbound("1", "1-a", "Hi")).await;
    assert_eq!(first["verdict"], "answer", "{first}");
    let again = told(&app, &bridge, "inbound", inbound("1", "1-a", "Hi")).await;
    assert_eq!(again, first, "asked again");
    let redelivered = told(&app, &bridge, "inbound", inbound("1", "1-b", "Hi")).await;
    assert_eq!((&redelivered["verdict"], &redelivered["reason"]), (&json!("drop"), &json!("duplicate")));
    assert_eq!(redelivered["message_id"], first["message_id"]);
    let may = told(&app, &bridge, "outbound", outbound("1", &first["generation"])).await;
    assert_eq!(may, json!({"send": true}));
    let mut answer = sent("1", "a", "sent", "You said: Hi");
    answer["usage"] = json!({"prompt_tokens": 3, "completion_tokens": 4});
    let noted = told(&app, &bridge, "sent", answer.clone()).await;
    assert_eq!(told(&app, &bridge, "sent", answer).await, noted, "told again");
    let (_, messages) = history(&app, &agent, &tenant).await;
    assert_eq!(messages.len(), 2, "{messages:?}");
    assert_eq!((&messages[0]["state"], &messages[0]["sender"]["name"]), (&json!("done"), &json!("ann")));
    assert_eq!((&messages[1]["id"], &messages[1]["reply_to"]), (&noted["message_id"], &messages[0]["id"]));
    assert_eq!(messages[1]["usage"], json!({"prompt_tokens": 3, "completion_tokens": 4}));

    // A model that failed is no answer, however the bot puts it.
    let _ = told(&app, &bridge, "inbound", inbound("2", "1-c", "And now?")).await;
    let failed = app.app.secrets.failure_text().unwrap();
    let _ = told(&app, &bridge, "sent", sent("2", "b", "sent", &failed)).await;
    let _ = told(&app, &bridge, "inbound", inbound("3", "1-d", "Well?")).await;
    let _ = told(&app, &bridge, "sent", sent("3", "c", "nothing", "")).await;
    let (_, messages) = history(&app, &agent, &tenant).await;
    let codes: Vec<_> = messages.iter().filter_map(|message| message["failure"]["code"].as_str()).collect();
    assert_eq!((messages.len(), codes), (4, vec!["model_failed", "no_answer"]));
}

#[tokio::test]
async fn a_token_is_good_for_its_own_tenant_and_for_the_bridge_alone() {
    let app = TestApp::new().await;
    let (acme, ours, _) = ready(&app, "acme").await;
    let globex = app.tenant("globex").await;
    let theirs = bridge(&app, &globex).await;
    let _ = told(&app, &ours, "inbound", inbound("1", "1-a", "ours")).await;
    assert_eq!(ask(&app, &theirs, "outbound", outbound("1", &json!(0))).await.status, 404);
    assert_eq!(ask(&app, &theirs, "sent", sent("1", "a", "sent", "theirs")).await.status, 404);
    let own = told(&app, &theirs, "inbound", inbound("1", "1-a", "theirs")).await;
    assert_eq!(own["verdict"], "answer", "the same number elsewhere is another message");

    let instance = app.instance(&acme).await;
    let key = app.app.secrets.llm_key(&instance.id, instance.secrets_version).unwrap();
    let old = app.app.secrets.bridge_token(&instance.id, instance.secrets_version + 1).unwrap();
    for credential in [key, old] {
        let caller = Caller { user: None, credential: Some(credential) };
        assert_eq!(ask(&app, &caller, "inbound", inbound("2", "1-b", "x")).await.status, 401);
    }
    for path in ["/tenants/acme/sessions", "/tenants/acme/instance", "/auth/me", "//llm/v1/models"] {
        assert_eq!(app.get(&ours, path).await.status, 401, "{path}");
    }
}

#[tokio::test]
async fn a_person_takes_over_and_hands_back() {
    let app = TestApp::new().await;
    let (tenant, bridge, agent) = ready(&app, "acme").await;
    let asked = told(&app, &bridge, "inbound", inbound("1", "1-a", "a hard one")).await;
    let (path, _) = history(&app, &agent, &tenant).await;
    let say = json!({"text": "This is Mia."});
    let early = app.post(&agent, &format!("{path}/messages"), say.clone()).await.expect(409);
    assert!(early.json["detail"].as_str().unwrap().contains("take-over"), "{}", early.text);
    let _ = app.post(&agent, &format!("{path}/take-over"), json!({})).await.expect(200);
    let _ = app.post(&agent, &format!("{path}/take-over"), json!({})).await.expect(409);
    let late = told(&app, &bridge, "outbound", outbound("1", &asked["generation"])).await;
    assert_eq!(late, json!({"send": false, "reason": "handed_over"}));
    let held = told(&app, &bridge, "inbound", inbound("2", "1-b", "hello?")).await;
    assert_eq!((&held["verdict"], &held["reason"]), (&json!("hold"), &json!("person")));

    let said = app.post(&agent, &format!("{path}/messages"), say).await.expect(200).json;
    assert_eq!((&said["message"]["author"], &said["message"]["state"]), (&json!("agent"), &json!("done")));
    assert_eq!(app.bots.said(), [(UMO.to_owned(), "This is Mia.".to_owned())]);
    app.bots.set_ready(false);
    let lost = app.post(&agent, &format!("{path}/messages"), json!({"text": "Lost."})).await.expect(200).json;
    assert_eq!(lost["message"]["failure"]["code"], "not_sent", "{lost}");
    app.bots.set_ready(true);

    let back = app.post(&agent, &format!("{path}/hand-back"), json!({})).await.expect(200).json;
    assert_eq!((&back["state"], &back["generation"]), (&json!("bot"), &json!(2)));
    let _ = app.post(&agent, &format!("{path}/hand-back"), json!({})).await.expect(409);
    let late = told(&app, &bridge, "outbound", outbound("1", &asked["generation"])).await;
    assert_eq!(late["send"], false, "of another time");
    let next = told(&app, &bridge, "inbound", inbound("3", "1-c", "and now?")).await;
    assert_eq!((&next["verdict"], &next["generation"]), (&json!("answer"), &json!(2)));
    let _ = app.post(&agent, &format!("{path}/close"), json!({})).await.expect(200);
    let late = told(&app, &bridge, "outbound", outbound("3", &next["generation"])).await;
    assert_eq!(late, json!({"send": false, "reason": "closed"}));
    let log = app.get(&app.admin().await, "/tenants/acme/audit-log").await.expect(200).json;
    let did: Vec<_> =
        log["items"].as_array().unwrap().iter().filter_map(|entry| entry["detail"]["did"].as_str()).collect();
    assert_eq!(did, ["hand_back", "take_over"]);
}

#[tokio::test]
async fn what_may_not_be_answered_is_dropped() {
    let app = TestApp::configured(|config| {
        config.plans.get_mut("free").unwrap().messages_per_day = 1;
        config.bridge.calls_per_minute = 9;
    })
    .await;
    let (tenant, bridge, agent) = ready(&app, "acme").await;
    assert_eq!(told(&app, &bridge, "inbound", inbound("1", "1-a", "one")).await["verdict"], "answer");
    assert_eq!(
        told(&app, &bridge, "inbound", inbound("1", "1-a", "one")).await["verdict"],
        "answer",
        "not counted twice"
    );
    let second = told(&app, &bridge, "inbound", inbound("2", "1-b", "two")).await;
    assert_eq!((&second["verdict"], &second["reason"]), (&json!("drop"), &json!("quota_exceeded")));
    let (_, messages) = history(&app, &agent, &tenant).await;
    assert_eq!(
        (&messages[1]["state"], &messages[1]["text"]),
        (&json!("blocked"), &json!("two")),
        "a person may see it"
    );
    let stopped = messages[0]["id"].as_str().unwrap();
    let (path, _) = history(&app, &agent, &tenant).await;
    let _ = app.post(&agent, &format!("{path}/messages/{stopped}/stop"), json!({})).await.expect(200);
    assert_eq!(told(&app, &bridge, "outbound", outbound("1", &json!(0))).await["reason"], "ended");

    let _ = app.post(&app.admin().await, "/tenants/acme/suspend", json!({})).await.expect(200);
    let third = told(&app, &bridge, "inbound", inbound("3", "1-c", "three")).await;
    assert_eq!((&third["verdict"], &third["reason"]), (&json!("drop"), &json!("tenant_not_served")));
    assert!(third["message_id"].is_null(), "nothing of it is kept");
    for _ in 0..9 {
        let _ = ask(&app, &bridge, "outbound", outbound("1", &json!(0))).await;
    }
    let limited = ask(&app, &bridge, "outbound", outbound("1", &json!(0))).await;
    assert_eq!((limited.status, limited.header("retry-after").is_empty()), (429, false));
}

#[tokio::test]
async fn whom_a_tenant_has_blocked_is_dropped() {
    let app = TestApp::new().await;
    let (tenant, bridge, agent) = ready(&app, "acme").await;
    let _ = told(&app, &bridge, "inbound", inbound("1", "1-a", "hello")).await;
    let blocked = app.post(&agent, "/tenants/acme/blocklist", json!({"end_user": "7", "channel": "tg1"})).await;
    assert_eq!(blocked.status, 201, "{}", blocked.text);
    let dropped = told(&app, &bridge, "inbound", inbound("2", "1-b", "insults")).await;
    assert_eq!((&dropped["verdict"], &dropped["reason"]), (&json!("drop"), &json!("blocked")));
    let (_, messages) = history(&app, &agent, &tenant).await;
    assert_eq!(messages.len(), 1, "nothing of it is kept: {messages:?}");
    let mut other = inbound("3", "1-c", "somebody else");
    other["sender"]["id"] = json!("8");
    assert_eq!(told(&app, &bridge, "inbound", other).await["verdict"], "answer");
}

#[tokio::test]
async fn what_is_told_later_is_told_as_it_was() {
    let app = TestApp::new().await;
    let (tenant, bridge, agent) = ready(&app, "acme").await;
    let late = |number: &str, how: &str| {
        let mut body = inbound(number, &format!("1-{number}"), how);
        body["late"] = json!(how);
        body["received_at_ms"] = json!(1);
        body
    };
    assert_eq!(told(&app, &bridge, "inbound", late("1", "answered")).await["verdict"], "answer");
    let _ = told(&app, &bridge, "sent", sent("1", "a", "sent", "by myself")).await;
    assert_eq!(told(&app, &bridge, "inbound", late("2", "silent")).await["verdict"], "drop");
    let (path, messages) = history(&app, &agent, &tenant).await;
    let seen: Vec<_> = messages.iter().map(|message| (&message["text"], &message["state"])).collect();
    assert_eq!(
        seen,
        [
            (&json!("answered"), &json!("done")),
            (&json!("by myself"), &json!("done")),
            (&json!("silent"), &json!("failed"))
        ]
    );
    // What a bot has said is stored, whoever answers by now.
    let _ = app.post(&agent, &format!("{path}/take-over"), json!({})).await.expect(200);
    let _ = told(&app, &bridge, "inbound", late("3", "answered")).await;
    let _ = told(&app, &bridge, "sent", sent("3", "b", "sent", "by myself again")).await;
    let (_, messages) = history(&app, &agent, &tenant).await;
    assert_eq!(messages.last().unwrap()["text"], "by myself again");
}

/// By a timer, or of a bot's own accord: fenced as an answer, and stored.
#[tokio::test]
async fn what_a_bot_says_by_itself_is_fenced_and_stored() {
    let app = TestApp::new().await;
    let (tenant, bridge, agent) = ready(&app, "acme").await;
    let may = json!({"umo": UMO});
    assert_eq!(ask(&app, &bridge, "outbound", may.clone()).await.status, 404, "a conversation that nobody knows");
    let asked = told(&app, &bridge, "inbound", inbound("1@a", "1-a", "remind me")).await;
    assert_eq!(told(&app, &bridge, "outbound", may.clone()).await, json!({"send": true}));
    let _ = told(&app, &bridge, "sent", sent("1@a", "a", "sent", "I will")).await;
    let said = json!({"umo": UMO, "told_id": "b", "outcome": "sent", "text": "it is noon"});
    let noted = told(&app, &bridge, "sent", said.clone()).await;
    assert_eq!(told(&app, &bridge, "sent", said).await, noted, "told again");
    let failed =
        json!({"umo": UMO, "told_id": "c", "outcome": "sent", "text": app.app.secrets.failure_text().unwrap()});
    assert_eq!(told(&app, &bridge, "sent", failed).await, json!({}), "no word of the bot's");
    let (path, messages) = history(&app, &agent, &tenant).await;
    let seen: Vec<_> = messages.iter().map(|message| message["text"].as_str().unwrap()).collect();
    assert_eq!(seen, ["remind me", "I will", "it is noon"], "{messages:?}");
    assert_eq!((&messages[2]["id"], messages[2].get("reply_to")), (&noted["message_id"], None));

    let another = told(&app, &bridge, "inbound", inbound("1@b", "1-b", "of another account")).await;
    assert_eq!(another["verdict"], "answer", "the same number, of another account: {another}");
    assert_ne!(another["message_id"], asked["message_id"]);

    let _ = app.post(&agent, &format!("{path}/take-over"), json!({})).await.expect(200);
    let held = told(&app, &bridge, "outbound", may.clone()).await;
    assert_eq!(held, json!({"send": false, "reason": "handed_over"}));
    let _ = app.post(&agent, &format!("{path}/close"), json!({})).await.expect(200);
    let closed = told(&app, &bridge, "outbound", may).await;
    assert_eq!(closed, json!({"send": false, "reason": "closed"}));
    for wrong in [
        ("outbound", json!({"umo": UMO, "generation": 1})),
        ("sent", json!({"umo": UMO, "told_id": "d", "outcome": "nothing"})),
    ] {
        assert_eq!(ask(&app, &bridge, wrong.0, wrong.1).await.status, 400);
    }
}

#[tokio::test]
async fn bad_input_is_named() {
    let app = TestApp::new().await;
    let (_, bridge, _) = ready(&app, "acme").await;
    for (change, field) in [
        (json!({"channel": "webchat", "umo": "webchat:FriendMessage:7"}), "umo"),
        (json!({"umo": "tg2:FriendMessage:7"}), "umo"),
        (json!({"platform_message_id": ""}), "platform_message_id"),
        (json!({"text": "x".repeat(32 * 1024 + 1)}), "text"),
        (json!({"nobody": "knows this"}), "body"),
        (json!({"late": "perhaps"}), "body"),
    ] {
        let mut body = inbound("1", "1-a", "Hi");
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let refused = ask(&app, &bridge, "inbound", body).await;
        assert_eq!((refused.status, &refused.json["field"]), (400, &json!(field)), "{change}: {}", refused.text);
    }
    assert_eq!(ask(&app, &bridge, "outbound", outbound("none", &json!(0))).await.status, 404);
    let long = ask(&app, &bridge, "sent", sent("none", "a", "sent", &"x".repeat((128 << 10) + 1))).await;
    assert_eq!(long.status, 413);
}

/// Turned to the time of the store, by which bots are judged.
async fn on_time(app: &TestApp) {
    app.clock.set(app.store.system("a test").now().await.unwrap());
}

#[tokio::test]
async fn a_bot_that_never_comes_back_holds_nothing_open() {
    let app = TestApp::configured(|config| config.message.answer_timeout_s = 0).await;
    on_time(&app).await;
    let (tenant, bridge, agent) = ready(&app, "acme").await;
    let _ = told(&app, &bridge, "inbound", inbound("1", "1-a", "Hi")).await;
    app.clock.advance(Duration::from_mins(10));
    let mut events = app.app.bus_events();
    // The store's clock goes on by itself.
    let ended = async { while app.app.bridge.end_overdue().await.unwrap() == 0 {} };
    tokio::time::timeout(Duration::from_mins(1), ended).await.unwrap();
    let (path, _) = history(&app, &agent, &tenant).await;
    let session = path.rsplit('/').next().unwrap().to_owned();
    let changed = tokio::time::timeout(Duration::from_secs(30), async {
        while let Some(event) = events.next().await {
            if matches!(&event, BusEvent::SessionChanged(of, id) if *of == tenant.id && id.as_str() == session) {
                return true;
            }
        }
        false
    });
    assert!(changed.await.unwrap(), "whoever follows the session hears of it");
    let (_, messages) = history(&app, &agent, &tenant).await;
    assert_eq!(messages[0]["failure"]["code"], "answer_timeout", "{messages:?}");
    assert_eq!(app.app.bridge.end_overdue().await.unwrap(), 0);
    let _ = told(&app, &bridge, "sent", sent("1", "a", "sent", "after all")).await;
    let (_, messages) = history(&app, &agent, &tenant).await;
    assert_eq!((&messages[1]["text"], messages[1].get("reply_to")), (&json!("after all"), None));
}

#[tokio::test]
async fn a_clock_that_is_wrong_ends_nothing_before_its_time() {
    let app = TestApp::configured(|config| config.message.answer_timeout_s = 120).await;
    on_time(&app).await;
    app.clock.set(app.clock.now().minus(Duration::from_mins(10)));
    let (tenant, bridge, agent) = ready(&app, "acme").await;
    let _ = told(&app, &bridge, "inbound", inbound("1", "1-a", "taken in by whoever is behind")).await;
    app.clock.advance(Duration::from_mins(10));
    assert_eq!(app.app.bridge.end_overdue().await.unwrap(), 0, "it was told just now");
    app.clock.advance(Duration::from_mins(4));
    assert_eq!(app.app.bridge.end_overdue().await.unwrap(), 0, "by whoever is ahead");
    let (_, messages) = history(&app, &agent, &tenant).await;
    assert_eq!(messages[0]["state"], "delivering", "{messages:?}");
}
