//! `--json` is JSON on every command: the help pages are walked, and a command without a row fails.

use std::{collections::BTreeSet, time::Duration};

use astrfleet_core::policy::Role;
use astrfleet_testkit::{
    app::{Caller, PASSWORD, TestApp},
    receiver::Receiver,
    shell::{Shell, ended, interrupt},
};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::{PROGRAM, help};

const PATIENCE: Duration = Duration::from_mins(1);

/// What comes of a command with `--json`.
enum Gives {
    /// One text.
    One,
    /// One text, and an exit code that says what it saw.
    OneAndItsCode,
    /// One a line, until its end.
    Lines,
    /// One a line, until Ctrl-C.
    LinesWithoutEnd,
    /// It is not called here, for this reason.
    NotHere(&'static str),
}

/// Each command, and what follows it. They are called in this order; `{…}` are things that are there.
const ROWS: &[(&str, &str, Gives)] = &[
    ("up", "", Gives::NotHere("it runs a platform with real bots: the journeys read its lines")),
    ("serve", "", Gives::NotHere("it runs a platform: the fleet's tests read its lines")),
    ("doctor", "", Gives::OneAndItsCode),
    ("tenant create", "initech --email bill@initech.example", Gives::One),
    ("tenant list", "--limit 2", Gives::One),
    ("tenant show", "initech", Gives::One),
    ("tenant change", "initech --display-name Initech --retention-days 7", Gives::One),
    ("tenant members", "acme", Gives::One),
    ("tenant limits", "acme", Gives::One),
    ("tenant suspend", "initech", Gives::One),
    ("tenant resume", "initech", Gives::One),
    ("tenant delete", "initech", Gives::One),
    ("tenant export", "acme -o acme.tar.zst", Gives::One),
    ("tenant erasure", "{erased} -o erased.jws", Gives::One),
    ("export list", "acme", Gives::One),
    ("export fetch", "acme {export} -o again.tar.zst", Gives::One),
    ("export delete", "acme {export}", Gives::One),
    ("user create", "--email ada@acme.example", Gives::One),
    ("user list", "", Gives::One),
    ("user grant", "{user} --tenant acme --role agent", Gives::One),
    ("user revoke", "{user} --tenant acme", Gives::One),
    ("key create", "acme --name shop --scope chat", Gives::One),
    ("key list", "acme", Gives::One),
    ("key revoke", "acme {key}", Gives::One),
    ("instance show", "acme", Gives::One),
    ("instance watch", "acme", Gives::LinesWithoutEnd),
    ("instance logs", "acme", Gives::One),
    ("instance config", "acme", Gives::One),
    ("instance open", "acme", Gives::One),
    ("channel add", "acme shop --type telegram --settings settings.json", Gives::One),
    ("channel list", "acme", Gives::One),
    ("channel test", "acme shop", Gives::One),
    ("channel delete", "acme shop", Gives::One),
    ("chat", "acme -m hello --end-user cleo", Gives::Lines),
    ("session list", "acme --end-user cleo", Gives::One),
    ("session show", "acme {session}", Gives::One),
    ("session messages", "acme {session}", Gives::One),
    ("session search", "acme hello", Gives::One),
    ("session stop", "acme {session} {message}", Gives::One),
    ("session take-over", "acme {of_a_channel}", Gives::One),
    ("session say", "acme {of_a_channel} Hello", Gives::One),
    ("session hand-back", "acme {of_a_channel}", Gives::One),
    ("attachment upload", "acme settings.json", Gives::One),
    ("attachment download", "acme {attachment} -o fetched.txt", Gives::One),
    ("blocklist add", "acme mallory", Gives::One),
    ("blocklist list", "acme", Gives::One),
    ("blocklist remove", "acme {block}", Gives::One),
    ("end-user erase", "acme cleo --yes", Gives::One),
    ("events", "acme", Gives::Lines),
    ("webhook create", "acme https://example.com/hook", Gives::One),
    ("webhook list", "acme", Gives::One),
    ("webhook show", "acme {webhook}", Gives::One),
    ("webhook change", "acme {webhook} --description shop", Gives::One),
    ("webhook rotate-secret", "acme {webhook}", Gives::One),
    ("webhook deliveries", "acme {webhook} --state succeeded", Gives::One),
    ("webhook delivery", "acme {webhook} {delivery}", Gives::One),
    ("webhook replay", "acme {webhook} {delivery}", Gives::One),
    ("webhook delete", "acme {webhook}", Gives::One),
    ("session close", "acme {session}", Gives::One),
    ("usage", "acme", Gives::One),
    ("usage export", "acme", Gives::One),
    ("audit", "acme", Gives::One),
    ("instance stop", "acme", Gives::One),
    ("instance start", "acme", Gives::One),
    ("instance restart", "acme", Gives::One),
    ("migrate up", "", Gives::One),
    ("migrate status", "", Gives::One),
    ("migrate plan", "", Gives::One),
    ("migrate down", "--to 0 --yes", Gives::One),
    ("config default", "", Gives::One),
    ("config check", "", Gives::One),
    ("openapi", "", Gives::One),
    ("errors", "", Gives::One),
    ("healthcheck", "", Gives::One),
    ("completions", "bash", Gives::One),
    ("login", "--email root@example.com", Gives::One),
    ("logout", "", Gives::One),
];

/// Looks until something is there.
async fn until(app: &TestApp, caller: &Caller, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let look = async {
        loop {
            let found = app.get(caller, path).await;
            if found.status == 200 && wanted(&found.json) {
                return found.json;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, look).await.unwrap_or_else(|_| panic!("{path} never came so far"))
}

/// A tenant that was there.
async fn erased(app: &TestApp) -> String {
    let gone = app.tenant("globex").await;
    app.delete(&app.admin().await, "/tenants/globex").await.expect(202);
    app.advance(Duration::from_hours(24 * 365));
    let erasure = format!("/tenants/{}/erasure", gone.id);
    until(app, &app.admin().await, &erasure, |erasure| erasure["statement"].is_string()).await;
    gone.id.to_string()
}

/// What the rows name.
async fn things(app: &TestApp, admin: &Caller, receiver: &Receiver) -> Vec<(&'static str, String)> {
    let make = async |rest: &str, body: Value| {
        let made = app.post(admin, &format!("/tenants/acme/{rest}"), body).await;
        assert!([200, 201, 202].contains(&made.status), "{rest}: {}", made.text);
        made.json
    };
    let id = |made: &Value| made["id"].as_str().unwrap().to_owned();
    let webhook = id(&make("webhooks", json!({"url": receiver.url()})).await);
    let session = id(&make("sessions", json!({"end_user": "ada"})).await);
    let said = make(&format!("sessions/{session}/messages"), json!({"text": "hello"})).await;
    let deliveries = format!("/tenants/acme/webhooks/{webhook}/deliveries?state=succeeded");
    let taken = until(app, admin, &deliveries, |page| !page["items"].as_array().unwrap().is_empty()).await;
    let tenant = app.app.tenant.resolve("acme").await.unwrap();
    let instance = app.instance(&tenant).await;
    let bridge = app.app.secrets.bridge_token(&instance.id, instance.secrets_version).unwrap();
    let told = json!({"channel": "tg1", "umo": "tg1:FriendMessage:7", "platform_message_id": "1", "delivery": "1-a",
        "start": 1, "sender": {"id": "7", "name": "ann"}, "text": "Hi", "addressed": true});
    app.post(&Caller { user: None, credential: Some(bridge) }, "//bridge/v1/inbound", told).await.expect(200);
    let of_a_channel = app.get(admin, "/tenants/acme/sessions?end_user=7").await.expect(200).json["items"][0].clone();
    vec![
        ("webhook", webhook),
        ("session", session),
        ("message", id(&said["message"])),
        ("delivery", id(&taken["items"][0])),
        ("of_a_channel", id(&of_a_channel)),
        ("user", app.member(&tenant, Role::Viewer).await.id().to_string()),
    ]
}

/// The things that commands before have made, by the first of a list.
async fn made(app: &TestApp, admin: &Caller, name: &str) -> Option<String> {
    let list = match name {
        "export" => "exports",
        "key" => "api-keys",
        "block" => "blocklist",
        _ => return None,
    };
    let page = app.get(admin, &format!("/tenants/acme/{list}")).await.expect(200);
    page.json["items"][0]["id"].as_str().map(str::to_owned)
}

fn lines(what: &str, text: &str) -> Vec<Value> {
    let read = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{what}: {error}: {line}"));
    text.lines().map(read).collect()
}

#[tokio::test]
async fn json_is_json_on_every_command() {
    let app = TestApp::configured(|config| {
        config.webhooks.allow_http = true;
        config.webhooks.allow_private = true;
    })
    .await;
    app.app.manager.set_llm_base_url("http://127.0.0.1:1/llm/v1".to_owned());
    app.app.start_loops();
    let gone = erased(&app).await;
    let tenant = app.tenant("acme").await;
    app.app.manager.wait_ready(&tenant.id, PATIENCE).await.unwrap();
    let admin = app.admin().await;
    let receiver = Receiver::start().await;
    let mut things = things(&app, &admin, &receiver).await;
    things.push(("erased", gone));
    let shell = Shell::at(PROGRAM, &app, &admin).await;
    std::fs::write(shell.home().join("settings.json"), r#"{"telegram_token": "1:a"}"#).unwrap();

    let here: BTreeSet<String> = ROWS.iter().map(|(words, ..)| (*words).to_owned()).collect();
    let there: BTreeSet<String> = help::commands().await.into_iter().collect();
    let (missing, stale): (Vec<_>, Vec<_>) = (there.difference(&here).collect(), here.difference(&there).collect());
    assert!(missing.is_empty() && stale.is_empty(), "without a row: {missing:#?}\nwithout a command: {stale:#?}");

    for (words, rest, gives) in ROWS {
        let mut line = format!("{words} {rest}").trim().to_owned();
        while let Some((before, after)) = line.clone().split_once('{') {
            let (name, after) = after.split_once('}').unwrap();
            let known = things.iter().find(|(known, _)| *known == name).map(|(_, id)| id.clone());
            let id = match known {
                Some(id) => id,
                None => made(&app, &admin, name).await.unwrap_or_else(|| panic!("{line}: there is no {name}")),
            };
            line = format!("{before}{id}{after}");
        }
        let words: Vec<&str> = line.split(' ').chain(["--json"]).collect();
        let typed = format!("{PASSWORD}\n");
        match gives {
            Gives::NotHere(reason) => assert!(!reason.is_empty()),
            Gives::One => {
                let said = shell.run_with(&words, &typed).await.json(&line);
                if line.starts_with("attachment upload") {
                    things.push(("attachment", said["id"].as_str().unwrap().to_owned()));
                }
            }
            Gives::OneAndItsCode => {
                let ran = shell.run_with(&words, &typed).await;
                let said: Result<Value, _> = serde_json::from_str(&ran.out);
                assert!(said.is_ok() && [0, 1].contains(&ran.code), "{line}: {}{}", ran.out, ran.err);
            }
            Gives::Lines => {
                let ran = shell.run_with(&words, &typed).await;
                assert_eq!(ran.code, 0, "{line}: {}", ran.err);
                assert!(!lines(&line, &ran.out).is_empty(), "{line}");
            }
            Gives::LinesWithoutEnd => {
                let mut child = shell.start(&words);
                let mut out = BufReader::new(child.stdout.take().unwrap()).lines();
                let first = tokio::time::timeout(PATIENCE, out.next_line()).await.unwrap().unwrap().unwrap();
                assert_eq!(lines(&line, &first).len(), 1);
                interrupt(&child);
                assert_eq!(ended(child, &line).await.code, 130, "{line}");
            }
        }
    }
    // What is asked for in vain is said as JSON, too.
    let refused = shell.run("tenant show nobody --json").await;
    assert_eq!(serde_json::from_str::<Value>(&refused.err).unwrap()["event"], "error");
    assert_eq!((refused.code, refused.out.as_str()), (1, ""));
}

#[tokio::test]
async fn what_a_tenant_used_is_shown_by_day_and_in_all() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let tenant = app.tenant("acme").await;
    app.app.manager.set_llm_base_url("http://127.0.0.1:1/llm/v1".to_owned());
    app.app.start_loops();
    app.app.manager.wait_ready(&tenant.id, PATIENCE).await.unwrap();
    let shell = Shell::at(PROGRAM, &app, &admin).await;
    for _ in 0..3 {
        assert_eq!(shell.run("chat acme -m hello").await.code, 0);
    }
    // What is used at this very moment is used from the next one on.
    app.clock.advance(Duration::from_secs(1));
    let usage = shell.run("usage acme --json").await.json("usage");
    assert_eq!((&usage["days"][0]["messages"], &usage["total"]["messages"]), (&json!(3), &json!(3)));
    let day = usage["days"][0]["period"].as_str().unwrap();
    let shown = shell.run("usage acme").await.out;
    let rows: Vec<Vec<&str>> = shown.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0][..2], ["PERIOD", "MESSAGES"]);
    assert_eq!((rows[1][..2].to_vec(), rows[2][..2].to_vec(), rows.len()), (vec![day, "3"], vec!["total", "3"], 3));
    let before = shell.run("usage acme --from 2020-01-01 --to 2020-01-02").await.out;
    assert!(!before.contains(day) && before.contains("total"), "{before}");
}
