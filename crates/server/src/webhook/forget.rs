//! Loop `webhook.forget`: deletes deliveries that came to their end longer ago than they are kept.

use astrfleet_core::Result;

use crate::{app::Base, config::seconds, loops::batches};

/// Deleted in one statement, at the most.
const BATCH: u32 = 1_000;
/// Batches of one run, at the most: the next run goes on.
const BATCHES: u32 = 100;

/// Returns how many it deleted.
pub(super) async fn run(base: &Base) -> Result<u64> {
    let before = base.clock.now().minus(seconds(base.config.webhooks.retention_s));
    let system = base.store.system("deliveries that are not kept any longer");
    batches(&base.stop, BATCHES, BATCH, || system.delete_deliveries(before, BATCH)).await
}
