//! A login that is kept: renewed when its token ends, by one command at a time, and really ended when it is.

use std::{path::PathBuf, time::Duration};

use astrfleet_testkit::{
    app::{Caller, PASSWORD, TestApp},
    shell::{Shell, ended, interrupt},
};
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

use crate::{
    PROGRAM,
    scripted::{Answer, Scripted, problem},
};

const PATIENCE: Duration = Duration::from_mins(1);
/// Longer than an access token is good for.
const LATER: Duration = Duration::from_mins(16);

fn kept(shell: &Shell) -> PathBuf {
    shell.home().join(".config/astrfleet/login.json")
}

fn read(shell: &Shell) -> Value {
    serde_json::from_str(&std::fs::read_to_string(kept(shell)).unwrap()).unwrap()
}

/// Somebody who has logged in, and may do everything.
async fn logged_in(app: &TestApp) -> Shell {
    app.user("ada@example.com", true).await;
    let shell = Shell::alone(PROGRAM);
    let login = format!("login --url {} --email ada@example.com", app.serve().await);
    let ran = shell.run_with(&login.split(' ').collect::<Vec<_>>(), &format!("{PASSWORD}\n")).await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    shell
}

/// Writes a login by hand, whose token has ended.
fn write(shell: &Shell, url: &str) {
    let login = json!({"url": url, "email": "ada@example.com", "access_token": "old", "refresh_token": "afr_old",
        "expires_at": "2020-01-01T00:00:00Z"});
    std::fs::create_dir_all(kept(shell).parent().unwrap()).unwrap();
    std::fs::write(kept(shell), login.to_string()).unwrap();
}

#[tokio::test]
async fn a_command_goes_on_when_its_token_ends() {
    let app = TestApp::new().await;
    app.app.manager.set_llm_base_url("http://127.0.0.1:1/llm/v1".to_owned());
    let tenant = app.tenant("acme").await;
    app.app.start_loops();
    app.app.manager.wait_ready(&tenant.id, PATIENCE).await.unwrap();
    let shell = logged_in(&app).await;
    let first = read(&shell);

    let mut chat = shell.start(&["chat", "acme", "--json"]);
    let mut typed = chat.stdin.take().unwrap();
    let mut said = BufReader::new(chat.stdout.take().unwrap()).lines();
    let mut events = shell.start(&["events", "acme", "--follow", "--json"]);
    let mut heard = BufReader::new(events.stdout.take().unwrap()).lines();
    for question in ["Hi", "Are you still there?"] {
        typed.write_all(format!("{question}\n").as_bytes()).await.unwrap();
        let done = async { while !said.next_line().await.unwrap().unwrap().contains("\"done\"") {} };
        tokio::time::timeout(PATIENCE, done).await.unwrap();
        app.advance(LATER);
    }
    let wanted =
        async { while !heard.next_line().await.unwrap().unwrap().contains("You said: Are you still there?") {} };
    tokio::time::timeout(PATIENCE, wanted).await.unwrap();
    drop(typed);
    assert_eq!(ended(chat, "chat").await.code, 0);
    interrupt(&events);
    assert_eq!(ended(events, "events").await.code, 130);
    assert_ne!(read(&shell)["access_token"], first["access_token"]);
    assert_eq!(shell.run("tenant list").await.code, 0, "the login is good");
}

#[tokio::test]
async fn commands_at_the_same_moment_renew_a_login_once_each_time() {
    // So short that every command renews it.
    let app = TestApp::configured(|config| config.auth.access_token_ttl_s = 1).await;
    let shell = logged_in(&app).await;
    for _ in 0..3 {
        for ran in join_all((0..6).map(|_| shell.run("tenant list"))).await {
            assert_eq!(ran.code, 0, "{}", ran.err);
        }
    }
    // A token that the platform refuses before its time: whoever is second takes what the first one got.
    let app = TestApp::new().await;
    let shell = logged_in(&app).await;
    app.advance(LATER);
    for ran in join_all((0..6).map(|_| shell.run("tenant list"))).await {
        assert_eq!(ran.code, 0, "{}", ran.err);
    }
}

