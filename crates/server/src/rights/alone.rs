//! Work that one process at a time does: an erasure, whose proof says how much was deleted. By a lease, so that a process
//! that dies holds nobody up for long.

use std::{pin::pin, time::Duration};

use astrfleet_core::{
    Error, Result,
    ports::{Holder, Taken},
};
use tokio::time::{Instant, interval_at};

use crate::{app::App, problem::chain};

/// How long nobody begins what a process has left behind that died.
const LIFE: Duration = Duration::from_mins(1);
/// How often the lease is made longer meanwhile.
const RENEW_PERIOD: Duration = Duration::from_secs(15);

/// Does `work`, which is told how often it was begun, itself included. None where another process does it.
pub(super) async fn alone<T, F>(app: &App, name: &str, work: impl FnOnce(i64) -> F) -> Result<Option<T>>
where
    F: Future<Output = Result<T>>,
{
    let holder = Holder { id: format!("{}/{}", app.me.id, app.ids.request()), url: String::new() };
    let leases = app.store.leases();
    let run = match leases.take(name, &holder, LIFE).await? {
        Taken::Ours(epoch) => epoch,
        Taken::Theirs(_) => return Ok(None),
    };
    let mut work = pin!(work(run));
    let mut renewal = interval_at(Instant::now() + RENEW_PERIOD, RENEW_PERIOD);
    let outcome = loop {
        tokio::select! {
            outcome = &mut work => break outcome,
            _ = renewal.tick() => match leases.renew(&holder.id, LIFE).await {
                Ok(held) if held.is_empty() => {
                    return Err(Error::unavailable("this work", "another process took it over"));
                }
                Ok(_) => {}
                // The work fails too, where the store stays away.
                Err(error) => tracing::debug!(lease = name, error = chain(&error), "a lease was not made longer"),
            },
        }
    };
    if let Err(error) = leases.release(name, &holder.id, run).await {
        tracing::debug!(lease = name, error = chain(&error), "a lease runs out by itself");
    }
    outcome.map(Some)
}
