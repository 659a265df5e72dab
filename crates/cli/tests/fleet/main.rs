//! The roles apart, two processes of each, on one PostgreSQL and one Redis, with a real bot: the whole path works through
//! both gateways; each process is killed in turn under load, and no acknowledged message is lost or answered twice.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::time::Duration;

use astrfleet_testkit::{
    client::Api,
    fake_provider::Behaviour,
    fleet::{Fleet, FleetOptions, Load, ROLES, Traffic},
};
use serde_json::json;

/// How long whatever is on its way may take after the last fault.
const PATIENCE: Duration = Duration::from_mins(3);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// One fleet for all of it: starting fourteen processes and a bot is most of the work.
#[tokio::test(flavor = "multi_thread")]
async fn the_roles_apart() {
    let mut fleet = Fleet::start(FleetOptions::default()).await;
    let admin = fleet.admin().await;
    let (owner, key) = fleet.tenant(&admin, "acme").await;
    the_whole_path(&fleet, &owner, &key).await;
    what_is_internal(&fleet, &key).await;
    each_is_killed(&mut fleet, &key).await;
    each_ends_in_order(&mut fleet, &key).await;
    another_process_is_asked_for_the_model(&mut fleet, &key).await;
    a_circuit_opens_and_closes(&mut fleet, &key).await;
    bots_change_hands(&mut fleet, &owner, &key).await;
}

/// Every role is reached through both gateways, and what one changes the other knows.
async fn the_whole_path(fleet: &Fleet, owner: &Api, key: &Api) {
    for gateway in fleet.gateways() {
        let (owner, key) = (owner.at(gateway.url()), key.at(gateway.url()));
        assert_eq!(owner.get("/api/v1/auth/me").await.status, 200);
        assert_eq!(owner.get("/api/v1/tenants/acme").await.ok()["name"], "acme");
        assert_eq!(owner.get("/api/v1/tenants/acme/instance").await.ok()["ready"], true);
        assert_eq!(owner.get("/api/v1/tenants/acme/instance/logs?lines=5").await.status, 200);
        assert_eq!(owner.get("/api/v1/tenants/acme/instance/config").await.status, 200);
        assert_eq!(gateway.get("/.well-known/jwks.json").await.status, 200);
        let session = key.post("/api/v1/tenants/acme/sessions", json!({"end_user": "ada"})).await.ok();
        let path = format!("/api/v1/tenants/acme/sessions/{}/messages", session["id"].as_str().unwrap());
        let events = key.sse(&path, Some(json!({"text": "hello"}))).await.rest().await;
        let last = events.last().unwrap();
        assert_eq!((last.event.as_str(), &last.data["message"]["text"]), ("done", &json!("echo: hello")), "{events:?}");
        let history = key.get(&path).await.ok();
        assert_eq!(history["items"].as_array().unwrap().len(), 2);

        let nobody = gateway.get("/api/v1/tenants/acme").await;
        assert_eq!((nobody.status, nobody.body["code"].as_str()), (401, Some("unauthenticated")));
        let stranger = gateway.as_bearer("wrong").get("/api/v1/tenants/acme").await;
        assert_eq!(stranger.status, 401);
        assert!(owner.get("/api/v1/tenants/acme").await.headers.contains_key("ratelimit"), "counted at the gateway");
    }
    // A key that is taken back at one gateway is worth nothing at the other.
    let gateways = fleet.gateways();
    let made = owner.post("/api/v1/tenants/acme/api-keys", json!({"name": "short", "scopes": ["chat"]})).await.ok();
    let short = gateways[1].as_bearer(made["secret"].as_str().unwrap());
    assert_eq!(short.get("/api/v1/tenants/acme/sessions").await.status, 200);
    let revoked = owner.delete(&format!("/api/v1/tenants/acme/api-keys/{}", made["id"].as_str().unwrap())).await;
    assert!(revoked.status < 300, "{}", revoked.text);
    until("a revoked key is refused", async || short.get("/api/v1/tenants/acme/sessions").await.status == 401).await;
}

