//! One suite a port, passed by every backend of it.

pub mod api_keys;
pub mod audit;
pub mod blobs;
pub mod bus;
pub mod idempotency;
pub mod invitations;
pub mod limiter;
pub mod members;
pub mod refresh_tokens;
pub mod store;
pub mod tenants;
pub mod users;
