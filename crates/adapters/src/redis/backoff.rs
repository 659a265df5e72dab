//! The wait between two attempts to reach Redis. It never gives up: Redis comes back one day.

use std::time::Duration;

use ::redis::RedisError;
use tokio::time::{Instant, sleep};

/// The wait before the second attempt to connect; it doubles.
const BACKOFF: Duration = Duration::from_millis(50);
/// At the most.
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// Waits longer from attempt to attempt, and says once that Redis is away and once that it is back.
pub(crate) struct Backoff {
    what: &'static str,
    next: Duration,
    away_since: Option<Instant>,
}

impl Backoff {
    pub(crate) fn new(what: &'static str) -> Self {
        Self { what, next: BACKOFF, away_since: None }
    }

    pub(crate) async fn wait(&mut self, error: &RedisError) {
        if self.away_since.is_none() {
            self.away_since = Some(Instant::now());
            tracing::warn!(what = self.what, %error, "Redis is away: this process goes on by itself");
        }
        sleep(self.next).await;
        self.next = self.next.saturating_mul(2).min(BACKOFF_MAX);
    }

    pub(crate) fn succeeded(&mut self) {
        self.next = BACKOFF;
        if let Some(since) = self.away_since.take() {
            let away_ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
            tracing::info!(what = self.what, away_ms, "Redis is back");
        }
    }
}
