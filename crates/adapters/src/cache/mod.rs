//! Backends of the port [`astrfleet_core::ports::Cache`].

mod memory;
mod redis;

pub use memory::MemoryCache;
pub use redis::RedisCache;
