//! What the commands print, beside a real router on a real database: the text for people as snapshots, and that
//! `--json` is JSON. The help pages stand in `docs/cli.md`, which `make check` holds to the program; here they are read
//! for what every page must have.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{collections::BTreeSet, fmt::Write as _, path::Path, process::Stdio, time::Duration};

use astrfleet_testkit::app::{Caller, PASSWORD, TestApp};
use secrecy::ExposeSecret;
use serde_json::Value;
use tokio::{io::AsyncWriteExt, process::Command};

/// What a command did.
struct Ran {
    code: i32,
    out: String,
    err: String,
}

/// Somebody at a shell on a machine of their own.
struct Shell {
    home: tempfile::TempDir,
    /// Of the platform that they use, and what they prove themselves with.
    target: Option<(String, String)>,
    /// All that was typed and printed.
    transcript: String,
}

impl Shell {
    fn alone() -> Self {
        Self { home: tempfile::tempdir().unwrap(), target: None, transcript: String::new() }
    }

    async fn at(app: &TestApp, caller: &Caller) -> Self {
        let credential = caller.credential.as_ref().unwrap().expose_secret().to_owned();
        Self { target: Some((app.serve().await, credential)), ..Self::alone() }
    }

    fn home(&self) -> &Path {
        self.home.path()
    }

