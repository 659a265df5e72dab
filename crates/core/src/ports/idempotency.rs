//! Where answers are kept that are given again.

use std::time::Duration;

use async_trait::async_trait;

use crate::error::Result;

/// An answer that is given again under the same `Idempotency-Key`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredAnswer {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: String,
}

/// What is known of an `Idempotency-Key`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begun {
    /// Nothing: go on, then `finish` or `forget`.
    New,
    /// The same request was answered before.
    Answered(StoredAnswer),
    /// The same request is being worked on.
    InProgress,
    /// Another request had this key.
    Different,
}

/// Answers under `Idempotency-Key`s of one owner.
#[async_trait]
pub trait Idempotency: Send + Sync {
    /// Takes the key for a request, whose method, path and body are in `request_hash`. An unfinished one that is older
    /// than `abandoned_after` counts as never begun; how old it is goes by the clock of whoever keeps the answers.
    async fn begin(&self, key: &str, request_hash: &[u8; 32], abandoned_after: Duration) -> Result<Begun>;
    /// Keeps the answer.
    async fn finish(&self, key: &str, answer: &StoredAnswer) -> Result<()>;
    /// Gives the key back: nothing was done.
    async fn forget(&self, key: &str) -> Result<()>;
}
