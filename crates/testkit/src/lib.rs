//! For tests alone: real programs, faithful fakes of what lies outside our walls, and the platform as a child process.
//! Nothing here is ever linked into the binary that people run, and nothing here skips a test: a part that is missing
//! fails it and says how to install it.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "a test kit fails the test where it stands; a panic is documented where it says more than that"
)]

pub mod app;
pub mod backends;
mod background;
pub mod binary;
pub mod client;
pub mod contract;
pub mod disk;
pub mod fake_bots;
pub mod fake_provider;
pub mod fake_runtime;
pub mod fake_telegram;
pub mod faults;
pub mod fleet;
mod kept;
pub mod parts;
pub mod ports;
pub mod postgres;
pub mod processes;
pub mod receiver;
pub mod redis;
pub mod s3;
pub mod shell;
pub mod toxiproxy;
pub mod watched;
pub mod way;
