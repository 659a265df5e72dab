//! Many at once before one bot: the plan's number is answered at the same moment, the others wait in their order.

use astrfleet_testkit::fake_provider::Recorded;
use futures_util::future::join_all;
use serde_json::Value;

use crate::world::{CONCURRENT_CHATS, World, is_over};

/// Five conversations with two messages each. The provider holds every answer back until it is let go.
pub async fn ten_chats_at_once(world: &mut World) {
    let acme = &world.acme;
    let sessions = join_all((0..5).map(async |number| acme.session(&format!("queue-{number}")).await)).await;
    let mut messages = Vec::new();
    for turn in ["first", "second"] {
        for (number, session) in sessions.iter().enumerate() {
            messages.push((session, session.send(&format!("{turn} of {number} #stall=0")).await));
        }
    }
    world.provider.wait_until(|counts| counts.stalled == CONCURRENT_CHATS).await;
    let states = join_all(messages.iter().map(async |(session, id)| session.exchange(id).await)).await;
    let count = |state: &str| states.iter().filter(|exchange| exchange["message"]["state"] == state).count();
    assert_eq!((count("delivering"), count("accepted")), (CONCURRENT_CHATS, 10 - CONCURRENT_CHATS), "{states:?}");

    let over = join_all(messages.iter().map(async |(session, id)| session.until(id, is_over).await));
    let let_go = async {
        loop {
            let counts = world.provider.wait_until(|counts| counts.stalled > 0).await;
            assert!(counts.stalled <= CONCURRENT_CHATS, "{counts:?}");
            world.provider.release();
        }
    };
    let exchanges: Vec<Value> = tokio::select! {
        exchanges = over => exchanges,
        () = let_go => unreachable!("it goes on until all are answered"),
    };
    for exchange in &exchanges {
        assert_eq!(exchange["message"]["state"], "done", "{exchange}");
        let text = exchange["message"]["text"].as_str().unwrap();
        assert_eq!(exchange["reply"]["text"], format!("echo: {text}"));
    }
    for (number, session) in sessions.iter().enumerate() {
        let first = format!("first of {number} #stall=0");
        let second = format!("second of {number} #stall=0");
        let asked: Vec<_> = world.asked(&format!(" of {number} #stall")).iter().map(Recorded::user_text).collect();
        assert_eq!(asked, [first.clone(), second], "each once, in order");
        let second = world.asked(&format!("second of {number}")).remove(0).body["messages"].to_string();
        assert!(second.contains(&format!("echo: {first}")), "the second saw the first one's answer");
        let states: Vec<_> = session.history().await.iter().map(|message| message["state"].clone()).collect();
        assert_eq!(states, ["done"; 4]);
    }
}
