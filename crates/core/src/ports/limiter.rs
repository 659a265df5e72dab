//! How often somebody may. Asked on the hot path, so it answers from memory.

use std::time::Duration;

/// So many requests in so much time, all of which may come at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Requests.
    pub amount: u32,
    /// In so much time.
    pub per: Duration,
}

/// The answer, with what the `RateLimit` header of the API tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Go on.
    Allowed {
        /// Requests that may still come at once.
        remaining: u32,
        /// When it will be all of them again.
        reset: Duration,
    },
    /// Not now.
    Refused {
        /// When the next one may come.
        retry_after: Duration,
    },
}

/// Counts by key: a tenant, an address.
pub trait Limiter: Send + Sync {
    /// Takes one of `key`'s requests, if there is one left.
    fn take(&self, key: &str, limit: Limit) -> Verdict;
}