/// What processes say to each other is for nobody else; a role without the gateway asks for a credential by itself.
async fn what_is_internal(fleet: &Fleet, key: &Api) {
    for name in fleet.names() {
        let role = Api::new(&fleet.url(&name));
        assert_eq!(role.get("/health").await.status, 200, "{name}");
        for caller in [role.clone(), key.at(role.url()), role.with_header("x-astrfleet-identity", "1 0 - - - AAAA")] {
            let answer = caller.get("/internal/v1/replica").await;
            assert_eq!(
                (answer.status, answer.body["code"].as_str()),
                (404, Some("not_found")),
                "{name}: {}",
                answer.text
            );
        }
    }
    let session = Api::new(&fleet.url("session-0"));
    assert_eq!(session.get("/api/v1/tenants/acme/sessions").await.status, 401);
    assert_eq!(key.at(session.url()).get("/api/v1/tenants/acme/sessions").await.status, 200, "it reads the key itself");
    assert_eq!(key.at(session.url()).get("/api/v1/tenants/acme").await.status, 404, "another role's route is not here");
}

/// A process of each role is killed under load and started again.
async fn each_is_killed(fleet: &mut Fleet, key: &Api) {
    let load = Load::start(fleet, key, "acme", Traffic::Writers(4), Duration::from_millis(100)).await;
    load.wait_for(4).await;
    for role in ROLES {
        let name = if role == "manager" { fleet.keeper().await } else { fleet.of(role)[0].clone() };
        fleet.kill_9(&name).await;
        load.wait_for(6).await;
        if role == "manager" {
            // Before it is back: started again within the life of its lease, it may win it again.
            assert_ne!(fleet.keeper().await, name, "another one keeps the bots now");
        }
        fleet.restart(&name).await;
        load.wait_for(2).await;
    }
    let outcome = load.end(fleet, PATIENCE).await;
    println!("killed in turn: {outcome:?}");
    assert_eq!((outcome.lost, outcome.doubled, outcome.failed.len(), outcome.tries.wrong), (0, 0, 0, 0), "{outcome:?}");
    assert!(outcome.answered > 0);
}

/// A process of each role is told to end under load and started again: nobody notices.
async fn each_ends_in_order(fleet: &mut Fleet, key: &Api) {
    let load = Load::start(fleet, key, "acme", Traffic::Everything, Duration::from_millis(100)).await;
    assert_eq!(load.wait_for_all(1).await, [] as [&str; 0], "all go on");
    for role in ROLES {
        let name = if role == "manager" { fleet.keeper().await } else { fleet.of(role)[0].clone() };
        assert!(fleet.terminate(&name).await, "{name} ended in order");
        fleet.restart(&name).await;
        assert_eq!(load.wait_for_all(1).await, [] as [&str; 0], "all go on after {name}");
    }
    let outcome = load.end(fleet, PATIENCE).await;
    println!("ended in turn: {outcome:?}");
    assert_eq!((outcome.lost, outcome.doubled, outcome.disordered, outcome.failed.len()), (0, 0, 0, 0), "{outcome:?}");
    let tries = &outcome.tries;
    assert_eq!((tries.refused, tries.unanswered, tries.wrong), (0, 0, 0), "{tries:?}");
}

