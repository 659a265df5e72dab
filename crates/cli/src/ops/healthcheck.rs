//! `healthcheck`: for containers, where no curl is at hand.

use std::{path::PathBuf, time::Duration};

use anyhow::Result;
use astrfleet_server::gateway::loopback;

use crate::{
    client::Client,
    config::{Config, Environment, Overrides},
    login::Target,
    output::Output,
};

/// Whatever asks wants an answer soon, and asks again.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// Succeeds where the platform is ready: the one that was named, or runs here, or would listen here as it is configured.
///
/// # Errors
/// Where it is not, or does not answer.
pub async fn run(target: &Target, config: Option<PathBuf>, environment: &Environment, output: Output) -> Result<()> {
    let known = if config.is_none() { target.anonymous(environment).ok() } else { None };
    let client = match known {
        Some(client) => client,
        None => Client::new(&listens(target, config, environment)?, None)?,
    };
    let client = client.waiting_at_most(ANSWER_MAX);
    let answer = client.get("/ready").await?;
    output.done(&answer, &format!("{} is ready", client.url()));
    Ok(())
}

fn listens(target: &Target, file: Option<PathBuf>, environment: &Environment) -> Result<String> {
    let overrides = Overrides { file, data_dir: target.data_dir.clone(), ..Overrides::default() };
    let address = Config::load(&overrides, environment)?.gateway().listen;
    Ok(format!("http://{}", loopback(address)))
}
