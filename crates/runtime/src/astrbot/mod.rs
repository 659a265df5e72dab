//! One `AstrBot`, seen from outside: its configuration file and its API. Nothing in here starts a process.

mod answer;
pub mod bridge;
mod channel_states;
mod channels;
mod chat;
mod client;
pub mod config;
mod connection;
mod dashboard;
mod files;
mod history;
mod jwt;
mod masking;
mod persona;
mod settings;
mod sse;

pub use client::{AstrBots, ClientLimits};
