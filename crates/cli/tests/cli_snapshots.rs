//! What the commands print for people, beside a real router on a real database, as snapshots. What else commands do is
//! held to in `commands`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::time::Duration;

use astrfleet_core::tenant::Tenant;
use astrfleet_testkit::{
    app::{Caller, PASSWORD, TestApp},
    shell::Shell,
};
use serde_json::{Value, json};

const PROGRAM: &str = env!("CARGO_BIN_EXE_astrfleet");

/// The transcript without what differs each time.
fn must_match(shell: &Shell, name: &str) {
    let home = regex_escaped(&shell.home().display().to_string());
    let mut settings = insta::Settings::clone_current();
    // As wide as they were: the columns of a table stay below each other.
    let id = format!("${{1}}_{}", "0".repeat(32));
    for (pattern, replacement) in [
        (home.as_str(), "HOME"),
        (r"\b(ten|usr|ses|msg|bot|key|req|evt|whk|dlv|blk|att|exp)_[0-9a-f]{32}", id.as_str()),
        (r"\beyJ[A-Za-z0-9_.-]+", "STATEMENT"),
        (r"\bwhsec_[A-Za-z0-9+/=]{44}", "whsec_SECRET"),
        (r"\bastr_[A-Za-z0-9_-]{43}", "astr_SECRET"),
        (r"\bastr_[A-Za-z0-9_-]{7}\b", "astr_1234567"),
        (r"\?ticket=[A-Za-z0-9_-]{43}", "?ticket=TICKET"),
        (r"127\.0\.0\.1:\d+", "127.0.0.1:PORT"),
        (r"\d{4}-\d\d-\d\dT[0-9:]{8}\.\d{6}Z", "2026-01-01T00:00:00.000000Z"),
    ] {
        settings.add_filter(pattern, replacement);
    }
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, shell.transcript));
}

fn regex_escaped(text: &str) -> String {
    text.replace('.', r"\.")
}

#[tokio::test]
async fn where_nothing_runs_it_is_said_how_to_start() {
    let mut shell = Shell::alone(PROGRAM);
    for line in [
        "tenant list",
        "instance show acme",
        "chat acme -m hello",
        "tenant list --url http://127.0.0.1:9",
        "tenant list --url http://127.0.0.1:9 --api-key astr_made_up",
        "tenant list --api-key astr_made_up",
        "healthcheck --url http://127.0.0.1:9",
        "logout",
        "serve --roles cook",
    ] {
        shell.show(line).await;
    }
    for said in ["tenant list", "chat acme -m hello"] {
        let ran = shell.run(said).await;
        assert_eq!(ran.code, 1, "{said}");
        assert!(ran.err.contains("astrfleet up"), "{said}: {}", ran.err);
    }
    let error: Value = serde_json::from_str(&shell.run("tenant list --json").await.err).unwrap();
    assert_eq!(error["event"], "error");
    must_match(&shell, "nothing_runs");
}

#[tokio::test]
async fn tenants_people_and_keys() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let mut shell = Shell::at(PROGRAM, &app, &admin).await;
    shell.show("healthcheck").await;
    shell.show("tenant list").await;
    shell.show("tenant create acme --email ada@acme.example --display-name Acme").await;
    shell.show("tenant create acme --email eve@acme.example").await;
    shell.show("tenant create Not_A_Label --email eve@acme.example").await;
    shell.show("tenant list").await;
    shell.show("tenant show acme").await;
    shell.show("tenant show globex").await;
    shell.show("tenant change acme --plan made-up").await;
    shell.show("tenant limits acme").await;
    shell.show_with("user create --email ada@acme.example --display-name Ada", &format!("{PASSWORD}\n")).await;
    shell.show_with("user create --email eve@acme.example", "").await;
    let users = shell.run("user list --json").await.json("users");
    let people = users["items"].as_array().unwrap();
    let ada = people.iter().find(|user| user["email"] == "ada@acme.example").unwrap()["id"].as_str().unwrap();
    shell.show(&format!("user grant {ada} --tenant acme --role agent")).await;
    shell.show(&format!("user grant {ada} --tenant acme --role king")).await;
    shell.show("tenant members acme").await;
    shell.show(&format!("user revoke {ada} --tenant acme")).await;
    shell.show("key create acme --name website --scope chat").await;
    shell.show("key list acme").await;
    shell.show("key create acme --name website --scope everything").await;
    shell.show("session list acme").await;
    shell.show("usage acme").await;
    shell.show("tenant suspend acme").await;
    shell.show("tenant resume acme").await;
    shell.show("tenant delete acme").await;
    shell.show("audit acme").await;
    must_match(&shell, "tenants_people_and_keys");
}

