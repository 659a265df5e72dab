//! What the rules need from outside. Each port with more than one implementation has one contract suite in the
//! testkit, which every implementation passes.

mod access;
mod blobs;
mod bridge;
mod bus;
mod cache;
mod events;
mod idempotency;
mod leases;
mod limiter;
mod messages;
mod rights;
mod runtime;
mod search;
mod store;
mod system;
mod tenants;
pub mod testing;
mod usage;
mod webhooks;

pub use access::{ApiKeys, AuditLog, Invitations, Members, RefreshTokens, Users};
pub use blobs::{BlobStream, Blobs};
pub use bridge::{Bridge, Heard, Inbound, Overdue, Spoken, TakenIn, Told, kept_back};
pub use bus::{Bus, BusEvent, BusStream};
pub use cache::Cache;
pub use events::Events;
pub use idempotency::{Begun, Idempotency, StoredAnswer};
pub use leases::{Fence, Holder, Lease, Leases, Taken, erasure_lease, queue_lease};
pub use limiter::{Limit, Limiter, Verdict};
pub use messages::{Accepted, Attachments, Blocklist, Delivery, Messages, NewMessage, Outcome, Sessions};
pub use rights::{Exports, Retention, SentBy};
pub use runtime::{
    BotAccess, BotClient, BotFile, BotSpec, BotStatus, Bots, BridgeSpec, ChannelDraft, ChatStream, FoundBot, LogLine,
    LogStream, Runtime, WhenAway,
};
pub use search::{NewSearchBlock, Search, SearchBlock};
pub use store::Store;
pub use system::System;
pub use tenants::{Erased, Instances, Proof, Tenants};
pub use usage::{BudgetHolder, Budgets, UsageLedger};
pub use webhooks::{Deliveries, NewDelivery, PassOver, Recorded, SealedSecrets, Webhooks};

use std::time::Duration;

use crate::time::Timestamp;

/// The time, passed in.
pub trait Clock: Send + Sync {
    /// Now, as people and other machines know it: somebody may set it.
    fn now(&self) -> Timestamp;
    /// How long it is since some moment in the past, always the same one. Nobody sets it, and it never goes back.
    fn elapsed(&self) -> Duration;
}

/// Randomness that nobody can guess, passed in.
pub trait Rng: Send + Sync {
    /// Fills `bytes`.
    fn fill(&self, bytes: &mut [u8]);
}
