//! Starts that must be refused, each with a sentence that says why and what to do, and a disk that fills up. No bot is
//! started here.

use std::{net::TcpListener, path::Path, process::Command};

use astrfleet_testkit::{client::Api, disk::SmallDisk, parts::astrbot};
use serde_json::{Value, json};

use crate::command::{Up, refusal};

const ANY_PORT: [&str; 2] = ["--listen", "127.0.0.1:0"];

/// Named before anything is prepared or made.
pub async fn a_port_that_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let said = refusal(folder.path(), &["--listen", &address.to_string()]).await;
    assert!(said.contains(&address.port().to_string()) && said.contains("--listen"), "{said}");
    assert!(!folder.path().join("astrfleet.db").exists(), "nothing was made");
}

/// Each mistake by its place.
pub async fn a_broken_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("astrfleet.toml");
    let data = folder.path().join("data");
    for (text, wanted) in [
        ("[gateway\nlisten = 1", "not TOML"),
        ("[gateway]\nlisen = \"127.0.0.1:1\"", "lisen"),
        ("[message]\nconcurrent_chats = \"many\"", "concurrent_chats"),
        ("[auth]\njwt_secret = \"short\"", "at least 32 characters"),
        ("[tenant]\ndefault_plan = \"gold\"", "gold"),
    ] {
        std::fs::write(&file, text).unwrap();
        let said = refusal(&data, &["--listen", "127.0.0.1:0", "--config", file.to_str().unwrap()]).await;
        assert!(said.contains(wanted), "{text:?} gives {said}");
    }
    let missing = folder.path().join("none.toml");
    let said = refusal(&data, &["--config", missing.to_str().unwrap()]).await;
    assert!(said.contains("none.toml") && said.contains("cannot be read"), "{said}");
}

/// Left as it is.
pub async fn a_database_of_a_newer_version() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = Up::begin(folder.path(), &ANY_PORT);
    first.event("ready").await;
    assert!(first.interrupt().await.status.success());
    let database = folder.path().join("astrfleet.db");
    let newer = "insert into schema_migrations values (999, '0999_contract_of_another_time', 1, 'x')";
    sqlite(&database, newer).await;
    let migrations = "select * from schema_migrations order by version";
    let before = sqlite(&database, migrations).await;
    let said = refusal(folder.path(), &ANY_PORT).await;
    assert!(said.contains("newer") && said.contains("999"), "{said}");
    assert_eq!(sqlite(&database, migrations).await, before, "it was left as it is");
}

/// What does not fit is refused and not half done; with room again, all is well, without another start.
pub async fn a_disk_that_is_full() {
    let disk = SmallDisk::mount(4);
    let mut up = Up::begin(&disk.path().join("data"), &ANY_PORT);
    let administrator = up.event("administrator").await;
    let ready = up.event("ready").await;
    let api = Api::new(ready["url"].as_str().unwrap());
    let word = |name: &str| administrator[name].as_str().unwrap().to_owned();
    let admin = api.log_in(&word("email"), &word("password")).await;

    disk.fill();
    // As many as it takes: what is left of the last page may still hold one.
    let mut made = Vec::new();
    let refused = loop {
        assert!(made.len() < 1_000, "the disk never was full");
        let email = format!("user{}@full.test", made.len());
        let answer = admin.post("/api/v1/users", json!({"email": email, "password": "only for journeys 1"})).await;
        if answer.status != 201 {
            break answer;
        }
        made.push(email);
    };
    assert_eq!((refused.status, &refused.body["code"]), (503, &json!("unavailable")), "{}", refused.text);
    assert!(refused.body["detail"].as_str().unwrap().contains("disk is full"), "{}", refused.text);
    assert_eq!(api.get("/health").await.status, 200);

    disk.empty();
    let email = format!("user{}@full.test", made.len());
    let _ = admin.post("/api/v1/users", json!({"email": email, "password": "only for journeys 1"})).await.ok();
    made.push(email);
    let users = admin.get("/api/v1/users?limit=200").await.ok();
    let listed = users["items"].as_array().unwrap().iter().filter(|user| is_of_this_disk(user)).count();
    assert_eq!(listed, made.len().min(199), "each of those that were acknowledged, and no other");
    let ended = up.interrupt().await;
    assert!(ended.status.success(), "{}", ended.words);
}

fn is_of_this_disk(user: &Value) -> bool {
    user["email"].as_str().is_some_and(|email| email.ends_with("@full.test"))
}

/// Runs a statement by the Python of the bots' environment: no other program is sure to be there.
pub async fn sqlite(database: &Path, statement: &str) -> Value {
    const PROGRAM: &str = "import json,sqlite3,sys; c=sqlite3.connect(sys.argv[1]); \
        r=c.execute(sys.argv[2]).fetchall(); c.commit(); print(json.dumps(r))";
    let python = astrbot().await.python;
    let output = Command::new(python).args(["-c", PROGRAM]).arg(database).arg(statement).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}
