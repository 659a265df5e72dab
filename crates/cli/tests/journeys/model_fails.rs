//! A provider that refuses, dies, says nothing or is away: whoever asked is told of a failure, never shown one as if it
//! were an answer.

use futures_util::future::join_all;
use serde_json::Value;

use crate::world::{PROVIDER_KEY, World};

/// What a bot says where its model fails would look like an answer to a reader; so would an error's own text.
pub async fn a_failure_is_told_as_a_failure(world: &mut World) {
    let acme = &world.acme;
    let ways = [
        "#error=500",
        "#error=401",
        "#error=429",
        "#error=400",
        "#die=0",
        "#die=2 #chunks=9",
        "#stall=0",
        "#malformed=0",
    ];
    let ended = join_all(ways.iter().enumerate().map(async |(number, way)| {
        let session = acme.session(&format!("failure-{number}")).await;
        let events = session.stream(&format!("fail please {way}")).await.rest().await;
        (way, session, events)
    }))
    .await;
    for (way, session, events) in &ended {
        let last = events.last().unwrap();
        let history = session.history().await;
        let state = history[0]["state"].as_str().unwrap();
        // Where a part of an answer was given already, it is kept, and known to be one.
        let is_part = last.event == "interrupted" && way.starts_with("#die=2");
        assert!(is_part || last.event == "failed", "{way}: {events:?}");
        assert_eq!(state, last.event, "{way}");
        if !is_part {
            assert_eq!(last.data["code"], "model_failed", "{way}: {last:?}");
            assert_eq!(history[0]["failure"]["code"], "model_failed", "{way}");
            assert_eq!(history.len(), 1, "{way}: a failure is no answer: {history:?}");
        }
        let told = format!("{events:?}{history:?}");
        for word in [PROVIDER_KEY, "LLM 响应错误", "Traceback", "fake provider was told", "127.0.0.1"] {
            assert!(!told.contains(word), "{way} tells {word}: {told}");
        }
    }
    world.provider.release();
    for (way, session, _) in &ended {
        assert_eq!(session.answer("and now").await, "echo: and now", "after {way}");
    }
}

/// Away means failed, at once for whoever waits; back means answered, with nothing to be done by anybody.
pub async fn an_outage_ends(world: &mut World) {
    let session = world.acme.session("outage").await;
    world.provider.go_down();
    let exchange: Value = session.ask("is anybody there").await;
    world.provider.come_back();
    assert_eq!(exchange["message"]["state"], "failed", "{exchange}");
    assert_eq!(exchange["message"]["failure"]["code"], "model_failed");
    assert!(exchange["reply"].is_null(), "{exchange}");
    assert_eq!(session.answer("and now").await, "echo: and now");
}
