//! What commands do with this machine: its database, and what `doctor` and `healthcheck` see of it.

use astrfleet_testkit::{app::TestApp, ports::free_port, shell::Shell};
use serde_json::{Value, json};

use crate::PROGRAM;

#[tokio::test]
async fn a_database_is_brought_up_and_back() {
    let shell = Shell::alone(PROGRAM);
    let steps = shell.run("migrate status --json").await.json("status");
    let steps: Vec<String> =
        steps["items"].as_array().unwrap().iter().map(|step| step["name"].as_str().unwrap().to_owned()).collect();
    let planned = |plan: &Value| -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        plan["items"].as_array().unwrap().iter().map(|step| (text(&step["name"]), text(&step["direction"]))).collect()
    };
    let way = |names: &[String], way: &str| names.iter().map(|name| (name.clone(), way.to_owned())).collect::<Vec<_>>();

    assert_eq!(planned(&shell.run("migrate plan --to 2 --json").await.json("plan")), way(&steps[..2], "up"));
    let up = shell.run("migrate up --to 2").await;
    assert_eq!(up.out, format!("Made: {}, {}. Left: {}.\n", steps[0], steps[1], steps[2..].join(", ")));
    for step in &steps[..2] {
        assert!(up.err.contains(step.as_str()), "each step is told of when it is made: {}", up.err);
    }
    let rest = shell.run("migrate up --json").await.json("up");
    assert_eq!((&rest["made"], &rest["left"]), (&json!(steps[2..]), &json!([])));
    assert_eq!(shell.run("migrate up").await.out, "The database has every step already.\n");
    assert_eq!(shell.run("migrate plan").await.out, "-- nothing to do\n");

    let mut back = steps[1..].to_vec();
    back.reverse();
    assert_eq!(planned(&shell.run("migrate plan --to 1 --json").await.json("plan")), way(&back, "down"));
    let refused = shell.run("migrate down --to 1").await;
    assert!(refused.code == 1 && refused.err.contains("add --yes"), "{}", refused.err);
    assert_eq!(shell.run("migrate plan").await.out, "-- nothing to do\n", "nothing was undone");
    let down = shell.run("migrate down --to 1 --yes").await;
    assert_eq!(down.out, format!("Undone: {}.\n", back.join(", ")));
    for step in &back {
        assert!(down.err.contains(step.as_str()), "{}", down.err);
    }
    assert_eq!(shell.run("migrate down --to 1 --yes").await.out, "There was nothing to undo.\n");
    let granted = shell.run("migrate up --grant-to astrfleet_app").await;
    assert!(granted.code == 1 && granted.err.contains("SQLite has no roles"), "{}", granted.err);
    let both = shell.run("migrate up --to 2 --contract").await;
    assert_eq!(both.code, 2, "{}", both.err);
}

fn check<'a>(report: &'a Value, name: &str) -> Option<&'a Value> {
    report.as_array().unwrap().iter().find(|check| check["name"] == name)
}

#[tokio::test]
async fn a_database_that_is_away_is_seen_before_there_is_a_folder() {
    let port = free_port().to_string();
    let shell = Shell::alone(PROGRAM)
        .with("DB_HOST", "127.0.0.1")
        .with("DB_PORT", &port)
        .with("ASTRFLEET__DATABASE__ACQUIRE_TIMEOUT_S", "1");
    let ran = shell.run("doctor --json --roles gateway").await;
    assert_eq!(ran.code, 1, "{}", ran.err);
    let report: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(check(&report, "data folder").unwrap()["status"], "ok");
    let database = check(&report, "database").unwrap();
    let remedy = database["remedy"].as_str().unwrap();
    assert_eq!(database["status"], "fail");
    assert!(remedy.contains("[database]") && !remedy.contains("backup"), "{remedy}");
}

#[tokio::test]
async fn a_machine_without_bots_needs_no_python() {
    let shell = Shell::alone(PROGRAM).with("PATH", "/nowhere").with("ASTRFLEET__GATEWAY__LISTEN", "127.0.0.1:0");
    let report = shell.run("doctor --json --roles gateway,auth").await.json("doctor");
    assert!(check(&report, "python").is_none() && check(&report, "model").is_none(), "{report}");
    assert!(check(&report, "data folder").is_some() && check(&report, "clock").is_some(), "{report}");
    let all: Value = serde_json::from_str(&shell.run("doctor --json").await.out).unwrap();
    assert_eq!(check(&all, "python").unwrap()["status"], "fail");
}

#[tokio::test]
async fn a_platform_is_asked_where_it_was_configured_to_listen() {
    let app = TestApp::new().await;
    let address = app.serve().await.trim_start_matches("http://").to_owned();
    let configured = Shell::alone(PROGRAM).with("ASTRFLEET__GATEWAY__LISTEN", &address);
    assert_eq!(configured.run("healthcheck").await.out, format!("http://{address} is ready\n"));
    let shell = Shell::alone(PROGRAM);
    std::fs::write(shell.home().join("a.toml"), format!("[gateway]\nlisten = \"{address}\"\n")).unwrap();
    let ran = shell.run("healthcheck --config a.toml").await;
    assert_eq!(ran.out, format!("http://{address} is ready\n"), "{}", ran.err);
}
