//! Rules only: no I/O, no HTTP, no SQL. Everything here can be tested without starting anything.
//!
//! One file a subject; each life (instance, session, message) is one enum with one `next()`, and nobody else
//! decides. What the rules need from outside is a trait in [`ports`].

pub mod api_key;
pub mod attachment;
pub mod audit;
pub mod backoff;
pub mod blocklist;
pub mod bridge;
pub mod budget;
pub mod channel;
pub mod chat;
pub mod circuit;
pub mod error;
pub mod event;
pub mod export;
pub mod id;
pub mod instance;
pub mod member;
pub mod message;
pub mod page;
pub mod plan;
pub mod policy;
pub mod ports;
pub mod quota;
pub mod search;
pub mod session;
pub mod tenant;
pub mod text;
pub mod time;
pub mod usage;
pub mod user;
pub mod webhook;

pub use error::{Error, Result};
