//! The daily quota of messages: counted in memory, and from the store after a start. Whoever takes one and then does not
//! store a message gives it back.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use astrfleet_core::{Error, Result, id::TenantId, ports::Store, time::Timestamp};

const DAY_MICROS: i64 = 24 * 60 * 60 * 1_000_000;

/// Messages of today, by tenant.
#[derive(Default)]
pub struct Daily {
    counts: Mutex<HashMap<TenantId, Count>>,
    reading: tokio::sync::Mutex<()>,
}

#[derive(Clone, Copy)]
struct Count {
    day: i64,
    messages: u64,
}

/// One of the day's messages, given back when dropped without [`Taken::keep`].
pub struct Taken {
    daily: Arc<Daily>,
    tenant: TenantId,
    day: i64,
    kept: bool,
}

impl Taken {
    /// The message is stored.
    pub fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        if let Some(count) = self.daily.lock().get_mut(&self.tenant).filter(|count| count.day == self.day) {
            count.messages = count.messages.saturating_sub(1);
        }
    }
}

impl Daily {
    fn lock(&self) -> MutexGuard<'_, HashMap<TenantId, Count>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes one of the messages of today.
    ///
    /// # Errors
    /// [`Error::QuotaExceeded`] where `limit` are used up.
    pub async fn take(
        self: &Arc<Self>,
        store: &dyn Store,
        tenant: &TenantId,
        limit: u64,
        now: Timestamp,
    ) -> Result<Taken> {
        let day = now.micros().div_euclid(DAY_MICROS);
        if let Some(taken) = self.take_known(tenant, limit, day) {
            return taken;
        }
        let _reading = self.reading.lock().await;
        if let Some(taken) = self.take_known(tenant, limit, day) {
            return taken;
        }
        let messages = store.messages(tenant).count_since(Timestamp::from_micros(day * DAY_MICROS)).await?;
        {
            let mut counts = self.lock();
            // Yesterday's are worth nothing any more.
            counts.retain(|_, count| count.day >= day);
            counts.insert(tenant.clone(), Count { day, messages });
        }
        self.take_known(tenant, limit, day).unwrap_or_else(|| Err(Error::internal("a count was lost")))
    }

    fn take_known(self: &Arc<Self>, tenant: &TenantId, limit: u64, day: i64) -> Option<Result<Taken>> {
        let mut counts = self.lock();
        let count = counts.get_mut(tenant).filter(|count| count.day == day)?;
        if count.messages >= limit {
            let next_step = "they are counted from 0 again at 00:00 UTC; a larger plan has more of them".to_owned();
            return Some(Err(Error::QuotaExceeded { quota: "messages a day", limit, next_step }));
        }
        count.messages += 1;
        Some(Ok(Taken { daily: Arc::clone(self), tenant: tenant.clone(), day, kept: false }))
    }
}
