//! What the rules need from outside. Each port with more than one implementation has one contract suite in the
//! testkit, which every implementation passes.

mod blobs;
mod bridge;
mod bus;
mod leases;
mod limiter;
mod runtime;
mod store;
pub mod testing;
mod webhooks;

pub use blobs::{BlobStream, Blobs};
pub use bridge::{Bridge, Heard, Inbound, Overdue, TakenIn, Told, kept_back};
pub use bus::{Bus, BusEvent, BusStream};
pub use leases::{Fence, Holder, Lease, Leases, Taken, queue_lease};
pub use limiter::{Limit, Limiter, Verdict};
pub use runtime::{
    BotAccess, BotClient, BotFile, BotSpec, BotStatus, Bots, BridgeSpec, ChannelDraft, ChatStream, FoundBot, LogLine,
    LogStream, Runtime, WhenAway,
};
pub use store::{
    Accepted, ApiKeys, Attachments, AuditLog, Begun, Blocklist, BudgetHolder, Budgets, Delivery, Erased, Events,
    Exports, Idempotency, Instances, Invitations, Members, Messages, NewMessage, NewSearchBlock, Outcome, Proof,
    RefreshTokens, Retention, Search, SearchBlock, SentBy, Sessions, Store, StoredAnswer, System, Tenants, UsageLedger,
    Users,
};
pub use webhooks::{Deliveries, NewDelivery, Recorded, SealedSecrets, Webhooks};

use crate::time::Timestamp;

/// The time, passed in.
pub trait Clock: Send + Sync {
    /// Now.
    fn now(&self) -> Timestamp;
}

/// Randomness that nobody can guess, passed in.
pub trait Rng: Send + Sync {
    /// Fills `bytes`.
    fn fill(&self, bytes: &mut [u8]);
}
