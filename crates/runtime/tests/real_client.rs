//! The client against a real `AstrBot` with a fake model provider and a fake Telegram: one bot for all of it, since a
//! start takes ten seconds of a processor.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::{sync::Arc, time::Duration};

use astrfleet_core::{
    Error,
    chat::{BotAttachment, ChatEvent, ChatRequest},
    id::{InstanceId, TenantId},
    ports::{BotAccess, BotClient, BotSpec, Bots, ChannelDraft, Clock, Runtime, testing::CountingRng},
    time::Timestamp,
};
use astrfleet_runtime::{
    astrbot::{AstrBots, ClientLimits},
    process::{ProcessRuntime, Settings},
};
use astrfleet_testkit::{
    fake_provider::{Behaviour, FakeProvider},
    fake_telegram::FakeTelegram,
    parts, processes,
};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use secrecy::ExposeSecret;
use serde_json::{Value, json};

const FAILURE_TEXT: &str = "The model failed: try again in a moment.";
const JWT_SECRET: &str = "5ca1ab1e5ca1ab1e5ca1ab1e5ca1ab1e";
const LLM_KEY: &str = "virtual-key-of-acme";
const TOKEN: &str = "42:telegram-token";
const PATIENCE: Duration = Duration::from_mins(2);

/// The bot looks at the time in our tokens.
struct WallClock;

impl Clock for WallClock {
    fn now(&self) -> Timestamp {
        #[expect(clippy::disallowed_methods, reason = "a real bot has the real time")]
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        Timestamp::from_micros(i64::try_from(since.as_micros()).unwrap())
    }

    fn elapsed(&self) -> Duration {
        static BEGAN: std::sync::LazyLock<std::time::Instant> = std::sync::LazyLock::new(std::time::Instant::now);
        BEGAN.elapsed()
    }
}

struct World {
    provider: FakeProvider,
    telegram: FakeTelegram,
    bots: AstrBots,
    access: BotAccess,
    bot: Box<dyn BotClient>,
    runtime: ProcessRuntime,
    folder: tempfile::TempDir,
}

/// A driver leaves its bots running for the next one to find; here there is none.
impl Drop for World {
    fn drop(&mut self) {
        for pid in processes::working_in(self.folder.path()) {
            processes::signal(pid, rustix::process::Signal::KILL);
        }
    }
}