#[tokio::test]
async fn a_bot_and_a_conversation_with_it() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let tenant = app.tenant("acme").await;
    app.app.manager.set_llm_base_url("http://127.0.0.1:1/llm/v1".to_owned());
    let mut shell = Shell::at(PROGRAM, &app, &admin).await;
    shell.show("instance config acme").await;
    app.app.start_loops();
    app.app.manager.wait_ready(&tenant.id, Duration::from_mins(1)).await.unwrap();
    shell.show("instance show acme").await;
    shell.show("instance logs acme").await;
    shell.show("instance open acme").await;
    shell.show("chat acme -m hello").await;
    shell.show_with("chat acme --end-user ada", "Hi\nWhat are your opening hours?\n").await;
    let sessions = shell.run("session list acme --json").await.json("sessions");
    let items = sessions["items"].as_array().unwrap();
    let session = items.iter().find(|session| session["end_user"] == "ada").unwrap()["id"].as_str().unwrap();
    shell.show(&format!("session messages acme {session}")).await;
    shell.show(&format!("session close acme {session}")).await;
    shell.show(&format!("chat acme --session {session} -m hello")).await;
    shell.show("chat acme --session ses_x -m hello").await;
    shell.show("instance config acme").await;
    shell.show("instance config acme --set {").await;
    shell.show("channel list acme").await;
    // What is used at this very moment is used from the next one on.
    app.clock.advance(Duration::from_secs(1));
    shell.show("usage acme").await;
    must_match(&shell, "a_bot_and_a_conversation");
}

/// A conversation of an IM channel, taken over: its session.
async fn taken_over(app: &TestApp, tenant: &Tenant, admin: &Caller) -> String {
    let instance = app.instance(tenant).await;
    let token = app.app.secrets.bridge_token(&instance.id, instance.secrets_version).unwrap();
    let bridge = Caller { user: None, credential: Some(token) };
    let told = json!({"channel": "tg1", "umo": "tg1:FriendMessage:7", "platform_message_id": "1", "delivery": "1-a",
        "start": 1, "sender": {"id": "7", "name": "ann"}, "text": "Hi", "addressed": true});
    app.post(&bridge, "//bridge/v1/inbound", told).await.expect(200);
    let sessions = app.get(admin, "/tenants/acme/sessions?end_user=7").await.expect(200);
    sessions.json["items"][0]["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn what_people_do_in_conversations() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let tenant = app.tenant("acme").await;
    app.app.manager.set_llm_base_url("http://127.0.0.1:1/llm/v1".to_owned());
    app.app.start_loops();
    app.app.manager.wait_ready(&tenant.id, Duration::from_mins(1)).await.unwrap();
    let mut shell = Shell::at(PROGRAM, &app, &admin).await;
    let session = taken_over(&app, &tenant, &admin).await;
    shell.show("session list acme --end-user 7").await;
    shell.show("session list acme --end-user a&b").await;
    shell.show(&format!("session say acme {session} Hello")).await;
    shell.show(&format!("session take-over acme {session}")).await;
    shell.show(&format!("session say acme {session} Hello")).await;
    assert_eq!(app.bots.said(), [("tg1:FriendMessage:7".to_owned(), "Hello".to_owned())]);
    shell.show(&format!("session hand-back acme {session}")).await;
    shell.show(&format!("session show acme {session}")).await;
    shell.show("chat acme -m hello --end-user ada").await;
    let own = app.get(&admin, "/tenants/acme/sessions?end_user=ada").await.expect(200);
    let own = own.json["items"][0]["id"].as_str().unwrap().to_owned();
    shell.show(&format!("session say acme {own} Hello")).await;
    let said = app.get(&admin, &format!("/tenants/acme/sessions/{own}/messages")).await.expect(200);
    let message = said.json["items"][0]["id"].as_str().unwrap().to_owned();
    shell.show(&format!("session stop acme {own} {message}")).await;
    shell.show("blocklist list acme").await;
    shell.show("blocklist add acme mallory --channel api --reason rude").await;
    shell.show("blocklist list acme").await;
    let blocks = shell.run("blocklist list acme --json").await.json("blocks");
    shell.show(&format!("blocklist remove acme {}", blocks["items"][0]["id"].as_str().unwrap())).await;
    std::fs::write(shell.home().join("a.txt"), "content of a file").unwrap();
    shell.show("attachment upload acme b.txt").await;
    let stored = shell.run("attachment upload acme a.txt --json").await.json("attachment");
    let id = stored["id"].as_str().unwrap();
    shell.show(&format!("attachment download acme {id} -o a.txt")).await;
    shell.show(&format!("attachment download acme {id} -o b.txt")).await;
    assert_eq!(std::fs::read_to_string(shell.home().join("b.txt")).unwrap(), "content of a file");
    shell.show("end-user erase acme ada").await;
    shell.show("end-user erase acme ada --yes -o ada.jws").await;
    let statement = std::fs::read_to_string(shell.home().join("ada.jws")).unwrap();
    assert_eq!(statement.trim().split('.').count(), 3, "a JWS: {statement}");
    shell.show("tenant change acme --retention-days 7").await;
    shell.show("tenant erasure acme").await;
    shell.show("usage acme --from 2020-01-01 --to 2020-01-02").await;
    shell.show("usage acme --from yesterday").await;
    must_match(&shell, "what_people_do_in_conversations");
}

#[tokio::test]
async fn what_happens_and_who_is_told() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    app.tenant("acme").await;
    let mut shell = Shell::at(PROGRAM, &app, &admin).await;
    shell.show("events acme").await;
    shell.show("webhook list acme").await;
    shell.show("webhook create acme https://example.com/hook --event session.opened --description shop").await;
    shell.show("webhook create acme http://example.com/hook").await;
    shell.show("webhook create acme https://10.0.0.1/").await;
    shell.show("webhook create acme https://example.com/hook --event everything").await;
    let webhooks = shell.run("webhook list acme --json").await.json("webhooks");
    let webhook = webhooks["items"][0]["id"].as_str().unwrap();
    shell.show(&format!("webhook show acme {webhook}")).await;
    shell.show(&format!("webhook change acme {webhook}")).await;
    shell.show(&format!("webhook change acme {webhook} --all-events --disable")).await;
    shell.show(&format!("webhook rotate-secret acme {webhook}")).await;
    shell.show(&format!("webhook deliveries acme {webhook} --state failed")).await;
    shell.show(&format!("webhook deliveries acme {webhook} --state lost --limit 5")).await;
    shell.show(&format!("webhook replay acme {webhook} dlv_x")).await;
    let session = app.post(&admin, "/tenants/acme/sessions", json!({"end_user": "ada"})).await.expect(201);
    let session = session.json["id"].as_str().unwrap();
    app.post(&admin, &format!("/tenants/acme/sessions/{session}/close"), json!({})).await.expect(200);
    shell.show("events acme").await;
    shell.show(&format!("events acme --session {session}")).await;
    shell.show("events acme --after 7").await;
    shell.show("events globex --follow").await;
    let events = shell.run("events acme --json").await;
    let events: Vec<Value> = events.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(events[1]["event"], "session.closed");
    let after = shell.run(&format!("events acme --after {} --json", events[0]["id"].as_str().unwrap())).await;
    assert_eq!(serde_json::from_str::<Value>(&after.out).unwrap(), events[1]);
    shell.show(&format!("webhook delete acme {webhook}")).await;
    must_match(&shell, "what_happens_and_who_is_told");
}

