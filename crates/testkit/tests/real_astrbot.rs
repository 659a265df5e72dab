//! A real `AstrBot` between the two fakes: what they speak is what it understands, and directives in a person's words
//! reach the provider through it. Ours is not involved: this is about the fakes alone.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::{collections::BTreeSet, path::Path, process::Stdio, time::Duration};

use astrfleet_testkit::{
    client::Api,
    fake_provider::FakeProvider,
    fake_telegram::{Bot as TelegramBot, Failure, FakeTelegram},
    parts::astrbot,
    ports::free_port,
    processes::signal,
};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::process::{Child, Command};

const START: Duration = Duration::from_mins(3);
const PASSWORD: &str = "Only-for-tests-1";

/// A picture of one pixel.
const PNG: &[u8] =
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\x06\0\0\0\x1f\x15\xc4\x89\0\0\0\rIDATx\xdac\xfc\xcf\xc0P\
    \x0f\0\x04\x85\x01\x80\x84\xa9\x8c!\0\0\0\0IEND\xaeB`\x82";

struct Bot {
    child: Child,
    api: Api,
    folder: tempfile::TempDir,
}

impl Bot {
    fn start(program: &Path, provider: &FakeProvider, platform: &Value) -> Self {
        let folder = tempfile::Builder::new().prefix("astrfleet-bot-").tempdir().unwrap();
        let root = folder.path();
        for name in ["data", "home", "tmp"] {
            std::fs::create_dir(root.join(name)).unwrap();
        }
        std::fs::write(root.join(".astrbot"), "").unwrap();
        std::fs::write(root.join("data/cmd_config.json"), config(provider, platform).to_string()).unwrap();
        let port = free_port();
        let log = std::fs::File::create(root.join("log")).unwrap();
        let child = Command::new(program)
            .arg("run")
            .current_dir(root)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .envs([
                ("LANG", "C.UTF-8"),
                ("PYTHONUTF8", "1"),
                ("PYTHONUNBUFFERED", "1"),
                ("ASTRBOT_DISABLE_METRICS", "1"),
            ])
            .envs([("HOME", root.join("home")), ("TMPDIR", root.join("tmp"))])
            .envs([("DASHBOARD_HOST", "127.0.0.1"), ("DASHBOARD_PORT", &port.to_string())])
            .env("ASTRBOT_DASHBOARD_INITIAL_PASSWORD", PASSWORD)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Self { child, api: Api::new(&format!("http://127.0.0.1:{port}")), folder }
    }

    /// The client of a person in the web chat; logins are limited, so one is enough.
    async fn log_in(&self) -> Api {
        let login = json!({"username": "astrbot", "password": PASSWORD});
        let answer = self.api.post("/api/v1/auth/login", login).await.ok();
        self.api.as_bearer(answer["data"]["token"].as_str().unwrap())
    }

    async fn interrupt(&mut self) -> Option<i32> {
        signal(i32::try_from(self.child.id().unwrap()).unwrap(), Signal::INT);
        tokio::time::timeout(Duration::from_mins(1), self.child.wait()).await.unwrap().unwrap().code()
    }
}

impl Drop for Bot {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            eprintln!("the bot's log:\n{log}");
        }
    }
}

/// What the web chat shows of an answer, put together from what `AstrBot` streams.
async fn chat(person: &Api, text: &str) -> String {
    let events = person.sse("/api/v1/chat", Some(json!({"session_id": "s1", "message": text}))).await.rest().await;
    let plain = events.iter().filter(|event| event.data["type"] == "plain" && event.data["chain_type"].is_null());
    plain.filter_map(|event| event.data["data"].as_str()).collect()
}

fn config(provider: &FakeProvider, platform: &Value) -> Value {
    json!({"config_version": 5,
        "provider_sources": [{"id": "platform", "provider": "openai", "type": "openai_chat_completion",
            "provider_type": "chat_completion", "enable": true, "key": ["sk-tenant"], "api_base": provider.url(),
            "timeout": 120, "proxy": "", "custom_headers": {}}],
        "provider": [{"id": "platform/fast", "provider_source_id": "platform", "model": "fake-fast",
            "modalities": ["text", "image", "tool_use"], "custom_extra_body": {}, "enable": true}],
        "provider_settings": {"streaming_response": true},
        "agent_runner": {"runner_type": "local", "config": {"model": {"provider_id": "platform/fast",
            "fallback_provider_ids": [], "request_max_retries": 1}}},
        "platform_settings": {"rate_limit": {"time": 60, "count": 100_000, "strategy": "stall"}},
        "platform": [platform], "admins_id": [],
        "dashboard": {"enable": true, "username": "astrbot"},
        "t2i_endpoint": "http://127.0.0.1:9/text2img", "disable_metrics": true, "timezone": "UTC",
        "pypi_index_url": "", "log_level": "INFO"})
}

/// One bot for all of it: a start takes ten seconds of processor time.
#[tokio::test]
async fn the_fakes_carry_a_real_bot() {
    let provider = FakeProvider::start();
    let mut telegram = FakeTelegram::start();
    let tg = telegram.bot("42:abc");
    let mut bot = Bot::start(&astrbot().await.astrbot, &provider, &telegram.platform_entry("tg1", "42:abc"));
    tg.wait_until_polling(START).await;

    people_are_answered(&provider, &tg).await;
    directives_reach_the_provider(&provider, &tg).await;
    telegram_goes_wrong(&mut telegram, &tg).await;
    the_web_chat_works_too(&provider, &bot.log_in().await).await;

    assert_eq!(bot.interrupt().await, Some(0));
    assert_eq!(tg.conflicts(), 0, "one bot is never taken for two");
    let called: BTreeSet<String> = tg.calls().into_iter().map(|call| call.method).collect();
    let seen = [
        "deleteMyCommands",
        "deleteWebhook",
        "editMessageText",
        "getMe",
        "getUpdates",
        "sendChatAction",
        "sendMessage",
        "sendMessageDraft",
        "setMyCommands",
    ];
    assert!(seen.iter().all(|method| called.contains(*method)), "{called:?}");
}

async fn people_are_answered(provider: &FakeProvider, tg: &TelegramBot) {
    tg.send_text(7, "ann", "hello");
    tg.wait_for_text(7, "echo: hello").await;
    let [asked] = &provider.chats()[..] else { panic!("one request for one message") };
    assert_eq!((asked.bearer(), asked.user_text().as_str()), (Some("sk-tenant"), "hello"));
    assert!(!tg.drafts().is_empty(), "a private answer grows as a draft");

    tg.send_file(7, "ann", "a.png", PNG, "look at this");
    tg.wait_for_text(7, "echo: look at this").await;
    let asked = provider.chats().pop().unwrap();
    let parts = asked.body["messages"].as_array().unwrap().last().unwrap()["content"].clone();
    let urls = parts.as_array().unwrap().iter().filter_map(|part| part["image_url"]["url"].as_str());
    assert!(urls.clone().any(|url| url.starts_with("data:image/")), "the picture reaches the model: {parts}");

    tg.send_text(-100, "bob", "@fake_42_bot in a group #slow=100 #chunks=20");
    tg.wait_for_text(-100, "echo: in a group #slow=100 #chunks=20 6 7").await;
    tg.wait_for(|sent| sent.iter().any(|sent| sent.chat_id == -100 && sent.edits > 0), START).await;
}

async fn directives_reach_the_provider(provider: &FakeProvider, tg: &TelegramBot) {
    tg.send_text(7, "ann", "slowly #slow=20 #chunks=30");
    tg.wait_for_text(7, "echo: slowly #slow=20 #chunks=30 4 5 6").await;

    tg.send_text(7, "ann", "wait #stall");
    provider.wait_until(|counts| counts.stalled == 1).await;
    provider.release();
    tg.wait_for_text(7, "echo: wait").await;

    tg.send_text(7, "ann", "no money #error=402");
    tg.wait_for_text(7, "Error code: 402").await;
    tg.send_text(7, "ann", "cut #die=2");
    // What came before the cut, and the bot's own words about it.
    tg.wait_for_text(7, "echo: cut LLM").await;
    assert_eq!(provider.counts().died, 1);
}

async fn telegram_goes_wrong(telegram: &mut FakeTelegram, tg: &TelegramBot) {
    tg.fail_next("sendMessage", Failure::CutAfter);
    tg.send_text(8, "eve", "lost answer");
    tg.wait_for_text(8, "echo: lost answer").await;

    telegram.go_down();
    telegram.come_back();
    tg.wait_until_polling(START).await;
    tg.send_text(9, "joe", "after the outage");
    tg.wait_for_text(9, "echo: after the outage").await;

    // A plain bot answers an update as often as it is delivered.
    tg.wait_until_drained().await;
    tg.redeliver(1);
    tg.wait_for(|sent| sent.iter().filter(|sent| sent.chat_id == 9).count() == 2, START).await;
}

async fn the_web_chat_works_too(provider: &FakeProvider, person: &Api) {
    let before = provider.counts();
    assert_eq!(chat(person, "from the web").await, "echo: from the web");
    // The title of the new conversation is a second request, and takes no directive.
    provider.wait_until(|counts| counts.finished == before.finished + 2).await;
    assert_eq!(provider.requests().iter().filter(|request| request.is_title()).count(), 1);

    let answer = chat(person, "look #tool=nothing_such").await;
    assert!(answer.contains("(the tool said: error: Tool nothing_such not found"), "{answer}");
    let answer = chat(person, "look #malformed").await;
    assert!(answer.contains("JSONDecodeError"), "{answer}");
    assert_eq!(chat(person, "look #cut").await, "echo: look #cut", "an end without [DONE] is an end");
    assert_eq!(chat(person, "look #huge=100000").await.len(), 100_000 + "echo: look #huge=100000".len());
}
