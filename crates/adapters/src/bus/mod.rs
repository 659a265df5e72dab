//! Backends of the port [`astrfleet_core::ports::Bus`].

mod memory;

pub use memory::MemoryBus;
