//! The commands, one a file. Those that use a platform do it over the public API alone.

pub mod account;
pub mod attachment;
pub mod blocklist;
pub mod channel;
pub mod chat;
pub mod config;
pub mod demo;
pub mod doctor;
pub mod end_user;
pub mod errors;
pub mod events;
pub mod export;
pub mod healthcheck;
pub mod instance;
pub mod key;
pub mod migrate;
pub mod openapi;
pub mod run;
pub mod session;
pub mod tenant;
pub mod user;
pub mod webhook;

use crate::address::Query;

/// Which part of a list.
#[derive(clap::Args)]
pub struct Paging {
    /// At most so many
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=200))]
    limit: Option<u32>,
    /// Only what follows this one, as the page before said
    #[arg(long)]
    cursor: Option<String>,
}

impl Paging {
    /// As the API takes it.
    pub fn query(&self) -> Query {
        let limit = self.limit.map(|limit| limit.to_string());
        Query::default().and("limit", limit.as_deref()).and("cursor", self.cursor.as_deref())
    }
}
