//! Backends of the small ports of core: bus, cache, limiter, blobs. No rule lives here, and nothing here is the truth:
//! what must not be lost is in the store.

pub mod blobs;
pub mod bus;
pub mod cache;
pub mod limiter;
pub mod redis;
