//! Backends of the port [`astrfleet_core::ports::Bus`].

mod memory;
mod redis;
mod wire;

pub use memory::MemoryBus;
pub use redis::RedisBus;
