//! What has just happened, told to whoever listens. Nothing durable depends on it: losing an event costs a delay.

use futures_util::stream::BoxStream;

use crate::id::{ApiKeyId, InstanceId, LoginId, MessageId, SessionId, TenantId, UserId};

/// What happened. Always read the store for the details: an event may be late, twice, or missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BusEvent {
    /// A bot's state changed.
    InstanceChanged {
        /// Whose.
        tenant: TenantId,
        /// Which.
        instance: InstanceId,
    },
    /// Something of a tenant changed: its status, its plan, its name.
    TenantChanged(TenantId),
    /// A session changed.
    SessionChanged(TenantId, SessionId),
    /// A message was accepted and waits for a worker.
    MessageAccepted(TenantId, MessageId),
    /// Nobody has the queue before this tenant's bot any more: whoever can may take it.
    QueueReleased(TenantId),
    /// A user's place in a tenant, or the user, changed.
    MembershipChanged(UserId),
    /// A login was ended: its access tokens are worth nothing.
    LoginEnded(LoginId),
    /// A key was taken back.
    KeyRevoked(ApiKeyId),
    /// Events may have been lost on the way to this listener, any of the above. Whatever it remembers because nothing
    /// was said to the contrary is to be read again.
    Missed,
}

/// Events as they come. One that cannot keep up loses the oldest ones, and hears [`BusEvent::Missed`] in their place.
pub type BusStream = BoxStream<'static, BusEvent>;

/// Tells and listens.
pub trait Bus: Send + Sync {
    /// Tells everybody who listens at this moment. Never waits.
    fn publish(&self, event: BusEvent);
    /// Listens from now on.
    fn subscribe(&self) -> BusStream;
}
