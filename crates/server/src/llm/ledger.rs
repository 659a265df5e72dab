//! Writes usage records, off the path of every request.
//!
//! A record waits at most [`WRITE_EVERY`], and then for one write: that much is lost when the process is killed, nothing when
//! it is stopped. Records that cannot be written wait, and when too many do, no further call is let in; what becomes of them
//! is `rounds`' to say. What a record took is settled with its tenant's budget in the transaction that writes it.

use std::{
    mem,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use astrfleet_core::{Error, Result, id::TenantId, time::Timestamp, usage::UsageRecord};
use tokio::{runtime::Handle, time::sleep};

use super::{
    admission::UnderWay,
    keys::Bot,
    rounds::{self, Round},
};
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
    records: Vec<rounds::Waiting<Line>>,
    writing: bool,
}

/// A record, and whose budgets it is settled with.
#[derive(Clone)]
struct Line {
    record: UsageRecord,
    bot: Arc<Bot>,
    /// What waits for this to be written, where something does.
    _hit: Option<Arc<UnderWay>>,
}

impl Line {
    /// What is written together.
    fn batch(&self) -> (TenantId, Timestamp) {
        (self.record.tenant_id.clone(), self.record.at.month_start())
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

    /// Adds a record of a call of `bot`. What is under way as `hit` ends when it is written.
    pub(super) fn add(self: &Arc<Self>, record: UsageRecord, bot: Arc<Bot>, hit: Option<UnderWay>) {
        let mut waiting = self.lock();
        waiting.records.push(rounds::Waiting::new(Line { record, bot, _hit: hit.map(Arc::new) }));
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
            let waiting = {
                let mut waiting = self.lock();
                if waiting.records.is_empty() {
                    waiting.writing = false;
                    return;
                }
                mem::take(&mut waiting.records)
            };
            let Round { unwritten, left_out, error } = rounds::round(waiting, Line::batch, settle).await;
            for (lines, error) in left_out {
                leave_out(&lines, &error);
            }
            let Some(error) = error else {
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

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes lines of one tenant and month.
async fn settle(lines: Vec<Line>) -> Result<()> {
    let Some(first) = lines.first() else { return Ok(()) };
    let records: Vec<UsageRecord> = lines.iter().map(|line| line.record.clone()).collect();
    first.bot.purse.settle(&keys(&lines), first.record.at.month_start(), &records).await
}

/// Of a tenant that was erased meanwhile, so that nobody is left to be billed; or a line that the store cannot hold.
fn leave_out(lines: &[Line], error: &Error) {
    let Some(first) = lines.first() else { return };
    let records: Vec<UsageRecord> = lines.iter().map(|line| line.record.clone()).collect();
    tracing::error!(
        tenant_id = %first.record.tenant_id,
        records = records.len(),
        tokens = records.iter().map(|record| record.tokens.total()).sum::<u64>(),
        error = chain(error),
        "usage records cannot be stored and are left out"
    );
    first.bot.purse.forget(&keys(lines), first.record.at.month_start(), &records);
}

/// The budgets of the keys, each once, in the order in which everybody takes them.
fn keys(lines: &[Line]) -> Vec<Arc<Purse>> {
    let mut keys: Vec<_> =
        lines.iter().filter_map(|line| line.bot.key.as_ref()).map(|key| Arc::clone(&key.purse)).collect();
    keys.sort_by(|one, other| one.account().cmp(other.account()));
    keys.dedup_by(|one, other| one.account() == other.account());
    keys
}
