//! Files that commands write are there when all of them is.

use std::{path::Path, time::Duration};

use astrfleet_testkit::{
    app::TestApp,
    shell::{Shell, ended, interrupt},
};
use serde_json::Value;

use crate::{
    PROGRAM,
    scripted::{Answer, Scripted, of_length, ok},
};

const PATIENCE: Duration = Duration::from_mins(1);
const CSV: &str = "text/csv";

fn shell_at(platform: &Scripted) -> Shell {
    Shell::alone(PROGRAM).with("ASTRFLEET_URL", &platform.url()).with("ASTRFLEET_API_KEY", "astr_made_up")
}

fn files(folder: &Path) -> Vec<String> {
    let name = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
    std::fs::read_dir(folder).unwrap().map(name).collect()
}

/// Waits until a part of a file is written.
async fn begun(part: &Path) {
    let waited = async {
        while std::fs::metadata(part).map_or(0, |part| part.len()) == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waited).await.unwrap();
}

#[tokio::test]
async fn half_a_file_is_left_by_nobody() {
    let platform = Scripted::answering(vec![
        Answer::AndSilence(of_length(CSV, 100, "id,at\r\n")),
        Answer::Whole(of_length(CSV, 100, "id,at\r\n")),
        Answer::Whole(ok(CSV, "id,at\r\n")),
    ])
    .await;
    let shell = shell_at(&platform);
    let export = ["usage", "export", "acme", "-o", "usage.csv"];
    let child = shell.start(&export);
    begun(&shell.home().join("usage.csv.part")).await;
    interrupt(&child);
    assert_eq!(ended(child, "usage export").await.code, 130);
    assert_eq!(files(shell.home()), Vec::<String>::new(), "after Ctrl-C");

    let broken = shell.run_with(&export, "").await;
    assert_eq!((broken.code, broken.err.contains("not all of it")), (1, true), "{}", broken.err);
    assert_eq!(files(shell.home()), Vec::<String>::new(), "after a break");

    // What one left that was killed is in nobody's way.
    std::fs::write(shell.home().join("usage.csv.part"), "half of it, and longer than the whole").unwrap();
    let whole = shell.run_with(&export, "").await;
    assert_eq!(whole.code, 0, "{}", whole.err);
    assert_eq!(files(shell.home()), ["usage.csv"]);
    assert_eq!(std::fs::read_to_string(shell.home().join("usage.csv")).unwrap(), "id,at\r\n");
    let again = shell.run_with(&export, "").await;
    assert_eq!((again.code, again.err.contains("is there already")), (1, true), "{}", again.err);
}

#[tokio::test]
async fn an_export_of_a_tenant_that_is_interrupted_can_be_fetched_later() {
    let export = r#"{"id": "exp_1", "state": "done", "done": 1, "total": 1, "size": 5}"#;
    let json = "application/json";
    let platform = Scripted::answering(vec![
        Answer::Whole(ok(json, export)),
        Answer::Whole(ok(json, export)),
        Answer::AndSilence(of_length("application/zstd", 5, "he")),
        Answer::Whole(ok(json, export)),
        Answer::Whole(ok("application/zstd", "hello")),
    ])
    .await;
    let shell = shell_at(&platform);
    let child = shell.start(&["tenant", "export", "acme", "-o", "acme.tar.zst"]);
    begun(&shell.home().join("acme.tar.zst.part")).await;
    interrupt(&child);
    assert_eq!(ended(child, "tenant export").await.code, 130);
    assert_eq!(files(shell.home()), Vec::<String>::new());
    let fetched = shell.run("export fetch acme exp_1 -o acme.tar.zst").await;
    assert_eq!(fetched.code, 0, "{}", fetched.err);
    assert_eq!(std::fs::read_to_string(shell.home().join("acme.tar.zst")).unwrap(), "hello");
}

#[tokio::test]
async fn usage_is_exported_as_it_is_asked_for() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    app.tenant("acme").await;
    let shell = Shell::at(PROGRAM, &app, &admin).await;
    assert!(shell.run("usage export acme").await.out.starts_with("id,at,"));
    assert_eq!(shell.run("usage export acme --json").await.json("export"), serde_json::json!([]));
    assert_eq!(shell.run("usage export acme --format json").await.json("export"), serde_json::json!([]));
    assert_eq!(shell.run("usage export acme --format csv --json").await.code, 1, "CSV is no JSON");
    let said = shell.run("usage export acme --json -o usage.csv").await.json("export");
    assert_eq!(said["format"], "csv");
    let written = std::fs::read_to_string(shell.home().join("usage.csv")).unwrap();
    assert_eq!(said["bytes"], written.len());
    // What is typed stays the one value that it was meant as.
    let refused = shell.run("usage acme --from 2026-11-01&to=2026-11-02").await;
    assert!(refused.err.contains("from must be a day"), "{}", refused.err);
}

#[tokio::test]
async fn a_proxy_is_for_platforms_elsewhere() {
    let proxy = Scripted::answering(vec![Answer::Whole(ok("application/json", r#"{"items": []}"#))]).await;
    let elsewhere = Shell::alone(PROGRAM).with("HTTP_PROXY", &proxy.url()).with("http_proxy", &proxy.url());
    let ran = elsewhere.run("tenant list --url http://bots.example.com --api-key astr_a").await;
    assert_eq!((ran.code, ran.out.as_str()), (0, "none\n"), "{}", ran.err);
    assert!(proxy.asked()[0].starts_with("GET http://bots.example.com/api/v1/tenants "), "{:?}", proxy.asked());
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let here = Shell::at(PROGRAM, &app, &admin).await.with("http_proxy", &proxy.url());
    assert_eq!(here.run("tenant list --json").await.json("tenants")["items"], Value::Array(Vec::new()));
    assert_eq!(proxy.asked().len(), 1, "this machine is reached without it");
}