#[tokio::test]
async fn who_logs_out_later_is_out_all_the_same() {
    let app = TestApp::new().await;
    let shell = logged_in(&app).await;
    let refresh_token = read(&shell)["refresh_token"].clone();
    app.advance(LATER);
    let before =
        app.post(&Caller::nobody(), "/auth/refresh", json!({"refresh_token": refresh_token})).await.expect(200);
    // What is kept has to be good for one use: that one is given back to it.
    let mut stored = read(&shell);
    stored["refresh_token"] = before.json["refresh_token"].clone();
    std::fs::write(kept(&shell), stored.to_string()).unwrap();

    let ran = shell.run("logout").await;
    assert_eq!((ran.code, ran.out.starts_with("Logged out")), (0, true), "{}", ran.err);
    assert!(!kept(&shell).exists());
    let again = before.json["access_token"].as_str().unwrap();
    app.get(&Caller::with(again), "/auth/me").await.expect(401);
}

#[tokio::test]
async fn a_login_that_is_over_is_told_apart_from_a_platform_that_is_away() {
    let shell = Shell::alone(PROGRAM);
    write(&shell, "http://127.0.0.1:9");
    for line in ["tenant list", "logout"] {
        let ran = shell.run(line).await;
        assert_eq!(ran.code, 1, "{line}: {}", ran.out);
        assert!(ran.err.contains("nothing answers") && !ran.err.contains("is over"), "{line}: {}", ran.err);
    }
    assert!(kept(&shell).exists(), "whoever could not say so may try again");

    let busy = Scripted::answering(vec![Answer::Whole(problem(503, "unavailable"))]).await;
    write(&shell, &busy.url());
    let ran = shell.run("tenant list").await;
    assert!(ran.err.contains("cannot be renewed now") && !ran.err.contains("is over"), "{}", ran.err);

    let over = Scripted::answering(vec![Answer::Whole(problem(401, "unauthenticated"))]).await;
    write(&shell, &over.url());
    let ran = shell.run("tenant list").await;
    let hint = format!("`astrfleet login --url {} --email ada@example.com`", over.url());
    assert!(ran.err.contains("is over") && ran.err.contains(&hint), "{}", ran.err);
    assert_eq!(shell.run("logout").await.code, 0, "it is over already");
    assert!(!kept(&shell).exists());
}

#[tokio::test]
async fn ctrl_c_at_a_password_gives_the_terminal_back() {
    let app = TestApp::new().await;
    let shell = Shell::alone(PROGRAM);
    let login = format!("{PROGRAM} login --url {} --email ada@example.com", app.serve().await);
    // A terminal of its own, in which a shell goes on after the command that is interrupted.
    let script = format!("trap : INT; {login}; echo \"ended with $?\"; stty -a");
    let mut terminal = shell.command("script").args(["-qec", &script, "/dev/null"]).spawn().unwrap();
    let (mut typed, mut screen) = (terminal.stdin.take().unwrap(), terminal.stdout.take().unwrap());
    let mut shown = String::new();
    let watched = async {
        let mut bytes = [0; 1024];
        let mut is_pressed = false;
        loop {
            let read = screen.read(&mut bytes).await.unwrap_or(0);
            if read == 0 {
                return;
            }
            shown.push_str(&String::from_utf8_lossy(&bytes[..read]));
            if shown.contains("Password: ") && !is_pressed {
                is_pressed = true;
                typed.write_all(b"\x03").await.unwrap();
            }
        }
    };
    tokio::time::timeout(PATIENCE, watched).await.unwrap();
    assert!(shown.contains("ended with 130"), "{shown}");
    let echoes = shown.split_whitespace().find(|word| word.trim_start_matches('-') == "echo");
    assert_eq!(echoes, Some("echo"), "{shown}");
    terminal.wait().await.unwrap();
}
