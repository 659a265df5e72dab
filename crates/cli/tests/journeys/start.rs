//! The start: what `up` says of itself, what it leaves for commands on its machine, and the demonstration.

use std::os::unix::fs::PermissionsExt;

use astrfleet_testkit::client::Api;
use serde_json::Value;

use crate::{
    command::{Up, refusal},
    world::World,
};

/// A port of its own choice, an administrator told once, and a way in for commands that is worth nothing later.
pub async fn a_free_port_and_a_way_in_for_this_machine() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["--listen", "127.0.0.1:0", "--admin-email", "ada@example.test"];
    let mut up = Up::begin(folder.path(), &arguments);
    let administrator = up.event("administrator").await;
    assert_eq!(administrator["email"], "ada@example.test");
    let password = administrator["password"].as_str().unwrap().to_owned();
    let ready = up.event("ready").await;
    let url = ready["url"].as_str().unwrap();
    assert!(url.starts_with("http://127.0.0.1:") && !url.ends_with(":0"), "{ready}");
    assert_eq!(ready["model_configured"], false);

    let api = Api::new(url);
    assert_eq!(api.get("/ready").await.status, 200);
    assert_eq!(api.get("/").await.headers["content-type"], "text/html; charset=utf-8");
    assert_eq!(api.get("/api/v1/tenants").await.status, 401);
    let admin = api.log_in("Ada@Example.test", &password).await;
    assert_eq!(admin.get("/api/v1/auth/me").await.ok()["user"]["email"], "ada@example.test");

    let left = folder.path().join("local.json");
    assert_eq!(std::fs::metadata(&left).unwrap().permissions().mode() & 0o777, 0o600);
    let local: Value = serde_json::from_str(&std::fs::read_to_string(&left).unwrap()).unwrap();
    let here = api.as_bearer(local["credential"].as_str().unwrap());
    assert_eq!(here.get("/api/v1/tenants").await.ok()["items"], serde_json::json!([]));

    let ended = up.interrupt().await;
    assert!(ended.status.success(), "{}", ended.words);
    let names: Vec<_> = ended.events.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!(names, ["stopping", "stopped"]);
    assert!(!left.exists(), "the way in ends with the platform");
    assert!(!ended.words.contains(&password), "the password is in no log");

    // The second start knows its administrator and makes no other one.
    let mut again = Up::begin(folder.path(), &arguments);
    let ready = again.event("ready").await;
    let api = Api::new(ready["url"].as_str().unwrap());
    api.log_in("ada@example.test", &password).await;
    let old = api.as_bearer(local["credential"].as_str().unwrap());
    assert_eq!(old.get("/api/v1/tenants").await.status, 401, "what was left is worth nothing any more");
    assert!(again.interrupt().await.status.success());
}

/// A tenant, a real bot, an answer.
pub async fn the_demonstration(world: &mut World) {
    let demo = world.platform.events().pop().unwrap();
    assert_eq!(demo["event"], "demo", "{demo}");
    assert_eq!(demo["tenant"], "acme");
    let question = demo["question"].as_str().unwrap();
    assert_eq!(demo["answer"], format!("echo: {question}"));
    assert!(demo["bot_ready_ms"].as_u64() > Some(0) && demo["first_token_ms"].as_u64() > Some(0), "{demo}");
    let events = world.platform.events();
    let told: String = events
        .iter()
        .filter(|event| event["event"] == "demo_delta")
        .map(|event| event["text"].as_str().unwrap())
        .collect();
    assert_eq!(demo["answer"], told, "it was shown as it streamed");
    assert!(demo["dashboard_url"].as_str().unwrap().starts_with("http://acme.localhost:"), "{demo}");
    assert_eq!(events.iter().filter(|event| event["event"] == "administrator").count(), 1);
    let bot = world.acme.instance().await;
    assert_eq!((bot["observed"].as_str(), bot["ready"].as_bool()), (Some("running"), Some(true)));
    assert!(bot["memory_bytes"].as_u64().unwrap() > 50 << 20, "a real bot: {bot}");
}

/// A second platform beside the first would have every bot twice.
pub async fn one_data_folder_is_for_one_platform(world: &mut World) {
    let said = refusal(world.platform.data_dir(), &["--listen", "127.0.0.1:0"]).await;
    let holder = format!("(process {})", world.platform.pid());
    assert!(said.contains(&holder) && said.contains("--data-dir"), "{said}");
    assert_eq!(world.platform.bots().len(), 2);
}
