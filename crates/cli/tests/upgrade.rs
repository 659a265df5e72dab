//! A rolling upgrade from the release before: a fleet of its real program serves while the present one migrates the
//! database, goes on on the new schema, and is replaced process by process. All the time clients write; no acknowledged
//! message is lost or answered twice, and what was said before is read after.
//!
//! Which release that is stands in `crates/store/migrations/previous_release`; `make test` builds its program. It needs not be
//! started again on the new schema: a supervisor starts the new one.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::{path::PathBuf, time::Duration};

use astrfleet_testkit::{
    binary::{built_binary, previous_binary},
    client::Api,
    fleet::{ADMIN, Fleet, FleetOptions, Load, PASSWORD, ROLES, Traffic},
};
use serde_json::{Value, json};

/// Its commit, and the newest step of the schema that it knows.
const PREVIOUS_RELEASE: &str = include_str!("../../store/migrations/previous_release");
/// How long whatever is on its way may take at the end.
const PATIENCE: Duration = Duration::from_mins(3);
const LOOK_EVERY: Duration = Duration::from_millis(50);

#[tokio::test(flavor = "multi_thread")]
async fn the_release_before_and_this_one_serve_together() {
    let [old, new] = [previous_binary(), built_binary()].map(|program| program.canonicalize().unwrap());
    let mut fleet = Fleet::start(FleetOptions { program: old.clone(), ..FleetOptions::default() }).await;
    let admin = fleet.admin().await;
    let (owner, key) = fleet.tenant(&admin, "acme").await;
    let said = the_whole_path(&fleet, &owner, &key, "before").await;
    let known = steps(&fleet).await.len();
    assert_eq!(PREVIOUS_RELEASE.split_whitespace().nth(1), Some(&*known.to_string()), "its newest step");

    let load = Load::start(&fleet, &key, "acme", Traffic::Writers(4), Duration::from_millis(100)).await;
    load.wait_for(8).await;
    fleet.go_over_to(new.clone());
    println!("{}", fleet.run(&["migrate", "up"]).await.trim_end());
    let made = steps(&fleet).await;
    assert!(made.iter().all(|(step, made)| *made || step.contains("_contract_")), "{made:?}");
    load.wait_for(8).await;
    assert_eq!(programs(&fleet), vec![old.clone(); fleet.names().len()]);
    let meanwhile = the_whole_path(&fleet, &owner, &key, "the old program on the new schema").await;

    // One process of each role: both programs serve at once, and speak to each other.
    for role in ROLES {
        replace(&mut fleet, role, 0, &load).await;
    }
    let both = the_whole_path(&fleet, &owner, &key, "both programs").await;
    for role in ROLES {
        replace(&mut fleet, role, 1, &load).await;
    }
    assert_eq!(programs(&fleet), vec![new; fleet.names().len()]);
    let after = the_whole_path(&fleet, &owner, &key, "the new program").await;

    // Now nobody needs any more what only the old program used.
    println!("{}", fleet.run(&["migrate", "up", "--contract"]).await.trim_end());
    assert!(steps(&fleet).await.iter().all(|(_, made)| *made));
    load.wait_for(8).await;
    let last = the_whole_path(&fleet, &owner, &key, "the new program alone").await;
    let outcome = load.end(&fleet, PATIENCE).await;
    println!("upgraded: {outcome:?}");
    assert_eq!((outcome.lost, outcome.doubled, outcome.leaked, outcome.failed.len()), (0, 0, 0, 0), "{outcome:?}");
    // Whoever ends in order has been left alone before, and answers what has come.
    let tries = &outcome.tries;
    assert_eq!((tries.refused, tries.unanswered, tries.wrong), (0, 0, 0), "{tries:?}");
    for (path, history) in [said, meanwhile, both, after, last] {
        for gateway in fleet.gateways() {
            assert_eq!(key.at(gateway.url()).get(&path).await.ok()["items"], history, "{path}");
        }
    }
}

/// The steps of the schema, and whether they are made, as the program says that starts from now on.
async fn steps(fleet: &Fleet) -> Vec<(String, bool)> {
    let status: Value = serde_json::from_str(&fleet.run(&["--json", "migrate", "status"]).await).unwrap();
    let steps = status["items"].as_array().unwrap().iter();
    steps.map(|step| (step["name"].as_str().unwrap().to_owned(), !step["applied_at"].is_null())).collect()
}

fn programs(fleet: &Fleet) -> Vec<PathBuf> {
    fleet.names().iter().map(|name| fleet.program_of(name)).collect()
}

/// Ends a process in order, and starts the present program in its place.
async fn replace(fleet: &mut Fleet, role: &str, number: usize, load: &Load) {
    let name = fleet.of(role)[number].clone();
    assert!(fleet.terminate(&name).await, "{name} ended in order");
    fleet.restart(&name).await;
    load.wait_for(1).await;
}

/// Every role does its work through every gateway. Returns where what was said is read, and what is read there.
async fn the_whole_path(fleet: &Fleet, owner: &Api, key: &Api, when: &str) -> (String, Value) {
    let mut said = (String::new(), Value::Null);
    for gateway in fleet.gateways() {
        let (owner, key) = (owner.at(gateway.url()), key.at(gateway.url()));
        let admin = gateway.log_in(ADMIN, PASSWORD).await;
        assert_eq!(admin.get("/api/v1/auth/me").await.ok()["user"]["email"], ADMIN, "{when}");
        assert_eq!(owner.get("/api/v1/tenants/acme").await.ok()["name"], "acme", "{when}");
        let changed = owner.patch("/api/v1/tenants/acme", json!({"display_name": when})).await.ok();
        assert_eq!(changed["display_name"], when);

        let wanted = json!({"name": when, "scopes": ["chat"]});
        let made = owner.post("/api/v1/tenants/acme/api-keys", wanted).await.ok();
        let own = gateway.as_bearer(made["secret"].as_str().unwrap());
        let session = own.post("/api/v1/tenants/acme/sessions", json!({"end_user": "ada"})).await.ok();
        let path = format!("/api/v1/tenants/acme/sessions/{}/messages", session["id"].as_str().unwrap());
        let events = own.sse(&path, Some(json!({"text": when}))).await.rest().await;
        let last = events.last().unwrap();
        let answer = format!("echo: {when}");
        assert_eq!((last.event.as_str(), &last.data["message"]["text"]), ("done", &json!(answer)), "{events:?}");
        let history = key.get(&path).await.ok()["items"].clone();
        let texts: Vec<_> = history.as_array().unwrap().iter().map(|message| message["text"].clone()).collect();
        assert_eq!(texts.len(), 2, "{history}");
        assert!(texts.contains(&json!(when)) && texts.contains(&json!(answer)), "{history}");
        said = (path, history);

        for read in
            ["sessions", "members", "api-keys", "usage", "audit-log", "webhooks", "blocklist", "messages?q=echo"]
        {
            let answer = owner.get(&format!("/api/v1/tenants/acme/{read}")).await;
            assert_eq!(answer.status, 200, "{when}: {read}: {}", answer.text);
        }
        let revoked = owner.delete(&format!("/api/v1/tenants/acme/api-keys/{}", made["id"].as_str().unwrap())).await;
        assert!(revoked.status < 300, "{when}: {}", revoked.text);
        for gateway in fleet.gateways() {
            let own = own.at(gateway.url());
            until("a revoked key is refused", async || own.get("/api/v1/tenants/acme/sessions").await.status == 401)
                .await;
        }
    }
    said
}

async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !is_so().await {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|late| panic!("it never came true that {what} ({late})"));
}
