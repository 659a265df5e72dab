//! What is stored, whosever it is.

use async_trait::async_trait;

use super::{Overdue, PassOver};
use crate::{
    api_key::ApiKey,
    error::Result,
    export::Export,
    id::{InstanceId, MessageId, SessionId, TenantId, WebhookId},
    instance::Instance,
    member::Invitation,
    page::{Page, PageRequest},
    session::Session,
    time::Timestamp,
};

/// What spans tenants. Whoever calls has no tenant yet, or all of them.
#[async_trait]
pub trait System: Send + Sync {
    /// Whether the database answers.
    async fn ping(&self) -> Result<()>;
    /// The time of whoever keeps all this: the same for all processes, whatever their own clocks say.
    async fn now(&self) -> Result<Timestamp>;
    /// # Errors
    /// [`crate::Error::NotFound`].
    async fn api_key_by_hash(&self, hash: &[u8; 32]) -> Result<ApiKey>;
    /// # Errors
    /// [`crate::Error::NotFound`].
    async fn invitation_by_hash(&self, hash: &[u8; 32]) -> Result<(TenantId, Invitation)>;
    /// # Errors
    /// [`crate::Error::NotFound`].
    async fn instance(&self, id: &InstanceId) -> Result<Instance>;
    /// All bots, by their id.
    async fn instances(&self, page: &PageRequest) -> Result<Page<Instance>>;
    /// At most `limit` tenants who have messages that are not at an end, and whose queue nobody has (see
    /// [`super::queue_lease`]).
    async fn tenants_without_owner(&self, limit: u32) -> Result<Vec<TenantId>>;
    /// At most `limit` messages that wait to be delivered, in queues that `owner` has or had last; the oldest first, after
    /// `after`.
    async fn waiting_messages_of(
        &self,
        owner: &str,
        after: Option<&MessageId>,
        limit: u32,
    ) -> Result<Vec<(TenantId, SessionId, MessageId)>>;
    /// At most `limit` messages of IM channels, or of people to them, that are on their way since before `before`.
    async fn overdue_at_channels(&self, before: Timestamp, limit: u32) -> Result<Vec<Overdue>>;
    /// At most `limit` messages that were being delivered or streamed, or were interrupted after `interrupted_since`: what is to be
    /// repaired when nobody works on it any more. None of IM channels: their bots answer those by themselves. The
    /// oldest first, after `after`.
    async fn unfinished_messages(
        &self,
        interrupted_since: Timestamp,
        after: Option<&MessageId>,
        limit: u32,
    ) -> Result<Vec<(TenantId, MessageId)>>;
    /// At most `limit` sessions that are not closed, in which nobody wrote since `before`, and no message is unfinished.
    async fn idle_sessions(&self, before: Timestamp, limit: u32) -> Result<Vec<Session>>;
    /// The place of the newest event of each of these tenants that has any.
    async fn newest_events(&self, tenants: &[TenantId]) -> Result<Vec<(TenantId, i64)>>;
    /// At most `limit` webhooks that have not got all their deliveries yet, and fewer than `pending_max` that wait.
    async fn webhooks_behind(&self, pending_max: u32, limit: u32) -> Result<Vec<(TenantId, WebhookId)>>;
    /// At most `limit` webhooks with a delivery that may be claimed at `now`, those that waited longest first; of tenants
    /// that are served, and none that are to be passed over.
    async fn webhooks_due(
        &self,
        now: Timestamp,
        pass_over: &PassOver,
        limit: u32,
    ) -> Result<Vec<(TenantId, WebhookId)>>;
    /// Deletes at most `limit` deliveries that came to their end before `before`. Returns how many.
    async fn delete_deliveries(&self, before: Timestamp, limit: u32) -> Result<u64>;
    /// Deletes at most `limit` events from before `before`. Returns how many.
    async fn delete_events(&self, before: Timestamp, limit: u32) -> Result<u64>;
    /// Makes room for the messages of the month of `moment`, where the database wants that and there is none. Returns
    /// whether it did.
    async fn make_message_month(&self, moment: Timestamp) -> Result<bool>;
    /// Drops the months of messages that end before `before`, an id or what sorts like one, whosever they are. Returns
    /// how many.
    async fn drop_message_months(&self, before: &str) -> Result<u64>;
    /// At most `limit` exports that wait, or came no further since `abandoned_before`, each with how often it was begun.
    async fn open_exports(&self, abandoned_before: Timestamp, limit: u32) -> Result<Vec<(Export, i64)>>;
    /// At most `limit` exports whose time is over.
    async fn expired_exports(&self, now: Timestamp, limit: u32) -> Result<Vec<Export>>;
    /// Deletes at most `limit` answers kept under an `Idempotency-Key` since before `before`. Returns how many.
    async fn delete_idempotency(&self, before: Timestamp, limit: u32) -> Result<u64>;
}
