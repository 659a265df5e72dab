//! What the rights in data need of the store: exports, retention, the erasure of one end user.

use async_trait::async_trait;

use super::Erased;
use crate::{
    attachment::Attachment,
    error::Result,
    export::Export,
    id::{AttachmentId, ExportId, MessageId, SessionId},
    message::Message,
    time::Timestamp,
};

/// What one tenant has kept for too long: deleted in batches, the oldest first. Where a text stands for an id, whatever
/// sorts like one will do.
#[async_trait]
pub trait Retention: Send + Sync {
    /// Deletes at most `limit` messages before `before`, but for those that are still to be answered. Returns how many.
    async fn delete_messages(&self, before: &str, limit: u32) -> Result<u64>;
    /// Deletes at most `limit` closed sessions without messages in which nothing happened since `before`. Returns how
    /// many.
    async fn delete_sessions(&self, before: Timestamp, limit: u32) -> Result<u64>;
    /// At most `limit` attachments before `before`, the oldest first.
    async fn attachments(&self, before: &str, limit: u32) -> Result<Vec<AttachmentId>>;
    /// Forgets an attachment, whose content is gone already.
    async fn delete_attachment(&self, id: &AttachmentId) -> Result<()>;
    /// At most `limit` sessions of an end user, on whatever channel.
    async fn end_user_sessions(&self, end_user: &str, limit: u32) -> Result<Vec<SessionId>>;
    /// The oldest message of a session, and the attachments of all of them.
    async fn session_content(&self, id: &SessionId) -> Result<(Option<MessageId>, Vec<AttachmentId>)>;
    /// Deletes a session with all its messages, and everything else that speaks of it: what was told of it, to whom, and
    /// the answers that are kept of it.
    async fn delete_session(&self, id: &SessionId) -> Result<Erased>;
    /// Deletes at most `limit` events from before `before`, and at most `limit` deliveries of events that are gone.
    async fn delete_events(&self, before: Timestamp, limit: u32) -> Result<Erased>;
    /// For a tenant that is erased: deletes at most `limit` of each kind of what there may be much of beside messages and
    /// events: lines of the ledger, blocks of the search, files, and sessions without messages.
    async fn delete_rest(&self, limit: u32) -> Result<Erased>;
    /// Whether there is any session of an IM channel.
    async fn has_channels(&self) -> Result<bool>;
    /// Looks through at most `limit` messages after `after` for those that `sender` wrote in an IM channel.
    async fn sent_by(&self, sender: &str, after: Option<&MessageId>, limit: u32) -> Result<SentBy>;
    /// Deletes a message with its answer. Returns how many they were.
    async fn delete_message(&self, id: &MessageId) -> Result<u64>;
    /// Deletes what was told in a session of messages that are gone.
    async fn delete_untold(&self, id: &SessionId) -> Result<Erased>;
}

/// What of some messages somebody wrote.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SentBy {
    /// Theirs, each with its session.
    pub messages: Vec<(MessageId, SessionId)>,
    /// The last that was looked at; none: there are no more.
    pub last: Option<MessageId>,
}

/// Exports of one tenant, and what they read that nobody else does.
#[async_trait]
pub trait Exports: Send + Sync {
    /// Stores a new one, which waits.
    async fn insert(&self, export: &Export) -> Result<()>;
    /// # Errors
    /// [`crate::Error::NotFound`].
    async fn get(&self, id: &ExportId) -> Result<Export>;
    /// At most `limit`, the newest first.
    async fn list(&self, limit: u32) -> Result<Vec<Export>>;
    /// Forgets one.
    ///
    /// # Errors
    /// [`crate::Error::NotFound`].
    async fn delete(&self, id: &ExportId) -> Result<()>;
    /// Begins one that was begun `attempts` times before. Returns whether nobody else did: then whoever asks has the
    /// number `attempts + 1`.
    async fn claim(&self, id: &ExportId, attempts: i64, now: Timestamp) -> Result<bool>;
    /// Notes how far it is. Returns whether it is still the one with the number `attempt`.
    async fn progress(&self, id: &ExportId, attempt: i64, done: u64, total: u64, now: Timestamp) -> Result<bool>;
    /// Gives it back as if the attempt with this number had not been: whoever made it writes nothing any more. Returns
    /// whether it was still that one.
    async fn release(&self, id: &ExportId, attempt: i64, now: Timestamp) -> Result<bool>;
    /// Ends it: with the size and the SHA-256 of its archive, or with the reason why there is none. Returns whether it
    /// was still the one with the number `attempt`.
    async fn finish(
        &self,
        id: &ExportId,
        attempt: i64,
        outcome: Result<(u64, String), String>,
        now: Timestamp,
    ) -> Result<bool>;
    /// Messages and attachments of the tenant, counted.
    async fn total(&self) -> Result<u64>;
    /// At most `limit` messages of the tenant after `after`, the oldest first.
    async fn messages(&self, after: Option<&MessageId>, limit: u32) -> Result<Vec<Message>>;
    /// The same of its attachments.
    async fn attachments(&self, after: Option<&AttachmentId>, limit: u32) -> Result<Vec<Attachment>>;
}
