//! The daily quota of messages. The store counts; in between, this process counts what it lets in itself, and looks again
//! before others can have let in much: near the limit before each message. Whoever takes one and then does not store a
//! message gives it back.
//!
//! Nobody is refused who should not be: what may be counted twice, since it was being stored while the store counted,
//! is counted once. Of several processes, each may let in what it had under way at that moment beyond the limit.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use astrfleet_core::{Error, Result, id::TenantId, ports::Store, time::Timestamp};
use tokio::time::Instant;

const DAY_MICROS: i64 = 24 * 60 * 60 * 1_000_000;
/// So near to the limit, the store counts before each message.
const NEAR: u64 = 32;
/// Farther away, after this part of what is left was let in here, or after this time.
const PART: u64 = 16;
const FRESH: Duration = Duration::from_secs(30);

/// Messages of today, by tenant.
#[derive(Default)]
pub struct Daily {
    counts: Mutex<HashMap<TenantId, Count>>,
    reading: tokio::sync::Mutex<()>,
}

#[derive(Clone, Copy)]
struct Count {
    day: i64,
    /// Stored when this process began to count.
    first: u64,
    /// Let in here since.
    here: u64,
    /// Let in by others since, as far as is known.
    others: u64,
    read_at: Instant,
    here_then: u64,
}

impl Count {
    fn used(&self) -> u64 {
        self.first + self.here + self.others
    }

    /// Whether the store is to be asked again before another one is let in.
    fn is_old(&self, limit: u64) -> bool {
        let left = limit.saturating_sub(self.used());
        if left == 0 {
            return self.read_at.elapsed() > FRESH;
        }
        let since = self.here.saturating_sub(self.here_then);
        left <= NEAR && since > 0 || since > left / PART || self.read_at.elapsed() > FRESH
    }

    /// The store counted `stored`. What was let in here until after that may be among it, or not yet.
    fn read(&mut self, stored: u64) {
        self.others = self.others.max(stored.saturating_sub(self.first + self.here));
        (self.read_at, self.here_then) = (Instant::now(), self.here);
    }
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
            count.here = count.here.saturating_sub(1);
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
        let stored = store.messages(tenant).count_since(Timestamp::from_micros(day * DAY_MICROS)).await?;
        let mut counts = self.lock();
        if let Some(count) = counts.get_mut(tenant).filter(|count| count.day == day) {
            count.read(stored);
        } else {
            // Yesterday's are worth nothing any more.
            counts.retain(|_, count| count.day >= day);
            let count = Count { day, first: stored, here: 0, others: 0, read_at: Instant::now(), here_then: 0 };
            counts.insert(tenant.clone(), count);
        }
        let count = counts.get_mut(tenant).ok_or_else(|| Error::internal("a count was lost"))?;
        self.take_one(tenant, count, limit)
    }

    /// None where the store is to be asked.
    fn take_known(self: &Arc<Self>, tenant: &TenantId, limit: u64, day: i64) -> Option<Result<Taken>> {
        let mut counts = self.lock();
        let count = counts.get_mut(tenant).filter(|count| count.day == day && !count.is_old(limit))?;
        Some(self.take_one(tenant, count, limit))
    }

    fn take_one(self: &Arc<Self>, tenant: &TenantId, count: &mut Count, limit: u64) -> Result<Taken> {
        if count.used() >= limit {
            let next_step = "they are counted from 0 again at 00:00 UTC; a larger plan has more of them".to_owned();
            return Err(Error::QuotaExceeded { quota: "messages a day", limit, next_step });
        }
        count.here += 1;
        Ok(Taken { daily: Arc::clone(self), tenant: tenant.clone(), day: count.day, kept: false })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::time::Instant;

    use super::{Count, NEAR, PART};

    fn count() -> Count {
        Count { day: 0, first: 0, here: 0, others: 0, read_at: Instant::now(), here_then: 0 }
    }

    proptest! {
        /// Several processes let messages in, one at a time and in any order: never one too few, and too many only by
        /// what the others could not know.
        #[test]
        fn the_limit_holds_for_all_together(who in prop::collection::vec(0_usize..3, 1..400), limit in 1_u64..200) {
            let mut counts = [count(), count(), count()];
            let mut stored = 0;
            for who in who {
                let count = &mut counts[who];
                if count.is_old(limit) {
                    count.read(stored);
                }
                if count.used() < limit {
                    count.here += 1;
                    stored += 1;
                } else {
                    prop_assert!(stored >= limit, "refused at {stored} of {limit}");
                }
            }
            // Each may have read long ago, and since then let in a part of what was left then, or one.
            prop_assert!(stored <= limit + 2 * (limit / PART + 1), "{stored} of {limit}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_being_stored_is_not_counted_twice() {
        let mut count = count();
        count.here = 5;
        count.read(5);
        assert_eq!(count.used(), 5, "all of them were stored already");
        count.read(2);
        assert_eq!(count.used(), 5, "three of them were on their way");
        count.read(9);
        assert_eq!(count.used(), 9, "four are others'");
        assert!(count.is_old(9 + NEAR) == (count.here > count.here_then));
    }
}
