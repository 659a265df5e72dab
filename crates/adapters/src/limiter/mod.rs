//! Backends of the port [`astrfleet_core::ports::Limiter`].

mod memory;

pub use memory::MemoryLimiter;
