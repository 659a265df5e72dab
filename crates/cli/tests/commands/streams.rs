//! Streams that break are opened again where they were, and pipes that close are no failure.

use std::time::Duration;

use astrfleet_testkit::{
    app::TestApp,
    shell::{Shell, ended, interrupt},
};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::{
    PROGRAM,
    scripted::{Answer, Scripted, ok, problem},
};

const PATIENCE: Duration = Duration::from_mins(1);
const EVENTS: &str = "text/event-stream";

fn event(id: &str, name: &str) -> String {
    format!("id: {id}\nevent: {name}\ndata: {{\"timestamp\": \"now\"}}\n\n")
}

fn shell_at(platform: &Scripted) -> Shell {
    Shell::alone(PROGRAM).with("ASTRFLEET_URL", &platform.url()).with("ASTRFLEET_API_KEY", "astr_made_up")
}

fn names(out: &str) -> Vec<String> {
    let name = |line: &str| serde_json::from_str::<Value>(line).unwrap()["event"].as_str().unwrap().to_owned();
    out.lines().map(name).collect()
}

#[tokio::test]
async fn a_list_of_events_is_whole_or_fails() {
    let platform = Scripted::answering(vec![
        Answer::Whole(ok(EVENTS, &event("evt_1", "session.opened"))),
        Answer::Whole(problem(503, "unavailable")),
        Answer::Whole(ok(EVENTS, &(event("evt_2", "session.closed") + &event("evt_2", "end")))),
    ])
    .await;
    let ran = shell_at(&platform).run("events acme --json").await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(names(&ran.out), ["session.opened", "session.closed"]);
    let asked = platform.asked();
    assert!(asked[0].contains("/events?after=0&follow=false"), "{asked:?}");
    assert!(asked[1].contains("after=evt_1") && asked[2].contains("after=evt_1"), "{asked:?}");

    let platform = Scripted::answering(vec![Answer::Whole(problem(403, "forbidden"))]).await;
    let ran = shell_at(&platform).run("events acme").await;
    assert_eq!((ran.code, ran.err.contains("it is forbidden")), (1, true), "{}", ran.err);
    assert_eq!(platform.asked().len(), 1, "what is refused is not asked for again");
}

#[tokio::test]
async fn whoever_follows_misses_nothing_while_the_platform_is_away() {
    let platform = Scripted::answering(vec![
        // Cut off before anything happened.
        Answer::Whole(ok(EVENTS, "id: evt_7\n\n:still here\n\n")),
        Answer::Whole(problem(503, "unavailable")),
        Answer::AndSilence(ok(EVENTS, &event("evt_8", "session.opened"))),
    ])
    .await;
    let shell = shell_at(&platform);
    let mut child = shell.start(&["events", "acme", "--follow", "--json"]);
    let mut out = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = tokio::time::timeout(PATIENCE, out.next_line()).await.unwrap().unwrap().unwrap();
    assert_eq!(names(&line), ["session.opened"]);
    interrupt(&child);
    assert_eq!(ended(child, "events").await.code, 130);
    let asked = platform.asked();
    assert!(asked[0].contains("/events HTTP"), "from now on: {asked:?}");
    assert!(asked[1].contains("after=evt_7") && asked[2].contains("after=evt_7"), "{asked:?}");
}

#[tokio::test]
async fn an_address_where_nobody_is_is_not_followed() {
    let ran = Shell::alone(PROGRAM).run("events acme --follow --url http://127.0.0.1:9 --api-key astr_a").await;
    assert_eq!((ran.code, ran.err.contains("nothing answers")), (1, true), "{}", ran.err);
}

#[tokio::test]
async fn a_reader_that_goes_away_is_no_failure() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let shell = Shell::at(PROGRAM, &app, &admin).await;
    for line in [
        "openapi",
        "openapi --json",
        "config default",
        "config default --json",
        "config check",
        "errors",
        "errors --json",
        "completions bash",
        "doctor",
        "healthcheck",
        "tenant list",
        "tenant create acme --email ada@acme.example",
        "key create acme --name shop --scope chat",
        "usage acme",
        "usage export acme",
    ] {
        let mut child = shell.start(&line.split(' ').collect::<Vec<_>>());
        // Closed before anything is read: the first byte finds nobody.
        drop(child.stdout.take());
        let ran = ended(child, line).await;
        assert!(!ran.err.contains("panicked"), "{line}: {}", ran.err);
        assert!(ran.code == 0 || line == "doctor", "{line}: {} {}", ran.code, ran.err);
    }
}