#[tokio::test]
async fn a_login_is_kept_until_it_is_ended() {
    let app = TestApp::new().await;
    app.user("ada@example.com", true).await;
    let mut shell = Shell::alone(PROGRAM);
    let url = app.serve().await;
    let login = format!("login --url {url} --email ada@example.com");
    shell.show_with(&login, "not the password\n").await;
    shell.show_with(&login, "").await;
    shell.show_with(&login, &format!("{PASSWORD}\n")).await;
    shell.show("tenant list").await;
    let kept = shell.home().join(".config/astrfleet/login.json");
    let text = std::fs::read_to_string(&kept).unwrap();
    assert!(!text.contains(PASSWORD), "the password is kept");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&kept).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600, "others can read the login");
    shell.show("logout").await;
    assert!(!kept.exists());
    shell.show("logout").await;
    let after = shell.run("tenant list").await;
    assert_eq!(after.code, 1);
    must_match(&shell, "a_login");
}

#[tokio::test]
async fn completions_are_there_for_every_shell() {
    let shell = Shell::alone(PROGRAM);
    for (name, mark) in [("bash", "complete -F"), ("zsh", "#compdef astrfleet"), ("fish", "complete -c astrfleet")] {
        let ran = shell.run(&format!("completions {name}")).await;
        assert_eq!((ran.code, &*ran.err), (0, ""), "{name}");
        assert!(ran.out.contains(mark) && ran.out.contains("instance"), "{name}: {}", &ran.out[..200]);
    }
    assert_eq!(shell.run("completions cmd.exe").await.code, 2);
}

#[tokio::test]
async fn the_lists_of_errors_and_of_settings_are_whole() {
    let shell = Shell::alone(PROGRAM);
    let errors = shell.run("errors").await.out;
    for (code, status, _) in astrfleet_server::problem::CODES {
        assert!(errors.contains(&format!("| `{code}` | {status} | ")), "{code}");
    }
    let settings = shell.run("config default").await.out;
    assert!(settings.contains("[gateway]") && settings.contains("LOG_LEVEL"));
}
