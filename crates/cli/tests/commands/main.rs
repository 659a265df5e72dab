//! What commands do beside printing: help pages, JSON, logins that are kept, files, streams that break, the database, and
//! what they see of a machine.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod files;
mod help;
mod json;
mod logins;
mod machine;
mod scripted;
mod streams;

const PROGRAM: &str = env!("CARGO_BIN_EXE_astrfleet");
