//! Where the words of messages are kept.

use async_trait::async_trait;

use crate::{
    error::Result,
    id::MessageId,
    search::{PROBES, Probe, Said},
};

/// Consecutive messages of a tenant, whose words are known together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SearchBlock {
    /// The oldest of them.
    pub first: MessageId,
    /// The newest of them.
    pub last: MessageId,
}

/// The words of a block that is not stored yet.
#[derive(Clone, Debug)]
pub struct NewSearchBlock {
    /// The oldest message.
    pub first: MessageId,
    /// The newest message.
    pub last: MessageId,
    /// As [`crate::search::bucketed`] gives them.
    pub buckets: Vec<String>,
}

/// The search in the messages of one tenant: see [`crate::search`]. Where a text stands for a message's id, whatever
/// sorts like one will do.
#[async_trait]
pub trait Search: Send + Sync {
    /// At most `limit` messages from `from` on, before `before`, the newest first.
    async fn newest(&self, from: &str, before: &str, limit: u32) -> Result<Vec<Said>>;
    /// At most `limit` messages between two, neither of them included, the oldest first.
    async fn oldest(&self, after: &str, before: &str, limit: u32) -> Result<Vec<Said>>;
    /// Whether there are at least `count` messages between two.
    async fn has(&self, after: &str, before: &str, count: u32) -> Result<bool>;
    /// The newest message of any block: all messages up to it are in blocks.
    async fn indexed_to(&self) -> Result<Option<MessageId>>;
    /// At most `limit` blocks with all of `probes` that begin before `before`, the newest first.
    async fn blocks(&self, probes: &[Probe; PROBES], before: &str, limit: u32) -> Result<Vec<SearchBlock>>;
    /// Stores a block. Returns whether nobody else had done so.
    async fn add(&self, block: &NewSearchBlock) -> Result<bool>;
    /// Forgets all blocks with messages from `since` on: they are to be read anew.
    async fn forget(&self, since: &MessageId) -> Result<()>;
    /// Forgets all blocks with nothing but messages before `before`.
    async fn forget_before(&self, before: &str) -> Result<()>;
}
