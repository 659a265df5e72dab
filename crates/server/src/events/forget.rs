//! Loop `events.forget`: deletes events that are older than they are kept.

use astrfleet_core::Result;

use crate::{app::Base, config::seconds, loops::batches};

/// Deleted in one statement, at the most.
const BATCH: u32 = 1_000;
/// Batches of one run, at the most: the next run goes on.
const BATCHES: u32 = 100;

/// Returns how many it deleted.
pub(super) async fn run(base: &Base) -> Result<u64> {
    let before = base.clock.now().minus(seconds(base.config.events.retention_s));
    let system = base.store.system("events that are not kept any longer");
    batches(&base.stop, BATCHES, BATCH, || system.delete_events(before, BATCH)).await
}
