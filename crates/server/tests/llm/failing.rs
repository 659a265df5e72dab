//! Providers that fail: who is asked instead, who is left out, and what the bot is told.

use std::time::Duration;

use astrfleet_core::usage::Outcome;
use astrfleet_server::config::{CachedAnswers, UpstreamConfig};
use astrfleet_testkit::fake_provider::{Behaviour, FakeProvider, HeadersOnly};
use serde_json::json;

use crate::world::{PROVIDER_KEY, World, text_of, upstream, whole};

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
