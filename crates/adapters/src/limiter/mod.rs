//! Backends of the port [`astrfleet_core::ports::Limiter`].

mod memory;
mod redis;

pub use memory::MemoryLimiter;
pub use redis::RedisLimiter;
