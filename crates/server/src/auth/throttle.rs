//! Slows guessing down: whoever failed too often has to wait. Only failures count, by e-mail address and by where they
//! come from; the counting is the limiter's, this remembers who has to wait and until when.

use std::time::Duration;

use astrfleet_core::{
    Error, Result,
    ports::{Limit, Limiter, Verdict},
    time::Timestamp,
};
use moka::sync::Cache;

/// Those who wait, at the most; beyond it the ones longest ago are forgotten.
const WAITING_MAX: u64 = 100_000;

/// Who has to wait.
pub struct Throttle {
    limit: Limit,
    waiting: Cache<String, Timestamp>,
}

impl Throttle {
    /// `failures` in `window` are allowed.
    #[must_use]
    pub fn new(failures: u32, window: Duration) -> Self {
        let waiting = Cache::builder().max_capacity(WAITING_MAX).time_to_live(window).build();
        Self { limit: Limit { amount: failures.max(1), per: window }, waiting }
    }

    /// Refuses those who have to wait.
    ///
    /// # Errors
    /// [`Error::TooMany`].
    pub fn check(&self, keys: &[String], now: Timestamp) -> Result<()> {
        let longest = keys.iter().filter_map(|key| self.waiting.get(key)).max();
        match longest {
            Some(until) if now < until => Err(Error::TooMany { what: "failed logins", retry_after: until.since(now) }),
            _ => Ok(()),
        }
    }

    /// Counts a failure for each of `keys`.
    pub fn failed(&self, limiter: &dyn Limiter, keys: &[String], now: Timestamp) {
        for key in keys {
            let wait = match limiter.take(&format!("failed login {key}"), self.limit) {
                // That was the last one: the next has to wait until one is free again.
                Verdict::Allowed { remaining: 0, .. } => self.limit.per / self.limit.amount,
                Verdict::Allowed { .. } => continue,
                Verdict::Refused { retry_after } => retry_after,
            };
            self.waiting.insert(key.clone(), now.plus(wait));
        }
    }
}