/// A process that dies before the answer of a model began fails no message: the bot asks once more.
async fn another_process_is_asked_for_the_model(fleet: &mut Fleet, key: &Api) {
    let [asked, other] = fleet.of("llm").try_into().unwrap();
    assert!(fleet.terminate(&other).await, "it ended in order");
    let session = key.post("/api/v1/tenants/acme/sessions", json!({"end_user": "bob"})).await.ok();
    let path = format!("/api/v1/tenants/acme/sessions/{}/messages?wait=60", session["id"].as_str().unwrap());
    let silent = Behaviour { stall_after: Some(0), ..Behaviour::default() };
    fleet.provider.next(silent);
    let exchange = tokio::spawn({
        let key = key.clone();
        async move { key.post(&path, json!({"text": "are you there?"})).await.ok() }
    });
    fleet.provider.wait_until(|counts| counts.stalled == 1).await;
    fleet.restart(&other).await;
    fleet.kill_9(&asked).await;
    assert_eq!(exchange.await.unwrap()["reply"]["text"], "echo: are you there?");
    fleet.restart(&asked).await;
}

/// A process that fails is left alone, and trusted again when it is back.
async fn a_circuit_opens_and_closes(fleet: &mut Fleet, key: &Api) {
    let names = fleet.of("session");
    let gateway = fleet.of("gateway")[0].clone();
    let address = fleet.url(&names[0]).trim_start_matches("http://").to_owned();
    let shows = |metrics: &str, name: &str, value: &str| {
        let line = format!("{name}{{role=\"session\",address=\"{address}\"}} {value}");
        metrics.lines().any(|found| found == line)
    };
    // Frozen: it neither answers nor refuses.
    fleet.freeze(&names[0]);
    let fleet_ref = &*fleet;
    until("a frozen process counts as away", async || shows(&fleet_ref.metrics(&gateway).await, "upstream_ready", "0"))
        .await;
    for _ in 0..10 {
        assert_eq!(key.get("/api/v1/tenants/acme/sessions").await.status, 200, "the other one answers");
    }
    fleet.thaw(&names[0]);
    let fleet_ref = &*fleet;
    until("it is sent requests again", async || shows(&fleet_ref.metrics(&gateway).await, "upstream_ready", "1")).await;
    // Both gone: requests are refused at once, and served as soon as one is back.
    for name in &names {
        fleet.kill_9(name).await;
    }
    let fleet_ref = &*fleet;
    until("the circuit opens", async || {
        let refused = key.get("/api/v1/tenants/acme/sessions").await;
        assert_eq!((refused.status, refused.body["code"].as_str()), (503, Some("unavailable")), "{}", refused.text);
        shows(&fleet_ref.metrics(&gateway).await, "upstream_circuit_open", "1")
    })
    .await;
    fleet.restart_all().await;
    let fleet_ref = &*fleet;
    until("the circuit closes", async || {
        key.get("/api/v1/tenants/acme/sessions").await;
        shows(&fleet_ref.metrics(&gateway).await, "upstream_circuit_open", "0")
    })
    .await;
}

/// The manager is told to end: its bots run on in another one's care, and are the same processes.
async fn bots_change_hands(fleet: &mut Fleet, owner: &Api, key: &Api) {
    let before = owner.get("/api/v1/tenants/acme/instance").await.ok();
    let keeper = fleet.keeper().await;
    assert!(fleet.terminate(&keeper).await, "it ended in order");
    assert_ne!(fleet.keeper().await, keeper);
    until("the bot is ready in another one's care", async || {
        owner.get("/api/v1/tenants/acme/instance").await.body["ready"] == true
    })
    .await;
    let after = owner.get("/api/v1/tenants/acme/instance").await.ok();
    assert_eq!((&after["generation"], &after["restarts"]), (&before["generation"], &before["restarts"]), "{after}");
    let session = key.post("/api/v1/tenants/acme/sessions", json!({"end_user": "eve"})).await.ok();
    let path = format!("/api/v1/tenants/acme/sessions/{}/messages?wait=60", session["id"].as_str().unwrap());
    let exchange = key.post(&path, json!({"text": "still there?"})).await.ok();
    assert_eq!(exchange["reply"]["text"], "echo: still there?", "{exchange}");
    fleet.restart(&keeper).await;
}

async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !is_so().await {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|late| panic!("it never came true that {what} ({late})"));
}
