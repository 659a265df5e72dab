//! HTTP in, HTTP out. A role is a folder here: its service (what it does), its `api/` (one endpoint a file), its loops.
//!
//! `problem` is the only file that knows status codes. Nothing in this crate knows SQL, processes or which backend
//! is behind a port.

pub mod app;
pub mod auth;
pub mod bridge;
pub mod changes;
pub mod config;
pub mod context;
pub mod events;
pub mod extract;
pub mod gateway;
pub mod idempotency;
pub mod internal;
pub mod llm;
pub mod loops;
pub mod manager;
pub mod message;
pub mod metrics;
pub mod problem;
pub mod quota;
pub mod rights;
pub mod role;
pub mod secrets;
pub mod session;
mod stale;
pub mod tenant;
pub mod webhook;
