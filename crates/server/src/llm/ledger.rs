//! Writes usage records, off the path of every request.
//!
//! A record waits at most [`WRITE_EVERY`], and then for one write: that much is lost when the process is killed, nothing when
//! it is stopped. Records that cannot be written wait, and when too many do, no further call is let in.

use std::{
    mem,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use astrfleet_core::{Error, Result, usage::UsageRecord};
use tokio::{runtime::Handle, time::sleep};

use crate::{app::Base, problem::chain};

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
    records: Vec<UsageRecord>,
    writing: bool,
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

    /// Adds a record.
    pub(super) fn add(self: &Arc<Self>, record: UsageRecord) {
        let mut waiting = self.lock();
        waiting.records.push(record);
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
            batch.sort_by(|one, other| (&one.tenant_id, &one.id).cmp(&(&other.tenant_id, &other.id)));
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

    /// Writes records that are sorted by tenant. Gives back those that could not be, but may be later.
    async fn append(&self, mut batch: Vec<UsageRecord>) -> Result<(), (Vec<UsageRecord>, Error)> {
        let mut done = 0;
        for of_tenant in batch.chunk_by(|one, other| one.tenant_id == other.tenant_id) {
            let tenant = &of_tenant[0].tenant_id;
            match self.base.store.usage(tenant).append(of_tenant).await {
                Ok(()) => {}
                Err(error) if error.retryable() => return Err((batch.split_off(done), error)),
                // A tenant that was erased meanwhile: nobody is left to be billed, and the others must not wait for it.
                Err(error) => {
                    let (tenant_id, records, error) = (tenant.as_str(), of_tenant.len(), chain(&error));
                    tracing::error!(tenant_id, records, error, "usage records cannot be stored");
                }
            }
            done += of_tenant.len();
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
