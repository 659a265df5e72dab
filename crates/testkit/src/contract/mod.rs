//! One suite a port, passed by every backend of it.

pub mod accepts;
pub mod api_keys;
pub mod attachments;
pub mod audit;
pub mod blobs;
pub mod blocklist;
pub mod bridge;
pub mod bus;
pub mod events;
pub mod idempotency;
pub mod instances;
pub mod interleavings;
pub mod invitations;
pub mod leases;
pub mod limiter;
pub mod members;
pub mod messages;
pub mod refresh_tokens;
pub mod search;
pub mod sessions;
pub mod store;
pub mod system;
pub mod tenants;
pub mod usage;
pub mod users;
pub mod webhooks;
