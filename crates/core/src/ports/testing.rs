//! A clock and a randomness for tests: both do as they are told.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use super::{Clock, Rng};
use crate::time::Timestamp;

/// Stands still until it is set.
pub struct FixedClock(AtomicI64);

impl FixedClock {
    /// At so many microseconds since 1970.
    #[must_use]
    pub fn at(micros: i64) -> Self {
        Self(AtomicI64::new(micros))
    }

    /// Sets it.
    pub fn set(&self, now: Timestamp) {
        self.0.store(now.micros(), Ordering::SeqCst);
    }

    /// Turns it on.
    pub fn advance(&self, duration: std::time::Duration) {
        self.0.fetch_add(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX), Ordering::SeqCst);
    }
}

impl Clock for FixedClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.0.load(Ordering::SeqCst))
    }
}

/// Counts: the same numbers in every run.
#[derive(Default)]
pub struct CountingRng(AtomicU64);

impl Rng for CountingRng {
    fn fill(&self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let number = self.0.fetch_add(1, Ordering::SeqCst).to_le_bytes();
            chunk.copy_from_slice(&number[..chunk.len()]);
        }
    }
}