impl World {
    async fn start() -> Self {
        let environment = parts::astrbot().await;
        let folder = tempfile::tempdir().unwrap();
        let provider = FakeProvider::start();
        provider.require_key(LLM_KEY);
        let (clock, rng) = (Arc::new(WallClock), Arc::new(CountingRng::default()));
        let settings = Settings::new(folder.path().join("bots"), environment.astrbot, environment.version);
        let runtime = ProcessRuntime::new(settings, clock.clone(), rng.clone()).unwrap();
        let spec = BotSpec {
            instance: InstanceId::parse("bot_0123456789abcdef0123456789abcdef").unwrap(),
            tenant: TenantId::parse("ten_0123456789abcdef0123456789abcdef").unwrap(),
            tenant_name: "acme".into(),
            generation: 1,
            port: runtime.free_port(&[]).await.unwrap(),
            llm_base_url: provider.url(),
            llm_key: LLM_KEY.into(),
            model: "fake-fast".into(),
            jwt_secret: JWT_SECRET.into(),
            failure_text: FAILURE_TEXT.into(),
            bridge: astrfleet_core::ports::BridgeSpec {
                url: "http://127.0.0.1:9/bridge/v1".to_owned(),
                token: "token-of-the-bridge".into(),
                when_away: astrfleet_core::ports::WhenAway::Answer,
            },
            memory_bytes: 2 << 30,
            cpu_milli: 2_000,
            terms: "terms".to_owned(),
        };
        let access = BotAccess {
            instance: spec.instance.clone(),
            base_url: format!("http://127.0.0.1:{}", spec.port),
            jwt_secret: JWT_SECRET.into(),
        };
        let bots = AstrBots::new(clock, rng, FAILURE_TEXT, ClientLimits::default()).unwrap();
        let bot = bots.client(&access);
        assert!(!bot.is_ready().await, "nothing runs yet");
        assert!(matches!(bot.channels().await, Err(Error::Unavailable { .. })));
        runtime.start(&spec).await.unwrap();
        let ready = async {
            while !bot.is_ready().await {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::time::timeout(PATIENCE, ready).await.expect("the bot becomes ready");
        let telegram = FakeTelegram::start();
        Self { provider, telegram, bots, access, bot, runtime, folder }
    }

    async fn ask(&self, session: &str, text: &str, attachments: &[BotAttachment]) -> Vec<ChatEvent> {
        self.bot.chat(request(session, text, attachments)).await.unwrap().try_collect().await.unwrap()
    }
}

fn request(session: &str, text: &str, attachments: &[BotAttachment]) -> ChatRequest {
    ChatRequest {
        end_user: "alice!1".into(),
        session: session.into(),
        text: text.into(),
        attachments: attachments.to_vec(),
    }
}

fn shown(events: &[ChatEvent]) -> String {
    let texts = events.iter().filter_map(|event| match event {
        ChatEvent::Delta(text) => Some(text.as_str()),
        _ => None,
    });
    texts.collect()
}

fn draft(world: &World, enabled: bool, token: &str) -> ChannelDraft {
    let settings = world.telegram.platform_entry("tg1", token);
    ChannelDraft { id: "tg1".into(), kind: "telegram".into(), enabled, settings }
}

#[tokio::test]
async fn a_real_bot_is_talked_to() {
    let world = World::start().await;
    world.bot.prepare().await.unwrap();
    world.bot.prepare().await.unwrap();
    answers_are_streamed_and_remembered(&world).await;
    a_failed_model_is_an_error(&world).await;
    an_answer_can_be_stopped(&world).await;
    files_go_both_ways(&world).await;
    the_configuration_is_masked_and_patched(&world).await;
    the_dashboard_gets_no_secret_and_changes_none(&world).await;
    a_telegram_channel_lives(&world).await;
    webhooks_have_a_path(&world).await;
    world.runtime.stop(&world.access.instance).await.unwrap();
    assert!(!world.bot.is_ready().await);
}

async fn answers_are_streamed_and_remembered(world: &World) {
    world.provider.next(Behaviour { chunks: Some(20), ..Behaviour::say("Hello, 世界.") });
    let events = world.ask("ses_one", "hi there", &[]).await;
    let received = events.iter().find_map(|event| match event {
        ChatEvent::Received { record } => Some(*record),
        _ => None,
    });
    let saved = events.iter().find_map(|event| match event {
        ChatEvent::Saved { record } => Some(*record),
        _ => None,
    });
    let text = shown(&events);
    assert!(text.starts_with("Hello, 世界."), "{events:?}");
    assert!(events.iter().filter(|event| matches!(event, ChatEvent::Delta(_))).count() > 1, "{events:?}");
    assert!(events.contains(&ChatEvent::Complete(text.clone())), "{events:?}");
    let used = events.iter().find_map(|event| match event {
        ChatEvent::Usage(usage) => Some(*usage),
        _ => None,
    });
    assert!(used.unwrap().total() > 0);

    let history = world.bot.history("alice!1", "ses_one").await.unwrap();
    assert_eq!(
        history.iter().map(|line| (line.from_bot, line.text.as_str())).collect::<Vec<_>>(),
        [(false, "hi there"), (true, text.as_str())]
    );
    assert_eq!((Some(history[0].record), Some(history[1].record)), (received, saved));
    assert_eq!(history[1].usage, used);
    assert!(world.bot.history("alice!1", "ses_never").await.unwrap().is_empty());
    assert!(world.bot.history("mallory", "ses_one").await.is_err(), "another one's session");
    assert!(world.bot.chat(ChatRequest { end_user: "mallory".into(), ..request("ses_one", "hi", &[]) }).await.is_err());
}

async fn a_failed_model_is_an_error(world: &World) {
    world.provider.next(Behaviour::error(402));
    let events = world.ask("ses_two", "are you there?", &[]).await;
    assert!(events.contains(&ChatEvent::Error(FAILURE_TEXT.into())), "{events:?}");
    assert_eq!(shown(&events), "");
    let history = world.bot.history("alice!1", "ses_two").await.unwrap();
    let lines: Vec<_> = history.iter().map(|line| (line.from_bot, line.failed)).collect();
    assert_eq!(lines, [(false, false), (true, true)], "a failure is no answer: {history:?}");
}

async fn an_answer_can_be_stopped(world: &World) {
    world.provider.next(Behaviour::stall());
    let mut answer = world.bot.chat(request("ses_three", "take your time", &[])).await.unwrap();
    world.provider.wait_until(|counts| counts.stalled > 0).await;
    world.bot.stop_chat("alice!1", "ses_three").await.unwrap();
    let rest = async { while answer.next().await.is_some() {} };
    tokio::time::timeout(PATIENCE, rest).await.expect("the stream ends");
    world.provider.release();
    world.bot.stop_chat("alice!1", "ses_never").await.unwrap();
}

async fn files_go_both_ways(world: &World) {
    const PNG: &[u8] = &[
        0x89, b'P', b'N', b'G', 0x0d, 0x0a, 0x1a, 0x0a, 0, 0, 0, 0x0d, b'I', b'H', b'D', b'R', 0, 0, 0, 1, 0, 0, 0, 1,
        8, 6, 0, 0, 0, 0x1f, 0x15, 0xc4, 0x89, 0, 0, 0, 0x0a, b'I', b'D', b'A', b'T', 0x78, 0x9c, 0x63, 0, 1, 0, 0, 5,
        0, 1, 0x0d, 0x0a, 0x2d, 0xb4, 0, 0, 0, 0, b'I', b'E', b'N', b'D', 0xae, 0x42, 0x60, 0x82,
    ];
    let image = world.bot.upload("alice!1", "dot.png", "image/png", Bytes::from_static(PNG)).await.unwrap();
    assert_eq!(image.kind, "image");
    let events = world.ask("ses_four", "what is this?", &[image]).await;
    assert_ne!(shown(&events), "");
    let sent = world.provider.chats().last().unwrap().body.to_string();
    assert!(sent.contains("data:image/png;base64,"), "the model sees the picture");
    assert!(matches!(world.bot.upload("alice!1", "x", "no type", Bytes::new()).await, Err(Error::Invalid { .. })));

    let path = world.access.base_url.clone() + "/favicon.svg";
    let arguments = json!({"messages": [{"type": "file", "url": path, "text": "icon.svg"}]});
    world.provider.next(Behaviour {
        tool: Some("send_message_to_user".into()),
        tool_arguments: Some(arguments.to_string()),
        ..Behaviour::default()
    });
    let events = world.ask("ses_four", "send me your icon", &[]).await;
    let reference = events.iter().find_map(|event| match event {
        ChatEvent::Attachment { reference, kind } if kind == "file" => Some(reference.clone()),
        _ => None,
    });
    let file =
        world.bot.download("alice!1", &reference.unwrap_or_else(|| panic!("no file in {events:?}"))).await.unwrap();
    let content: Vec<Bytes> = file.content.try_collect().await.unwrap();
    assert!(!content.concat().is_empty());
    assert!(matches!(world.bot.download("alice!1", "../cmd_config.json").await, Err(Error::NotFound { .. })));
}

async fn the_configuration_is_masked_and_patched(world: &World) {
    let before = world.bot.config().await.unwrap();
    for secret in [JWT_SECRET, LLM_KEY] {
        assert!(!before.to_string().contains(secret), "{before}");
    }
    let patch = json!({"wake_prefix": ["!"], "provider_settings": {"websearch_tavily_key": ["tvly-secret"]}});
    let after = world.bot.change_config(&patch).await.unwrap();
    assert_eq!(
        (&after["wake_prefix"], &after["provider_settings"]["websearch_tavily_key"]),
        (&json!(["!"]), &json!(["***"]))
    );
    assert_eq!(after["timezone"], before["timezone"]);
    let again = world.bot.change_config(&after).await.unwrap();
    assert_eq!(again, after, "what was shown may be sent back");
    for patch in [
        json!({"admins_id": ["alice!1"]}),
        json!({"dashboard": {"port": 1}}),
        json!({"platform": [{"id": "x"}]}),
        json!([]),
    ] {
        assert!(matches!(world.bot.change_config(&patch).await, Err(Error::Invalid { .. })), "{patch}");
    }
    assert_ne!(shown(&world.ask("ses_five", "still there?", &[]).await), "", "the model's key is as it was");
}

async fn the_dashboard_gets_no_secret_and_changes_none(world: &World) {
    let token = world.bots.token(&world.access, "owner").unwrap();
    let url = |path: &str| format!("{}{path}", world.access.base_url);
    let browser = reqwest::Client::new();
    let path = "/api/v1/system-config";
    let read = async |path: &str| -> Value {
        let answer = browser.get(url(path)).bearer_auth(token.expose_secret()).send().await.unwrap();
        answer.json().await.unwrap()
    };
    let raw = read(path).await;
    assert!(raw.to_string().contains("tvly-secret") && raw.to_string().contains(JWT_SECRET));
    for path in [
        path,
        "/api/v1/system-config/runtime",
        "/api/v1/config-profiles/default",
        "/api/v1/provider-sources",
        "/api/v1/providers",
        "/api/v1/providers/schema",
        "/api/config/get",
        "/api/v1/bots",
    ] {
        assert_eq!(world.bots.holds_platform_values(path), path != "/api/v1/bots");
        let shown = world.bots.mask_dashboard_answer(path, read(path).await).to_string();
        assert!(!shown.contains(JWT_SECRET) && !shown.contains(LLM_KEY), "{path}");
    }

    let mut written = world.bots.mask_dashboard_answer(path, raw.clone())["data"]["config"].take();
    written["wake_prefix"] = json!(["/"]);
    written["admins_id"] = json!(["alice!1"]);
    let restored = world.bot.restore_dashboard_request("PUT", path, written).await.unwrap();
    let answer = browser.put(url(path)).bearer_auth(token.expose_secret()).json(&restored).send().await.unwrap();
    assert!(answer.text().await.unwrap().contains("\"ok\""));
    let mut expected = raw["data"]["config"].clone();
    expected["wake_prefix"] = json!(["/"]);
    assert_eq!(read(path).await["data"]["config"], expected);

    let foreign = world.bot.restore_dashboard_request("DELETE", "/api/v1/provider-sources/platform", Value::Null).await;
    assert!(matches!(foreign, Err(Error::Forbidden { .. })));
    let profile = world
        .bot
        .restore_dashboard_request("POST", "/api/v1/config-profiles", json!({"name": "second"}))
        .await
        .unwrap();
    assert_eq!(profile["config"]["admins_id"], json!([]));
    let created = browser.post(url("/api/v1/config-profiles")).bearer_auth(token.expose_secret()).json(&profile);
    let created: Value = created.send().await.unwrap().json().await.unwrap();
    let second = format!("/api/v1/config-profiles/{}", created["data"]["conf_id"].as_str().unwrap());
    let own = read(&second).await;
    assert!(!own.to_string().contains(JWT_SECRET) && !own.to_string().contains(LLM_KEY), "it needs neither");
    let mut written = world.bots.mask_dashboard_answer(&second, own)["data"]["config"].take();
    written["provider_settings"]["computer_use_runtime"] = json!("local");
    written["wake_prefix"] = json!(["?"]);
    let restored = world.bot.restore_dashboard_request("PUT", &second, written).await.unwrap();
    let answer = browser.put(url(&second)).bearer_auth(token.expose_secret()).json(&restored).send().await.unwrap();
    assert!(answer.text().await.unwrap().contains("\"ok\""));
    let own = read(&second).await["data"]["config"].take();
    assert_eq!(
        (&own["wake_prefix"], &own["provider_settings"]["computer_use_runtime"]),
        (&json!(["?"]), &json!("none"))
    );
    assert!(!own.to_string().contains(JWT_SECRET));
}

async fn a_telegram_channel_lives(world: &World) {
    let chat = world.telegram.bot(TOKEN);
    assert_eq!(world.bot.channels().await.unwrap(), []);
    world.bot.add_channel(draft(world, true, TOKEN)).await.unwrap();
    chat.wait_until_polling(PATIENCE).await;
    let channels = world.bot.channels().await.unwrap();
    assert_eq!((channels.len(), channels[0].connected, channels[0].status.as_str()), (1, true, "running"));
    assert_eq!(channels[0].settings["telegram_token"], "***");
    assert_eq!(channels[0].webhook_path, None);
    assert!(matches!(world.bot.add_channel(draft(world, true, TOKEN)).await, Err(Error::Conflict { .. })));
    chat.send_text(7, "Bob", "#say=hello-bob");
    chat.wait_for_text(7, "hello-bob").await;

    let mut change = draft(world, false, "***");
    change.settings["start_message"] = json!("Welcome");
    let changed = world.bot.change_channel(change).await.unwrap();
    assert_eq!((changed.enabled, changed.connected, changed.status.as_str()), (false, false, "disabled"));
    assert_eq!(changed.settings["start_message"], "Welcome");
    assert!(!world.bot.test_channel("tg1").await.unwrap().0);
    world.bot.change_channel(draft(world, true, "***")).await.unwrap();
    chat.wait_until_polling(PATIENCE).await;
    assert_eq!(world.bot.test_channel("tg1").await.unwrap(), (true, "it runs, and reports no error".into()));

    let mut other = draft(world, true, TOKEN);
    other.kind = "line".into();
    assert!(matches!(world.bot.change_channel(other).await, Err(Error::Invalid { field: "type", .. })));
    world.bot.delete_channel("tg1").await.unwrap();
    assert_eq!(world.bot.channels().await.unwrap(), []);
    assert!(matches!(world.bot.delete_channel("tg1").await, Err(Error::NotFound { .. })));
    assert!(matches!(world.bot.change_channel(draft(world, true, "***")).await, Err(Error::NotFound { .. })));
    assert!(matches!(world.bot.test_channel("tg1").await, Err(Error::NotFound { .. })));

    world.bot.add_channel(draft(world, true, "42:not-a-token")).await.unwrap();
    let (accepted, words) = world.bot.test_channel("tg1").await.unwrap();
    assert!(!accepted && words.contains("rejected") && !words.contains("not-a-token"), "{words}");
    let refused = world.bot.channels().await.unwrap().remove(0);
    assert_eq!((refused.connected, refused.status.as_str()), (false, "error"));
    world.bot.change_channel(draft(world, true, TOKEN)).await.unwrap();
    chat.wait_until_polling(PATIENCE).await;
    let mended = world.bot.channels().await.unwrap().remove(0);
    assert_eq!((mended.connected, mended.last_error), (true, None));
    world.bot.delete_channel("tg1").await.unwrap();
}

async fn webhooks_have_a_path(world: &World) {
    let settings = json!({"channel_access_token": "access", "channel_secret": "secret"});
    let line = ChannelDraft { id: "line1".into(), kind: "line".into(), enabled: true, settings };
    let channel = world.bot.add_channel(line.clone()).await.unwrap();
    let path = channel.webhook_path.unwrap();
    let uuid = path.strip_prefix("/hooks/").unwrap();
    assert_eq!((uuid.len(), &channel.settings["webhook_uuid"]), (16, &json!(uuid)));
    let hook = format!("{}/api/platform/webhook/{uuid}", world.access.base_url);
    let unsigned = reqwest::Client::new().post(hook).body("{}").send().await.unwrap();
    assert_eq!(unsigned.status(), 400, "the bot knows it, and asks for a signature");
    let settings = json!({"channel_access_token": "***", "channel_secret": "***"});
    let changed = world.bot.change_channel(ChannelDraft { settings, ..line }).await.unwrap();
    assert_eq!(changed.webhook_path.as_deref(), Some(path.as_str()), "its address stays");
    for kind in ["aiocqhttp", "nonsense"] {
        let other = ChannelDraft { id: "x".into(), kind: kind.into(), enabled: true, settings: json!({}) };
        assert!(matches!(world.bot.add_channel(other).await, Err(Error::Invalid { field: "type", .. })), "{kind}");
    }
}
