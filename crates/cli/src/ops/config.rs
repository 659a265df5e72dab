//! `config`: the manual, and whether what was configured can be used.

use std::path::PathBuf;

use anyhow::Result;
use serde_json::json;

use crate::{
    config::{Config, DEFAULT, Environment, Overrides},
    login::Target,
    output::{line, text},
};

/// What to do with it.
#[derive(clap::Subcommand)]
pub enum Command {
    /// Print every key with its default and what it is for
    Default,
    /// Read a configuration as `up` and `serve` do, and say whether it can be used
    Check {
        /// The file; without one, the environment alone
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
}

/// Runs it.
///
/// # Errors
/// Where the configuration cannot be used.
pub fn run(command: &Command, target: &Target, environment: &Environment, json: bool) -> Result<()> {
    match command {
        Command::Default if json => line(&format!("{:#}", toml::from_str::<serde_json::Value>(DEFAULT)?)),
        Command::Default => text(DEFAULT),
        Command::Check { config } => {
            let overrides =
                Overrides { file: config.clone(), data_dir: target.data_dir.clone(), ..Overrides::default() };
            let config = Config::load(&overrides, environment)?;
            let (folder, risks) = (config.data.dir.display(), config.risks(None));
            if json {
                line(&json!({"ok": true, "data_dir": config.data.dir, "warnings": risks}).to_string());
            } else {
                line(&format!("The configuration can be used. Data folder: {folder}"));
                for risk in risks {
                    line(&format!("warning: {risk}"));
                }
            }
        }
    }
    Ok(())
}
