//! Messages from being sent to being answered, on a real store, with bots that do as they are told and a platform that
//! can be killed at any moment.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails where it stands")]

mod bots;
mod delivery;
mod files;
mod overtaken;
mod repair;
mod replicas;
mod streams;
mod world;
