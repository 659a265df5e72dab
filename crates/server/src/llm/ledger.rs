//! Writes usage records, off the path of every request.
//!
//! A record waits at most [`WRITE_EVERY`], and then for one write: that much is lost when the process is killed, nothing when
//! it is stopped. Records that cannot be written wait, and when too many do, no further call is let in. What a record took
//! is settled with its tenant's budget in the transaction that writes it.

use std::{
    mem,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use astrfleet_core::{Error, Result, id::TenantId, time::Timestamp, usage::UsageRecord};
use tokio::{runtime::Handle, time::sleep};

use super::keys::Bot;
use crate::{app::Base, problem::chain, quota::Purse};

/// The longest that a record waits to be written with others.
const WRITE_EVERY: Duration = Duration::from_millis(50);
/// Between two tries while the store does not answer.
const TRY_EVERY: Duration = Duration::from_secs(1);
/// Tries after a stop was asked for.
const LAST_TRIES: u32 = 5;
/// More records than this wait only while the store does not answer.
const WAITING_MAX: usize = 50_000;

/// The way to the store's ledger.
pub(super) struct Ledger {
    base: Arc<Base>,
    waiting: Mutex<Waiting>,
    /// Where writing goes on when whoever counts is about to end.
    home: OnceLock<Handle>,
}

#[derive(Default)]
struct Waiting {
    records: Vec<Line>,
    writing: bool,
}

/// A record, and whose budgets it is settled with.
struct Line {
    record: UsageRecord,
    bot: Arc<Bot>,
}

impl Line {
    /// What is written together.
    fn batch(&self) -> (&TenantId, Timestamp) {
        (&self.record.tenant_id, self.record.at.month_start())
    }
}

impl Ledger {
    pub(super) fn new(base: Arc<Base>) -> Self {
        Self { base, waiting: Mutex::default(), home: OnceLock::new() }
    }

    /// Whether another call can be counted.
    ///
    /// # Errors
    /// [`Error::Unavailable`] where it cannot.
    pub(super) fn has_room(&self) -> Result<()> {
        self.home.get_or_init(Handle::current);
        if self.lock().records.len() < WAITING_MAX {
            return Ok(());
        }
        Err(Error::unavailable("the usage ledger", "too many usage records wait for the store"))
    }

    /// Adds a record of a call of `bot`.
    pub(super) fn add(self: &Arc<Self>, record: UsageRecord, bot: Arc<Bot>) {
        let mut waiting = self.lock();
        waiting.records.push(Line { record, bot });
        if waiting.writing {
            return;
        }
        // `has_room` was asked before, so this is known.
        let Some(home) = self.home.get() else { return };
        waiting.writing = true;
        drop(waiting);
        self.base.tasks.spawn_on(Arc::clone(self).write(), home);
    }

    /// Runs until nothing waits.
    async fn write(self: Arc<Self>) {
        let mut failures = 0;
        loop {
            let pause = if failures == 0 { WRITE_EVERY } else { TRY_EVERY };
            tokio::select! {
                () = sleep(pause) => {}
                () = self.base.stop.cancelled(), if failures == 0 => {}
            }
            let mut batch = {
                let mut waiting = self.lock();
                if waiting.records.is_empty() {
                    waiting.writing = false;
                    return;
                }
                mem::take(&mut waiting.records)
            };
            batch.sort_by(|one, other| (one.batch(), &one.record.id).cmp(&(other.batch(), &other.record.id)));
            let Err((unwritten, error)) = self.append(batch).await else {
                failures = 0;
                continue;
            };
            failures += 1;
            if self.base.stop.is_cancelled() && failures >= LAST_TRIES {
                tracing::error!(records = unwritten.len(), error = chain(&error), "usage records could not be stored");
                self.lock().writing = false;
                return;
            }
            tracing::warn!(
                records = unwritten.len(),
                retry_count = failures,
                error = chain(&error),
                "usage records wait for the store"
            );
            self.lock().records.splice(..0, unwritten);
        }
    }

    /// Writes records that are sorted by tenant and month. Gives back those that could not be, but may be later.
    async fn append(&self, mut batch: Vec<Line>) -> Result<(), (Vec<Line>, Error)> {
        let mut done = 0;
        for some in batch.chunk_by(|one, other| one.batch() == other.batch()) {
            let (tenant, month) = some[0].batch();
            let records: Vec<UsageRecord> = some.iter().map(|line| line.record.clone()).collect();
            let (purse, keys) = (&some[0].bot.purse, keys(some));
            match purse.settle(&keys, month, &records).await {
                Ok(()) => {}
                Err(error) if error.retryable() => return Err((batch.split_off(done), error)),
                // A tenant that was erased meanwhile: nobody is left to be billed, and the others must not wait for it.
                Err(error) => {
                    let (tenant_id, records_count, error) = (tenant.as_str(), records.len(), chain(&error));
                    tracing::error!(tenant_id, records = records_count, error, "usage records cannot be stored");
                    purse.forget(&keys, month, &records);
                }
            }
            done += some.len();
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The budgets of the keys, each once, in the order in which everybody takes them.
fn keys(lines: &[Line]) -> Vec<Arc<Purse>> {
    let mut keys: Vec<_> =
        lines.iter().filter_map(|line| line.bot.key.as_ref()).map(|key| Arc::clone(&key.purse)).collect();
    keys.sort_by(|one, other| one.account().cmp(other.account()));
    keys.dedup_by(|one, other| one.account() == other.account());
    keys
}