    /// Runs a command as it stands, with `input` as what is typed.
    async fn run_with(&self, words: &[&str], input: &str) -> Ran {
        let mut command = Command::new(env!("CARGO_BIN_EXE_astrfleet"));
        command.args(words).env_clear().env("HOME", self.home()).env("PATH", "/usr/bin:/bin").kill_on_drop(true);
        if let Some((url, credential)) = &self.target {
            command.env("ASTRFLEET_URL", url).env("ASTRFLEET_API_KEY", credential);
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).await.ok();
        let output = tokio::time::timeout(Duration::from_mins(2), child.wait_with_output()).await;
        let output = output.unwrap_or_else(|_| panic!("astrfleet {} did not end", words.join(" "))).unwrap();
        Ran {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    async fn run(&self, line: &str) -> Ran {
        self.run_with(&line.split(' ').collect::<Vec<_>>(), "").await
    }

    /// Runs a command and notes what it printed.
    async fn show(&mut self, line: &str) -> Ran {
        self.show_with(line, "").await
    }

    async fn show_with(&mut self, line: &str, input: &str) -> Ran {
        let ran = self.run_with(&line.split(' ').collect::<Vec<_>>(), input).await;
        let code = if ran.code == 0 { String::new() } else { format!("[exit code {}]\n", ran.code) };
        let _ = writeln!(self.transcript, "$ astrfleet {line}");
        for line in ran.out.lines().chain(ran.err.lines()) {
            let _ = writeln!(self.transcript, "{}", line.trim_end());
        }
        let _ = writeln!(self.transcript, "{code}");
        ran
    }

    /// The transcript without what differs each time.
    fn must_match(&self, name: &str) {
        let home = regex_escaped(&self.home().display().to_string());
        let mut settings = insta::Settings::clone_current();
        // As wide as they were: the columns of a table stay below each other.
        let id = format!("${{1}}_{}", "0".repeat(32));
        for (pattern, replacement) in [
            (home.as_str(), "HOME"),
            (r"\b(ten|usr|ses|msg|bot|key|req|evt|whk|dlv)_[0-9a-f]{32}", id.as_str()),
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
        settings.bind(|| insta::assert_snapshot!(name, self.transcript));
    }
}

fn regex_escaped(text: &str) -> String {
    text.replace('.', r"\.")
}

fn json_of(what: &str, ran: &Ran) -> Value {
    assert_eq!(ran.code, 0, "{what}: {}", ran.err);
    serde_json::from_str(&ran.out).unwrap_or_else(|error| panic!("{what}: {error}: {}", ran.out))
}

#[tokio::test]
async fn where_nothing_runs_it_is_said_how_to_start() {
    let mut shell = Shell::alone();
    for line in [
        "tenant list",
        "instance show acme",
        "chat acme -m hello",
        "tenant list --url http://127.0.0.1:9",
        "tenant list --url http://127.0.0.1:9 --api-key astr_made_up",
        "tenant list --api-key astr_made_up",
        "healthcheck",
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
    shell.must_match("nothing_runs");
}

#[tokio::test]
async fn tenants_people_and_keys() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let mut shell = Shell::at(&app, &admin).await;
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
    let users = json_of("users", &shell.run("user list --json").await);
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
    shell.must_match("tenants_people_and_keys");
}

#[tokio::test]
async fn a_bot_and_a_conversation_with_it() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let tenant = app.tenant("acme").await;
    app.app.manager.set_llm_base_url("http://127.0.0.1:1/llm/v1".to_owned());
    let mut shell = Shell::at(&app, &admin).await;
    shell.show("instance config acme").await;
    app.app.start_loops();
    app.app.manager.wait_ready(&tenant.id, Duration::from_mins(1)).await.unwrap();
    shell.show("instance show acme").await;
    shell.show("instance logs acme").await;
    shell.show("instance open acme").await;
    shell.show("chat acme -m hello").await;
    shell.show_with("chat acme --end-user ada", "Hi\nWhat are your opening hours?\n").await;
    let sessions = json_of("sessions", &shell.run("session list acme --json").await);
    let items = sessions["items"].as_array().unwrap();
    let session = items.iter().find(|session| session["end_user"] == "ada").unwrap()["id"].as_str().unwrap();
    shell.show(&format!("session messages acme {session}")).await;
    shell.show(&format!("session close acme {session}")).await;
    shell.show(&format!("chat acme --session {session} -m hello")).await;
    shell.show("chat acme --session ses_x -m hello").await;
    shell.show("instance config acme").await;
    shell.show("instance config acme --set {").await;
    shell.show("channel list acme").await;
    shell.show("usage acme").await;
    shell.must_match("a_bot_and_a_conversation");
}

#[tokio::test]
async fn what_happens_and_who_is_told() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    app.tenant("acme").await;
    let mut shell = Shell::at(&app, &admin).await;
    shell.show("events acme").await;
    shell.show("webhook list acme").await;
    shell.show("webhook create acme https://example.com/hook --event session.opened --description shop").await;
    shell.show("webhook create acme http://example.com/hook").await;
    shell.show("webhook create acme https://10.0.0.1/").await;
    shell.show("webhook create acme https://example.com/hook --event everything").await;
    let webhooks = json_of("webhooks", &shell.run("webhook list acme --json").await);
    let webhook = webhooks["items"][0]["id"].as_str().unwrap();
    shell.show(&format!("webhook show acme {webhook}")).await;
    shell.show(&format!("webhook change acme {webhook}")).await;
    shell.show(&format!("webhook change acme {webhook} --all-events --disable")).await;
    shell.show(&format!("webhook rotate-secret acme {webhook}")).await;
    shell.show(&format!("webhook deliveries acme {webhook} --state failed")).await;
    shell.show(&format!("webhook deliveries acme {webhook} --state lost --limit 5")).await;
    shell.show(&format!("webhook replay acme {webhook} dlv_x")).await;
    let session = app.post(&admin, "/tenants/acme/sessions", serde_json::json!({"end_user": "ada"})).await.expect(201);
    let session = session.json["id"].as_str().unwrap();
    app.post(&admin, &format!("/tenants/acme/sessions/{session}/close"), serde_json::json!({})).await.expect(200);
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
    shell.must_match("what_happens_and_who_is_told");
}

#[tokio::test]
async fn json_is_json_on_every_command() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let tenant = app.tenant("acme").await;
    app.app.manager.set_llm_base_url("http://127.0.0.1:1/llm/v1".to_owned());
    app.app.start_loops();
    app.app.manager.wait_ready(&tenant.id, Duration::from_mins(1)).await.unwrap();
    let shell = Shell::at(&app, &admin).await;
    // Of an answer, each event is one line.
    let chat = shell.run("chat acme -m hello --json").await;
    assert_eq!(chat.code, 0, "{}", chat.err);
    let events: Vec<Value> = chat.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(events.last().unwrap()["event"], "done");
    for line in [
        "tenant create globex --email hank@globex.example",
        "tenant list",
        "tenant show globex",
        "tenant change globex --display-name Globex",
        "tenant members globex",
        "tenant limits globex",
        "tenant suspend globex",
        "tenant resume globex",
        "tenant delete globex",
        "user list",
        "key list acme",
        "key create acme --name shop --scope chat",
        "instance show acme",
        "instance logs acme",
        "instance config acme",
        "channel list acme",
        "session list acme",
        "webhook create acme https://example.com/hook",
        "webhook list acme",
        "usage acme",
        "audit",
        "audit acme",
        "config default",
        "config check",
        "openapi",
        "errors",
        "healthcheck",
        "logout",
    ] {
        json_of(line, &shell.run(&format!("{line} --json")).await);
    }
    let user = ["user", "create", "--json", "--email", "ada@acme.example"];
    let ada = json_of("user create", &shell.run_with(&user, PASSWORD).await);
    let id = ada["id"].as_str().unwrap();
    json_of("user grant", &shell.run(&format!("user grant {id} --tenant acme --role viewer --json")).await);
    json_of("user revoke", &shell.run(&format!("user revoke {id} --tenant acme --json")).await);
    let keys = json_of("key list", &shell.run("key list acme --json").await);
    let key = keys["items"][0]["id"].as_str().unwrap();
    json_of("key revoke", &shell.run(&format!("key revoke acme {key} --json")).await);
    let session = app.post(&admin, "/tenants/acme/sessions", serde_json::json!({"end_user": "ada"})).await.expect(201);
    let session = session.json["id"].as_str().unwrap();
    json_of("session messages", &shell.run(&format!("session messages acme {session} --json")).await);
    json_of("session close", &shell.run(&format!("session close acme {session} --json")).await);
    for act in ["stop", "start", "restart"] {
        json_of(act, &shell.run(&format!("instance {act} acme --json")).await);
    }
}

