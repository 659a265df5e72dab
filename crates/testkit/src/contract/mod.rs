//! One suite a port, passed by every backend of it.

pub mod blobs;
pub mod bus;
pub mod limiter;
