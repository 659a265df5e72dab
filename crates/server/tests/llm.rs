//! The gateway between bots and providers of models, through the real router, before a fake provider that does what it
//! is told.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use astrfleet_core::{
    ports::Store as _,
    tenant::{Event, Tenant},
    time::Timestamp,
    usage::{Outcome, UsageRecord},
};
use astrfleet_server::config::{CachedAnswers, ServerConfig, UpstreamConfig};
use astrfleet_testkit::{
    app::{Answer, Caller, TestApp},
    fake_provider::{Behaviour, FakeProvider, HeadersOnly},
};
use axum::{
    body::{Body, BodyDataStream},
    http::{Request, Response},
};
use futures_util::StreamExt as _;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};

const CHAT: &str = "//llm/v1/chat/completions";
const PROVIDER_KEY: &str = "sk-provider-key-that-no-bot-may-see";
const PATIENCE: Duration = Duration::from_secs(30);

fn upstream(name: &str, provider: &FakeProvider) -> UpstreamConfig {
    UpstreamConfig {
        name: name.to_owned(),
        base_url: provider.url(),
        api_key: Some(PROVIDER_KEY.into()),
        models: BTreeMap::from([("mapped".to_owned(), format!("{name}-model"))]),
        timeout_s: 30,
    }
}

/// A platform with one tenant, whose bot asks.
struct World {
    app: TestApp,
    tenant: Tenant,
    bot: Caller,
}

impl World {
    async fn before(upstreams: Vec<UpstreamConfig>) -> Self {
        Self::configured(|config| config.llm.upstreams = upstreams).await
    }

    async fn configured(change: impl FnOnce(&mut ServerConfig)) -> Self {
        let app = TestApp::configured(change).await;
        let tenant = app.tenant("acme").await;
        let bot = Self::key_of(&app, &tenant).await;
        Self { app, tenant, bot }
    }

    async fn key_of(app: &TestApp, tenant: &Tenant) -> Caller {
        let instance = app.instance(tenant).await;
        let key = app.app.secrets.llm_key(&instance.id, instance.secrets_version).unwrap();
        Caller { user: None, credential: Some(key) }
    }

    async fn ask(&self, text: &str) -> Answer {
        self.app.post(&self.bot, CHAT, chat(text, false)).await
    }

    async fn stream(&self, text: &str) -> Response<Body> {
        self.stream_of(&chat(text, true)).await
    }

    async fn stream_of(&self, body: &Value) -> Response<Body> {
        let key = self.bot.credential.as_ref().map(SecretString::expose_secret).unwrap();
        let request = Request::post(&CHAT[1..])
            .header("authorization", format!("Bearer {key}"))
            .header("content-type", "application/json")
            .body(Body::from(body.to_string()))
            .unwrap();
        self.app.raw(request).await
    }

