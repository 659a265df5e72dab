//! What was changed a short while ago: whatever was remembered about it from before is not believed. Fed by the
//! service itself and by the bus, so that a revocation counts at once in every process.

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use astrfleet_core::time::Timestamp;
use moka::sync::Cache;

/// Beyond this, the ones longest ago are forgotten: then the time limit of whatever remembers has to do.
const CHANGES_MAX: u64 = 100_000;

/// Moments of the last change, by id.
pub struct Changes {
    each: Cache<Box<str>, Timestamp>,
    /// When anything may have been changed, in microseconds since 1970.
    all: AtomicI64,
}

impl Changes {
    /// For whatever is remembered for at most `ttl`.
    #[must_use]
    pub fn new(ttl: Duration) -> Self {
        // Twice as long: what is remembered since before the change is certainly gone by then.
        let each = Cache::builder().max_capacity(CHANGES_MAX).time_to_live(ttl.saturating_mul(2)).build();
        Self { each, all: AtomicI64::new(i64::MIN) }
    }

    /// Notes that `id` was changed.
    pub fn note(&self, id: &str, now: Timestamp) {
        self.each.insert(id.into(), now);
    }

    /// Notes that anything may have been changed.
    pub fn note_all(&self, now: Timestamp) {
        self.all.store(now.micros(), Ordering::Release);
    }

    /// Whether what was read about `id` at `read_at` may be wrong. A change at the very same moment counts.
    #[must_use]
    pub fn since(&self, id: &str, read_at: Timestamp) -> bool {
        read_at.micros() <= self.all.load(Ordering::Acquire)
            || self.each.get(id).is_some_and(|changed_at| read_at <= changed_at)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use astrfleet_core::time::Timestamp;

    use super::Changes;

    #[test]
    fn what_was_read_before_a_change_is_not_believed() {
        let changes = Changes::new(Duration::from_secs(10));
        assert!(!changes.since("usr_1", Timestamp::from_micros(5)));
        changes.note("usr_1", Timestamp::from_micros(5));
        assert!(changes.since("usr_1", Timestamp::from_micros(5)));
        assert!(!changes.since("usr_1", Timestamp::from_micros(6)));
        assert!(!changes.since("usr_2", Timestamp::from_micros(5)));
        changes.note_all(Timestamp::from_micros(5));
        assert!(changes.since("usr_2", Timestamp::from_micros(5)));
        assert!(!changes.since("usr_2", Timestamp::from_micros(6)));
    }
}
