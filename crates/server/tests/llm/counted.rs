//! What a call costs, however it ends, and what a plan lets in.

use std::time::Duration;

use astrfleet_core::usage::Outcome;
use astrfleet_server::config::UpstreamConfig;
use astrfleet_testkit::fake_provider::FakeProvider;
use serde_json::json;

use crate::world::{CHAT, PATIENCE, World, chat, next, text_of, upstream, whole};

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
    let bot = world.app.bot(&others).await;
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