#[tokio::test]
async fn a_login_is_kept_until_it_is_ended() {
    let app = TestApp::new().await;
    app.user("ada@example.com", true).await;
    let mut shell = Shell::alone();
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
    shell.must_match("a_login");
}

/// The words below `Commands:` of a help page.
fn commands_of(page: &str) -> Vec<String> {
    let list = page.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let names = list.filter_map(|line| line.strip_prefix("  ").filter(|rest| !rest.starts_with(' ')));
    names.filter_map(|rest| rest.split_whitespace().next()).filter(|name| *name != "help").map(str::to_owned).collect()
}

#[tokio::test]
async fn every_command_has_a_help_page_that_says_what_it_does() {
    let shell = Shell::alone();
    let mut open: Vec<Vec<String>> = vec![Vec::new()];
    let mut seen = BTreeSet::new();
    while let Some(words) = open.pop() {
        let line: Vec<&str> = words.iter().map(String::as_str).chain(["--help"]).collect();
        let page = shell.run_with(&line, "").await;
        let what = line.join(" ");
        assert_eq!((page.code, &*page.err), (0, ""), "{what}");
        let first = page.out.lines().next().unwrap_or_default();
        assert!(!first.is_empty() && !first.starts_with("Usage:"), "{what} does not say what it does");
        assert!(page.out.contains("Usage: astrfleet") && page.out.contains("--json"), "{what}: {}", page.out);
        for line in page.out.lines().filter(|line| line.starts_with("  ") && line.trim_start().starts_with('-')) {
            // An option and what it does are two columns, or two lines.
            let described = line.trim().contains("  ") || page.out.contains(&format!("{line}\n          "));
            assert!(described, "{what}: without a description: {line}");
        }
        for name in commands_of(&page.out) {
            let below: Vec<String> = words.iter().cloned().chain([name]).collect();
            assert!(seen.insert(below.join(" ")));
            open.push(below);
        }
    }
    for expected in ["up", "serve", "doctor", "tenant create", "instance logs", "channel add", "chat", "completions"] {
        assert!(seen.contains(expected), "{expected} is missing: {seen:?}");
    }
}

#[tokio::test]
async fn completions_are_there_for_every_shell() {
    let shell = Shell::alone();
    for (name, mark) in [("bash", "complete -F"), ("zsh", "#compdef astrfleet"), ("fish", "complete -c astrfleet")] {
        let ran = shell.run(&format!("completions {name}")).await;
        assert_eq!((ran.code, &*ran.err), (0, ""), "{name}");
        assert!(ran.out.contains(mark) && ran.out.contains("instance"), "{name}: {}", &ran.out[..200]);
    }
    assert_eq!(shell.run("completions cmd.exe").await.code, 2);
}

#[tokio::test]
async fn the_lists_of_errors_and_of_settings_are_whole() {
    let shell = Shell::alone();
    let errors = shell.run("errors").await.out;
    for (code, status, _) in astrfleet_server::problem::CODES {
        assert!(errors.contains(&format!("| `{code}` | {status} | ")), "{code}");
    }
    let settings = shell.run("config default").await.out;
    assert!(settings.contains("[gateway]") && settings.contains("LOG_LEVEL"));
}
