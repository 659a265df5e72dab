//! The gateway between bots and providers of models, through the real router, before a fake provider that does what it
//! is told.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

mod counted;
mod failing;
mod world;

use std::{
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use astrfleet_core::{ports::Store as _, tenant::Event, usage::Outcome};
use astrfleet_testkit::{app::Caller, fake_provider::FakeProvider};
use secrecy::ExposeSecret as _;
use serde_json::json;

use crate::world::{CHAT, PROVIDER_KEY, World, chat, text_of, upstream, whole};

#[tokio::test]
async fn the_demo_model_says_what_it_is_and_is_counted() {
    let world = World::before(Vec::new()).await;
    let answer = world.ask("Good morning").await.expect(200);
    let text = answer.json["choices"][0]["message"]["content"].as_str().unwrap();
    assert!(text.contains("demo model") && text.contains("LLM_API_KEY") && text.contains("Good morning"), "{text}");
    let streamed = whole(world.stream("Good morning").await).await;
    assert_eq!(text_of(&streamed), text);
    assert!(streamed.ends_with("data: [DONE]\n\n") && !streamed.contains("usage"), "{streamed}");
    let lines = world.ledger(2).await;
    assert_eq!(lines[0].tokens.total(), answer.json["usage"]["total_tokens"].as_u64().unwrap());
    assert!(lines.iter().all(|line| line.outcome == Outcome::Complete && line.upstream == "demo"));
    let models = world.app.get(&world.bot, "//llm/v1/models").await.expect(200);
    assert_eq!(models.json["data"][0]["id"], "demo");
    let title =
        json!({"model": "m", "messages": [{"role": "system", "content": "You are a conversation title generator."}]});
    let title = world.app.post(&world.bot, CHAT, title).await.expect(200);
    assert!(title.json["choices"][0]["message"]["content"].as_str().unwrap().len() < 30);
}

#[tokio::test]
async fn a_request_goes_on_untouched_but_for_the_model_and_the_key() {
    let provider = FakeProvider::start();
    provider.require_key(PROVIDER_KEY);
    let world = World::before(vec![upstream("first", &provider)]).await;
    let body = json!({
        "model": "mapped", "temperature": 0.25, "tools": [{"type": "function", "function": {"name": "look", "parameters": {}}}],
        "messages": [{"role": "user", "content": [
            {"type": "text", "text": "what is this? #tool=look"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        ]}],
    });
    let answer = world.app.post(&world.bot, CHAT, body.clone()).await.expect(200);
    assert_eq!(answer.json["choices"][0]["message"]["tool_calls"][0]["function"]["name"], "look");
    let asked = provider.requests().remove(0);
    let mut expected = body;
    expected["model"] = "first-model".into();
    assert_eq!(asked.body, expected);
    assert_eq!(asked.path, "/v1/chat/completions");
    assert_eq!(asked.bearer(), Some(PROVIDER_KEY));
    let line = world.ledger(1).await.remove(0);
    assert_eq!(
        (line.upstream.as_str(), line.model.as_str(), line.outcome),
        ("first", "first-model", Outcome::Complete)
    );
    assert_eq!(line.tokens.total(), answer.json["usage"]["total_tokens"].as_u64().unwrap());
    assert!(!line.estimated);
    let models = world.app.get(&world.bot, "//llm/v1/models").await.expect(200);
    assert_eq!(models.json["data"][1]["id"], "mapped");
}

#[tokio::test]
async fn only_a_bots_own_key_of_now_is_good() {
    let world = World::before(Vec::new()).await;
    let other = Caller::with("afk-0123456789abcdef0123456789abcdef-1-AAAA");
    for caller in [Caller::nobody(), Caller::with("sk-something"), other, world.app.admin().await] {
        let refused = world.app.post(&caller, CHAT, chat("hello", false)).await.expect(401);
        assert_eq!(refused.json["error"]["code"], "invalid_api_key");
        assert!(world.app.get(&caller, "//llm/v1/models").await.expect(401).json["error"].is_object());
    }
    world.ask("hello").await.expect(200);
    let mut instance = world.app.instance(&world.tenant).await;
    instance.secrets_version += 1;
    world.app.store.instances(&world.tenant.id).update(&instance).await.unwrap();
    world.app.advance(Duration::from_secs(11));
    world.ask("hello").await.expect(401);
    let fresh = world.app.bot(&world.tenant).await;
    world.app.post(&fresh, CHAT, chat("hello", false)).await.expect(200);
    let now = world.app.app.clock.now();
    let suspended = world.tenant.after(Event::Suspended, now, Duration::ZERO);
    world.app.store.tenants().update(&suspended).await.unwrap();
    world.app.advance(Duration::from_mins(1));
    world.app.post(&fresh, CHAT, chat("hello", false)).await.expect(403);
}

#[tokio::test]
async fn what_cannot_be_read_is_refused_in_openais_shape() {
    let world = World::configured(|config| config.llm.max_request_bytes = 1_000).await;
    for (body, status) in [(json!([]), 400), (json!({}), 400), (chat(&"x".repeat(2_000), false), 413)] {
        let refused = world.app.post(&world.bot, CHAT, body).await.expect(status);
        assert!(refused.json["error"]["message"].is_string(), "{}", refused.text);
        assert!(refused.json["error"]["code"].is_string(), "{}", refused.text);
    }
}

/// What is logged, as text.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn the_log_has_neither_keys_nor_what_anybody_wrote() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber =
        tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(move || writer.clone()).finish();
    let guard = tracing::subscriber::set_default(subscriber);
    // Beside a second one, `tracing` asks both about each line. One alone is asked only where the thread that comes by
    // first listens to it, and that may be another test's.
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());
    let provider = FakeProvider::start();
    let world = World::before(vec![upstream("first", &provider)]).await;
    world.ask("a-secret-of-the-user").await.expect(200);
    world.ask("a-secret-of-the-user #error=500").await.expect(424);
    world.ask("a-secret-of-the-user #error=400").await.expect(400);
    whole(world.stream("a-secret-of-the-user #die").await).await;
    drop(guard);
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("a model was called") && log.contains("a provider failed"), "{log}");
    let key = world.bot.credential.as_ref().unwrap().expose_secret();
    for secret in ["a-secret-of-the-user", PROVIDER_KEY, key] {
        assert!(!log.contains(secret), "{secret} in {log}");
    }
}
