//! Benchmarks: ourselves beside programs that people know, in one run, on one machine. Only ratios are worth quoting.
//!
//! Nothing here fails because something is slow; it fails when what is compared does not do the same work.

mod accept;
mod bridge;
mod database;
mod gateway;
mod history;
mod idle;
mod llm;
mod load;
mod platform;
mod proc;
mod remote;
mod table;

use anyhow::{Result, ensure};
use clap::ValueEnum;

use crate::errand::Workspace;

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum What {
    /// The way in: CPU time of passing requests on
    Gateway,
    /// The way in where the roles behind it are other processes: CPU time of passing requests on to them
    Remote,
    /// Taking messages in: how many become durable a second
    Accept,
    /// Messages of IM channels: how long the platform keeps them waiting
    Bridge,
    /// Calls of models: CPU time of one, whole and streamed
    Llm,
    /// Being there: memory and time to start, without load
    Idle,
    /// Reading what was said: how long a page takes in a history of millions
    History,
}

/// How thoroughly.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Effort {
    /// Rounds; each measures everything once
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How long one measurement takes
    #[arg(long, default_value_t = 4, value_name = "SECONDS")]
    seconds: u32,
    /// Messages of `history`; in SQLite a tenth of them
    #[arg(long, default_value_t = 10_000_000, value_parser = clap::value_parser!(u32).range(200_000..=20_000_000))]
    messages: u32,
}

/// Measures `what`, or everything.
pub fn run(workspace: &Workspace, what: &[What], effort: Effort) -> Result<()> {
    let cores = std::thread::available_parallelism()?.get();
    ensure!(cores > proc::AROUND, "measuring needs two cores: one for what is measured, one for everything around it");
    let all = What::value_variants();
    for what in if what.is_empty() { all } else { what } {
        match what {
            What::Gateway => gateway::run(workspace, effort)?,
            What::Remote => remote::run(workspace, effort)?,
            What::Accept => accept::run(workspace, effort)?,
            What::Bridge => bridge::run(workspace, effort)?,
            What::Llm => llm::run(workspace, effort)?,
            What::Idle => idle::run(workspace, effort)?,
            What::History => history::run(workspace, effort)?,
        }
    }
    Ok(())
}
