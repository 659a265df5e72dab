//! How many messages wait before a bot whose queue another process has. The store counts them, at most once a second for
//! each tenant; what this process adds meanwhile it counts itself. So all processes together may let in as many times
//! the length of a queue as there are of them, and no more.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use astrfleet_core::{Result, id::TenantId, ports::Store};
use tokio::time::Instant;

/// How long a count is believed.
const FRESH: Duration = Duration::from_secs(1);
/// Tenants that are counted at the same time.
const TENANTS_MAX: usize = 50_000;

#[derive(Clone, Copy)]
struct Count {
    read_at: Instant,
    stored: u64,
    /// Let in here since.
    added: u64,
}

/// The counts.
#[derive(Default)]
pub struct Backlog {
    counts: Mutex<HashMap<TenantId, Count>>,
}

impl Backlog {
    fn lock(&self) -> MutexGuard<'_, HashMap<TenantId, Count>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets one more message in; not where `length` wait already.
    ///
    /// # Errors
    /// [`astrfleet_core::Error::Unavailable`].
    pub async fn admit(&self, store: &dyn Store, tenant: &TenantId, length: usize) -> Result<bool> {
        let length = u64::try_from(length).unwrap_or(u64::MAX);
        if let Some(admitted) = self.admit_known(tenant, length) {
            return Ok(admitted);
        }
        let read_at = Instant::now();
        let stored = store.messages(tenant).count_waiting().await?;
        {
            let mut counts = self.lock();
            if counts.len() >= TENANTS_MAX {
                counts.retain(|_, count| count.read_at.elapsed() < FRESH);
            }
            // Of several that count at the same moment, the one that began last.
            if counts.get(tenant).is_none_or(|known| known.read_at < read_at) {
                counts.insert(tenant.clone(), Count { read_at, stored, added: 0 });
            }
        }
        Ok(self.admit_known(tenant, length).unwrap_or(stored < length))
    }

    fn admit_known(&self, tenant: &TenantId, length: u64) -> Option<bool> {
        let mut counts = self.lock();
        let count = counts.get_mut(tenant).filter(|count| count.read_at.elapsed() < FRESH)?;
        if count.stored + count.added >= length {
            return Some(false);
        }
        count.added += 1;
        Some(true)
    }
}
