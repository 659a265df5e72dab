//! A clock and a randomness for tests: both do as they are told.

use std::{
    sync::atomic::{AtomicI64, AtomicU64, Ordering},
    time::Duration,
};

use super::{Clock, Rng};
use crate::time::Timestamp;

/// Stands still until it is set or turned on.
pub struct FixedClock {
    now: AtomicI64,
    elapsed_micros: AtomicU64,
}

impl FixedClock {
    /// At so many microseconds since 1970.
    #[must_use]
    pub fn at(micros: i64) -> Self {
        Self { now: AtomicI64::new(micros), elapsed_micros: AtomicU64::new(0) }
    }

    /// Sets it: no time passes.
    pub fn set(&self, now: Timestamp) {
        self.now.store(now.micros(), Ordering::SeqCst);
    }

    /// Turns it on.
    pub fn advance(&self, duration: Duration) {
        let micros = duration.as_micros();
        self.now.fetch_add(i64::try_from(micros).unwrap_or(i64::MAX), Ordering::SeqCst);
        self.elapsed_micros.fetch_add(u64::try_from(micros).unwrap_or(u64::MAX), Ordering::SeqCst);
    }
}

impl Clock for FixedClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.now.load(Ordering::SeqCst))
    }

    fn elapsed(&self) -> Duration {
        Duration::from_micros(self.elapsed_micros.load(Ordering::SeqCst))
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