    /// The ledger, the oldest first, as soon as it has so many lines.
    async fn ledger(&self, lines: usize) -> Vec<UsageRecord> {
        let reading = async {
            loop {
                let page = astrfleet_core::page::PageRequest { limit: 100, after: None };
                let mut found = self.app.store.usage(&self.tenant.id).list(&page).await.unwrap().items;
                if found.len() >= lines {
                    found.reverse();
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let found = tokio::time::timeout(PATIENCE, reading).await.expect("the ledger gets its lines");
        assert_eq!(found.len(), lines);
        found
    }

    async fn failure(&self) -> Option<String> {
        let instance = self.app.instance(&self.tenant).await;
        self.app.app.llm.failure_since(&instance.id, Timestamp::default()).map(|failure| failure.code)
    }
}

fn chat(text: &str, stream: bool) -> Value {
    json!({"model": "m", "messages": [{"role": "user", "content": text}], "stream": stream})
}

async fn whole(response: Response<Body>) -> String {
    let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
    String::from_utf8(bytes.to_vec()).unwrap()
}

async fn next(stream: &mut BodyDataStream) -> String {
    let piece = tokio::time::timeout(PATIENCE, stream.next()).await.expect("a piece comes");
    String::from_utf8(piece.unwrap().unwrap().to_vec()).unwrap()
}

/// The text of a stream's pieces.
fn text_of(stream: &str) -> String {
    let chunks = stream.lines().filter_map(|line| serde_json::from_str::<Value>(line.strip_prefix("data: ")?).ok());
    chunks.filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str().map(str::to_owned)).collect()
}

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
async fn a_stream_is_passed_on_and_counted_whether_or_not_the_bot_asks_for_its_usage() {
    let provider = FakeProvider::start();
    let world = World::before(vec![upstream("first", &provider)]).await;
    let response = world.stream("one two #chunks=50").await;
    assert_eq!(response.headers()["content-type"], "text/event-stream; charset=utf-8");
    let plain = whole(response).await;
    assert!(text_of(&plain).starts_with("echo: one two") && text_of(&plain).ends_with(" 49"));
    assert!(plain.ends_with("data: [DONE]\n\n") && !plain.contains("prompt_tokens"), "{plain}");
    let mut body = chat("one two #chunks=50", true);
    body["stream_options"] = json!({"include_usage": true});
    let with_usage = whole(world.stream_of(&body).await).await;
    assert!(with_usage.contains("\"completion_tokens\":50"), "{with_usage}");
    for line in world.ledger(2).await {
        assert_eq!((line.tokens.prompt_tokens, line.tokens.completion_tokens), (3, 50));
        assert_eq!((line.outcome, line.estimated), (Outcome::Complete, false));
    }
}

#[tokio::test]
async fn what_had_passed_is_counted_when_the_bot_goes_away() {
    let provider = FakeProvider::start();
    let world = World::before(vec![upstream("first", &provider)]).await;
    let mut stream = world.stream("#stall=3 one two three four").await.into_body().into_data_stream();
    let mut seen = String::new();
    while text_of(&seen).len() < "echo: #stall=3 one ".len() {
        seen.push_str(&next(&mut stream).await);
    }
    drop(stream);
    provider.wait_until(|counts| counts.cancelled == 1).await;
    let line = world.ledger(1).await.remove(0);
    assert_eq!((line.outcome, line.estimated), (Outcome::Aborted, true));
    assert_eq!(line.tokens.completion_tokens, (text_of(&seen).len() as u64).div_ceil(4));
    assert!(line.tokens.prompt_tokens > 10);
    assert_eq!(world.failure().await, None, "it is no failure of the model");
}

#[tokio::test]
async fn a_stream_that_breaks_off_says_so() {
    let provider = FakeProvider::start();
    let world = World::before(vec![upstream("first", &provider)]).await;
    for directive in ["#die=2", "#cut"] {
        let seen = whole(world.stream(&format!("{directive} one two three four")).await).await;
        assert!(seen.contains("\"code\":\"model_failed\"") && !seen.contains("[DONE]"), "{seen}");
        assert!(text_of(&seen).starts_with("echo: "), "{seen}");
    }
    let lines = world.ledger(2).await;
    assert!(lines.iter().all(|line| line.outcome == Outcome::Failed && line.estimated && line.tokens.total() > 10));
    assert_eq!(world.failure().await.as_deref(), Some("model_failed"));
}

#[tokio::test]
async fn silence_is_not_waited_for_without_end() {
    let provider = FakeProvider::start();
    let world = World::before(vec![UpstreamConfig { timeout_s: 1, ..upstream("first", &provider) }]).await;
    let answer = world.ask("#stall=0").await.expect(424);
    assert_eq!(answer.json["error"]["code"], "model_failed");
    let seen = whole(world.stream("#stall=1 one two").await).await;
    assert!(seen.contains("\"code\":\"model_failed\""), "{seen}");
}

/// Each of them was given the whole prompt, and has to be paid for it.
#[tokio::test]
async fn a_call_that_nobody_answers_in_time_costs_its_prompt_at_each_provider() {
    let (first, second) = (FakeProvider::start(), FakeProvider::start());
    let short = |name, provider| UpstreamConfig { timeout_s: 1, ..upstream(name, provider) };
    let world = World::before(vec![short("first", &first), short("second", &second)]).await;
    // Silent before the headers, after them, and in the middle of a stream's first event.
    world.ask("#stall=0").await.expect(424);
    world.ask("#stall=1").await.expect(424);
    assert_eq!(world.stream("#headers=silence").await.status(), 424);
    let lines = world.ledger(6).await;
    for (line, name) in lines.iter().zip(["first", "second"].into_iter().cycle()) {
        assert_eq!((line.upstream.as_str(), line.outcome, line.estimated), (name, Outcome::Failed, true));
        assert!(line.tokens.prompt_tokens > 10, "{line:?}");
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_or_is_too_long_costs_what_was_given_and_read() {
    let (first, second) = (FakeProvider::start(), FakeProvider::start());
    let world = World::configured(|config| {
        config.llm.upstreams = vec![upstream("first", &first), upstream("second", &second)];
        config.llm.max_answer_bytes = 2_000;
    })
    .await;
    for (directive, lines_before, asked) in [("#die", 0, 2), ("#malformed", 2, 2), ("#huge=100000", 4, 1)] {
        world.ask(&format!("{directive} one two three")).await.expect(424);
        let lines = world.ledger(lines_before + asked).await;
        for (line, name) in lines[lines_before..].iter().zip(["first", "second"]) {
            assert_eq!((line.upstream.as_str(), line.outcome, line.estimated), (name, Outcome::Failed, true));
            assert!(line.tokens.prompt_tokens > 10, "{line:?}");
            assert!(directive != "#malformed" || line.tokens.completion_tokens > 10, "{line:?}");
        }
    }
    assert_eq!(second.counts().requests, 2, "an answer that is too long here is too long there");
    // What was refused, or never arrived, costs nothing.
    world.ask("#error=500").await.expect(424);
    assert_eq!(world.ledger(6).await.pop().unwrap().tokens.total(), 0);
}

#[tokio::test]
async fn what_nobody_answered_counts_against_the_plan() {
    let provider = FakeProvider::start();
    let world = World::configured(|config| {
        config.llm.upstreams = vec![UpstreamConfig { timeout_s: 1, ..upstream("first", &provider) }];
        for plan in config.plans.values_mut() {
            plan.tokens_per_month = 10;
        }
    })
    .await;
    world.ask("#stall=0").await.expect(424);
    world.ledger(1).await;
    world.ask("hello").await.expect(402);
}

/// So far the bot was told nothing, and need not know.
#[tokio::test]
async fn the_next_provider_is_asked_where_a_stream_ends_before_its_first_event() {
    let (first, second) = (FakeProvider::start(), FakeProvider::start());
    let short = UpstreamConfig { timeout_s: 1, ..upstream("first", &first) };
    let world = World::before(vec![short, upstream("second", &second)]).await;
    let mut lines = 0;
    for (instead, costs) in [
        (HeadersOnly::Silence, true),
        (HeadersOnly::Death, true),
        (HeadersOnly::End, true),
        (HeadersOnly::Error, false),
    ] {
        world.app.advance(Duration::from_secs(200));
        first.next(Behaviour { headers_only: Some(instead), ..Behaviour::default() });
        let seen = whole(world.stream("hello").await).await;
        assert_eq!(text_of(&seen), "echo: hello", "{instead:?}");
        assert!(!seen.contains("error") && seen.ends_with("data: [DONE]\n\n"), "{seen}");
        lines += 1 + usize::from(costs);
        let ledger = world.ledger(lines).await;
        assert_eq!(ledger[lines - 1].upstream, "second");
        if costs {
            let line = &ledger[lines - 2];
            assert_eq!((line.upstream.as_str(), line.outcome), ("first", Outcome::Failed), "{instead:?}");
            assert!(line.tokens.prompt_tokens > 10);
        }
    }
    assert_eq!(world.failure().await, None);
}

#[tokio::test]
async fn a_provider_whose_streams_break_off_is_left_out_for_a_while() {
    let (first, second) = (FakeProvider::start(), FakeProvider::start());
    let world = World::before(vec![upstream("first", &first), upstream("second", &second)]).await;
    first.always(Behaviour { die_after: Some(1), ..Behaviour::default() });
    for _ in 0..3 {
        assert!(whole(world.stream("one two three").await).await.contains("broke off"));
    }
    assert_eq!(text_of(&whole(world.stream("hello").await).await), "echo: hello");
    assert_eq!((first.counts().requests, second.counts().requests), (3, 1));
    // It is tried again, by one call; one that is left in the middle says that it works.
    first.always(Behaviour::default());
    world.app.advance(Duration::from_secs(11));
    assert_eq!(text_of(&whole(world.stream("hello").await).await), "echo: hello");
    world.ask("hello").await.expect(200);
    assert_eq!((first.counts().requests, second.counts().requests), (5, 1));
}

#[tokio::test]
async fn an_answer_that_is_an_error_is_a_failure() {
    let (first, second) = (FakeProvider::start(), FakeProvider::start());
    let world = World::configured(|config| {
        config.llm.upstreams = vec![upstream("first", &first), upstream("second", &second)];
        config.llm.cache.max_bytes = 1 << 20;
        config.llm.cache.answers = CachedAnswers::All;
    })
    .await;
    let failing = Behaviour { headers_only: Some(HeadersOnly::Error), ..Behaviour::default() };
    first.always(failing.clone());
    for number in 0..4 {
        let answer = world.ask(&format!("hello {number}")).await.expect(200);
        assert_eq!(answer.json["choices"][0]["message"]["content"], format!("echo: hello {number}"));
    }
    assert_eq!(first.counts().requests, 3, "then it is left out");
    second.always(failing);
    for _ in 0..2 {
        world.ask("hello again").await.expect(424);
    }
    assert_eq!(
        second.counts().requests,
        7,
        "asked twice and once more, until it is left out as well: nothing of it was kept"
    );
}

/// A clock that is set back shuts nobody out.
#[tokio::test]
async fn a_provider_is_tried_again_whatever_the_clock_is_set_to() {
    let (first, second) = (FakeProvider::start(), FakeProvider::start());
    let world = World::before(vec![upstream("first", &first), upstream("second", &second)]).await;
    first.always(Behaviour::error(500));
    for _ in 0..3 {
        world.ask("hello").await.expect(200);
    }
    first.always(Behaviour::default());
    let now = world.app.app.clock.now();
    world.app.clock.set(now.minus(Duration::from_hours(1)));
    world.app.advance(Duration::from_secs(11));
    world.ask("hello").await.expect(200);
    assert_eq!((first.counts().requests, second.counts().requests), (4, 3));
}

#[tokio::test]
async fn the_next_provider_is_asked_before_the_first_byte() {
    let (first, second) = (FakeProvider::start(), FakeProvider::start());
    let world = World::before(vec![upstream("first", &first), upstream("second", &second)]).await;
    for status in [500, 401, 429, 404, 503] {
        // Each begins with nothing remembered.
        world.app.advance(Duration::from_secs(11));
        first.next(Behaviour::error(status));
        let answer = world.ask("hello").await.expect(200);
        assert_eq!(answer.json["choices"][0]["message"]["content"], "echo: hello", "{status}");
        first.next(Behaviour::error(status));
        assert_eq!(text_of(&whole(world.stream("hello").await).await), "echo: hello", "{status}");
    }
    assert!(world.ledger(10).await.iter().all(|line| line.upstream == "second"));
    assert_eq!(world.failure().await, None);
}

/// The bot takes our word for it and does not ask again.
#[tokio::test]
async fn a_provider_that_fails_once_is_asked_again() {
    let mut provider = FakeProvider::start();
    let world = World::before(vec![upstream("only", &provider)]).await;
    provider.next(Behaviour::error(503));
    let answer = world.ask("hello").await.expect(200);
    assert_eq!(answer.json["choices"][0]["message"]["content"], "echo: hello");
    assert_eq!((provider.counts().requests, world.ledger(1).await[0].outcome), (2, Outcome::Complete));
    // Whoever has the prompt may be at work on it.
    world.ask("#die").await.expect(424);
    assert_eq!(provider.counts().requests, 3);
    provider.go_down();
    world.ask("hello").await.expect(424);
    let line = world.ledger(3).await.pop().unwrap();
    assert_eq!((line.outcome, line.tokens.total()), (Outcome::Failed, 0));
}

#[tokio::test]
async fn a_provider_that_fails_again_and_again_is_left_out_for_a_while() {
    let (mut first, second) = (FakeProvider::start(), FakeProvider::start());
    first.always(Behaviour::error(500));
    let world = World::before(vec![upstream("first", &first), upstream("second", &second)]).await;
    for _ in 0..6 {
        world.ask("hello").await.expect(200);
    }
    assert_eq!(first.counts().requests, 3);
    second.always(Behaviour::error(500));
    world.ask("hello").await.expect(424);
    assert_eq!(first.counts().requests, 4, "it is asked where nobody else answers");
    second.always(Behaviour::default());
    first.always(Behaviour::default());
    world.app.advance(Duration::from_secs(11));
    world.ask("hello").await.expect(200);
    assert_eq!(first.counts().requests, 5);
    first.go_down();
    world.ask("hello").await.expect(200);
    assert_eq!(second.counts().requests, 9);
}

#[tokio::test]
async fn what_is_wrong_with_the_request_is_told_in_the_providers_words() {
    let (first, second) = (FakeProvider::start(), FakeProvider::start());
    let world = World::before(vec![upstream("first", &first), upstream("second", &second)]).await;
    let answer = world.ask("#error=400").await.expect(400);
    assert_eq!(answer.json["error"]["message"], "the fake provider was told to answer 400");
    assert_eq!(second.counts().requests, 0);
    let line = world.ledger(1).await.remove(0);
    assert_eq!((line.outcome, line.tokens.total()), (Outcome::Failed, 0));
    let answer = world.ask("#error=429").await.expect(429);
    assert_eq!((answer.header("retry-after"), &answer.json["error"]["code"]), ("1", &json!("rate_limit_exceeded")));
}

#[tokio::test]
async fn our_key_is_shown_to_nobody() {
    let provider = FakeProvider::start();
    provider.require_key("another key");
    let world = World::before(vec![upstream("first", &provider)]).await;
    let answer = world.ask("hello").await.expect(424);
    assert_eq!(answer.json["error"]["code"], "model_failed");
    assert!(!answer.text.contains("key"), "{}", answer.text);
    assert_eq!(world.failure().await.as_deref(), Some("model_failed"));
    assert!(!format!("{:?}", world.app.app.config).contains(PROVIDER_KEY));
}

#[tokio::test]
async fn a_plan_that_is_used_up_says_when_it_is_refilled() {
    let provider = FakeProvider::start();
    let world = World::configured(|config| {
        config.llm.upstreams = vec![upstream("first", &provider)];
        for plan in config.plans.values_mut() {
            plan.tokens_per_month = 10;
        }
    })
    .await;
    world.ask("#chunks=20 hello").await.expect(200);
    world.ledger(1).await;
    let refused = world.ask("hello").await.expect(402);
    assert_eq!(refused.json["error"]["code"], "insufficient_quota");
    assert_eq!(refused.json["error"]["type"], "insufficient_quota");
    assert!(refused.json["error"]["message"].as_str().unwrap().contains("2026-12-01"), "{}", refused.text);
    assert_eq!(world.failure().await.as_deref(), Some("quota_exceeded"));
    assert_eq!(provider.counts().requests, 1);
    // The ledger says the same to a process that begins now.
    world.ledger(1).await;
    world.app.advance(Duration::from_hours(24 * 9));
    world.ask("hello").await.expect(200);
}

#[tokio::test]
async fn a_bot_has_so_many_calls_at_the_same_moment() {
    let provider = FakeProvider::start();
    let world = World::configured(|config| {
        config.llm.upstreams = vec![upstream("first", &provider)];
        config.llm.concurrent_calls = 1;
    })
    .await;
    let mut running = world.stream("#stall=1 one two").await.into_body().into_data_stream();
    next(&mut running).await;
    let refused = world.ask("hello").await.expect(429);
    assert_eq!(refused.header("retry-after"), "1");
    drop(running);
    world.ask("hello").await.expect(200);
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
    let fresh = World::key_of(&world.app, &world.tenant).await;
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

/// A line that one database cannot hold would stop the ledger of everybody.
#[tokio::test]
async fn a_model_with_control_characters_is_refused_and_stops_nobodys_ledger() {
    let provider = FakeProvider::start();
    let world = World::before(vec![upstream("first", &provider)]).await;
    for name in ["a\0b", "\n", "m\u{7f}"] {
        let mut body = chat("hello", false);
        body["model"] = name.into();
        let refused = world.app.post(&world.bot, CHAT, body).await.expect(400);
        assert!(refused.json["error"]["message"].as_str().unwrap().contains("model"), "{}", refused.text);
        assert!(refused.json["error"]["code"].is_string(), "{}", refused.text);
    }
    assert_eq!(provider.counts().requests, 0);
    let others = world.app.tenant("globex").await;
    let bot = World::key_of(&world.app, &others).await;
    world.app.post(&bot, CHAT, chat("hello", false)).await.expect(200);
    World { tenant: others, ..world }.ledger(1).await;
}

#[tokio::test]
async fn nothing_counted_is_lost_when_the_process_is_stopped() {
    let world = World::before(Vec::new()).await;
    for _ in 0..20 {
        world.ask("hello").await.expect(200);
    }
    world.app.app.stop.cancel();
    world.app.app.tasks.close();
    tokio::time::timeout(PATIENCE, world.app.app.tasks.wait()).await.expect("all tasks end");
    assert_eq!(world.ledger(20).await.len(), 20);
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
