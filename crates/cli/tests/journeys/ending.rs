//! Ctrl-C: everything ends in order, whatever is open, and nothing is left behind.

use astrfleet_testkit::backends::Backends;
use serde_json::json;

use crate::{
    refusals::sqlite,
    world::{PATIENCE, World},
};

/// With an answer on its way; and once more while bots are being started.
pub async fn in_order(world: &mut World) {
    let session = world.acme.session("end").await;
    session.answer("before the end").await;
    let mut stream = session.stream("in the middle of the end #stall=3 #chunks=9").await;
    stream.wait_for("delta").await;
    let status = world.platform.interrupt().await;
    assert_eq!(status.code(), Some(0), "in order, within the limit");
    let rest = stream.rest().await;
    assert_eq!(rest.last().map(|event| event.event.as_str()), Some("interrupted"), "{rest:?}");
    world.platform.wait_for_event("stopped", PATIENCE).await;
    assert!(world.platform.bots().is_empty(), "no bot is left");
    let log = world.platform.log();
    assert!(!log.iter().any(|line| line.contains("after the limit")), "it ended within the limit");
    world.provider.release();

    let database = world.platform.data_dir().join("astrfleet.db");
    if matches!(world.platform.backends(), Backends::BuiltIn) {
        assert_eq!(sqlite(&database, "pragma integrity_check").await, json!([["ok"]]));
        assert_eq!(sqlite(&database, "pragma foreign_key_check").await, json!([]));
    }
    assert!(!world.platform.data_dir().join("local.json").exists());

    world.platform.restart().await;
    let texts: Vec<_> = session.history().await.iter().map(|message| message["text"].clone()).collect();
    assert_eq!(texts[..2], ["before the end", "echo: before the end"]);
    world.acme.until_instance(|instance| instance["observed"] == "starting").await;
    assert_eq!(world.platform.terminate().await.code(), Some(0), "also while bots start");
    assert!(world.platform.bots().is_empty());
}
