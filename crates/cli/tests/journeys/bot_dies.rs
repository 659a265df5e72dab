//! `kill -9` of a bot in the middle of an answer.

use astrfleet_testkit::processes::signal;
use rustix::process::Signal;

use crate::world::{World, is_over};

/// Whoever reads is told at once; the bot comes back by itself, once; what waited is answered; the other bot goes on.
pub async fn in_the_middle_of_an_answer(world: &mut World) {
    let acme = &world.acme;
    let (pid, other) = (world.bot(acme).await, world.bot(&world.globex).await);
    let before = acme.instance().await;
    let session = acme.session("killed").await;
    let mut stream = session.stream("half of an answer #stall=3 #chunks=9").await;
    let message = stream.wait_for("accepted").await.data["message_id"].as_str().unwrap().to_owned();
    let first = stream.wait_for("delta").await.data["text"].as_str().unwrap().to_owned();
    let behind = session.send("the one behind").await;
    signal(pid, Signal::KILL);
    let rest = stream.rest().await;
    assert_eq!(rest.last().unwrap().event, "interrupted", "{rest:?}");
    world.provider.release();

    let exchange = session.until(&behind, is_over).await;
    assert_eq!(exchange["message"]["state"], "done", "what waited is answered: {exchange}");
    assert_eq!(exchange["reply"]["text"], "echo: the one behind");
    assert_eq!(session.answer("and on").await, "echo: and on");
    let broken = session.exchange(&message).await;
    assert_eq!(broken["message"]["state"], "interrupted", "{broken}");
    assert!(broken["reply"]["text"].as_str().unwrap().starts_with(&first), "what came of it is kept: {broken}");
    for text in ["half of an answer", "the one behind"] {
        assert_eq!(world.asked(text).len(), 1, "{text:?} was asked once");
    }

    let after = acme.instance().await;
    assert_eq!(after["restarts"].as_u64(), before["restarts"].as_u64().map(|restarts| restarts + 1), "{after}");
    assert!(after["generation"].as_u64() > before["generation"].as_u64());
    assert_ne!(world.bot(acme).await, pid);
    assert_eq!(world.bot(&world.globex).await, other, "the other bot was left alone");
}
