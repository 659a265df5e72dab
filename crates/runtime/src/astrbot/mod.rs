//! One `AstrBot`, seen from outside: its configuration file and its API. Nothing in here starts a process.

pub mod config;
