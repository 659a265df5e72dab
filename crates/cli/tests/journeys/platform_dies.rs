//! `kill -9` of the platform, and of everything: what was acknowledged is there afterwards, and answered once.

use astrfleet_testkit::fake_provider::Behaviour;
use serde_json::Value;

use crate::world::{PATIENCE, World, is_over};

/// The platform alone: its bots go on running, are found again, and are not started a second time.
pub async fn between_accept_and_answer(world: &mut World) {
    let bots = world.platform.bots();
    assert_eq!(bots.len(), 2);
    let session = world.acme.session("accepted").await;
    let mut stream = session.stream("in the middle of it #stall=3 #chunks=9").await;
    let begun = stream.wait_for("accepted").await.data["message_id"].as_str().unwrap().to_owned();
    stream.wait_for("delta").await;
    // One that is durable and nothing more, one that its bot has just got, one that may be anywhere.
    let waiting = session.send("only accepted").await;
    let held = world.globex.session("held").await;
    world.provider.next(Behaviour { stall_after: Some(0), ..Behaviour::default() });
    let given = held.send("given to the bot").await;
    world.provider.wait_until(|counts| counts.stalled == 2).await;
    let quick = world.globex.session("quick").await;
    let anywhere = quick.send("anywhere on its way").await;
    world.platform.kill_9_platform().await;
    assert_eq!(world.platform.bots(), bots, "bots outlive the platform");
    world.provider.release();
    world.platform.restart().await;
    let adopted = world.platform.wait_for_event("adopted", PATIENCE).await;
    assert_eq!(adopted["bots"], 2);
    assert_eq!(world.platform.bots(), bots, "and are not doubled");
    let rest = stream.rest().await;
    assert!(!rest.iter().any(|event| event.event == "done"), "{rest:?}");

    for (session, message, text) in [(&session, &waiting, "only accepted"), (&quick, &anywhere, "anywhere on its way")]
    {
        let exchange = session.until(message, is_over).await;
        assert_eq!(exchange["message"]["state"], "done", "{exchange}");
        assert_eq!(exchange["reply"]["text"], format!("echo: {text}"));
        assert_eq!(replies_to(session.history().await, message).len(), 1, "one answer");
    }
    assert_eq!(world.asked("only accepted").len(), 1);
    // The model's answers ended with the platform. A bot that asked again may have found the next platform already:
    // either way, what came of it is told as what it is, soon and once.
    for (session, message) in [(&session, &begun), (&held, &given)] {
        let exchange = session.until(message, is_over).await;
        let replies = replies_to(session.history().await, message);
        match exchange["message"]["state"].as_str() {
            Some("failed") => {
                assert_eq!(exchange["message"]["failure"]["code"], "model_failed", "{exchange}");
                assert!(replies.is_empty(), "a failure has no answer: {replies:?}");
            }
            Some("done") => assert_eq!(replies.len(), 1, "one answer: {replies:?}"),
            _ => assert!(replies.len() <= 1, "never two answers: {replies:?}"),
        }
        for reply in &replies {
            let text = reply["text"].as_str().unwrap();
            assert!(
                text.starts_with("echo: ") && !text.contains("could not answer"),
                "no failure as an answer: {reply}"
            );
        }
    }
    assert_eq!(session.answer("and on").await, "echo: and on");
    assert_eq!(held.answer("and on too").await, "echo: and on too");
    assert_eq!(world.platform.bots(), bots);
}

fn replies_to(history: Vec<Value>, message: &str) -> Vec<Value> {
    history.into_iter().filter(|other| other["reply_to"] == message).collect()
}

/// As a power cut would.
pub async fn with_everything(world: &mut World) {
    let before = world.platform.bots();
    let session = world.acme.session("power").await;
    session.answer("before the cut").await;
    let mut stream = session.stream("in the middle of the cut #stall=3 #chunks=9").await;
    let begun = stream.wait_for("accepted").await.data["message_id"].as_str().unwrap().to_owned();
    stream.wait_for("delta").await;
    let waiting = session.send("behind the cut").await;
    world.platform.kill_9_everything().await;
    world.provider.release();
    world.platform.restart().await;

    let exchange = session.until(&waiting, is_over).await;
    assert_eq!(exchange["message"]["state"], "done", "{exchange}");
    assert_eq!(exchange["reply"]["text"], "echo: behind the cut");
    let cut = session.exchange(&begun).await;
    assert!(is_over(&cut), "{cut}");
    assert!(replies_to(session.history().await, &begun).len() <= 1);
    for text in ["before the cut", "in the middle of the cut", "behind the cut"] {
        assert_eq!(world.asked(text).len(), 1, "{text:?} was asked once");
        let said = session.history().await;
        assert_eq!(said.iter().filter(|message| message["text"].as_str().unwrap().starts_with(text)).count(), 1);
    }
    for tenant in [&world.acme, &world.globex] {
        tenant.until_instance(|instance| instance["ready"] == true).await;
    }
    let after = world.platform.bots();
    assert!(after.len() == 2 && after.iter().all(|pid| !before.contains(pid)), "{before:?} {after:?}");
}
