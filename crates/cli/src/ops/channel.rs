//! `channel`: the IM platforms that a tenant's bot serves.

use std::path::PathBuf;

use anyhow::{Context, Result};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{address::at, client::Client, output::Output};

const FIELDS: &[&str] = &["id", "type", "enabled", "connected", "status", "last_error", "webhook_path"];

/// What to do.
#[derive(clap::Subcommand)]
pub enum Command {
    /// List channels
    List {
        /// Id or name
        tenant: String,
    },
    /// Add a channel
    #[command(after_help = "Example:\n  astrfleet channel add acme support --type telegram --settings telegram.json")]
    Add {
        /// Id or name
        tenant: String,
        /// The channel's id: a-z, 0-9, _ and -
        id: String,
        /// telegram, line, slack, …
        #[arg(long = "type")]
        kind: String,
        /// A file with its settings (JSON), secrets included; `-` for standard input
        #[arg(long, value_name = "FILE")]
        settings: PathBuf,
    },
    /// Ask the IM platform whether it accepts the settings
    Test {
        /// Id or name
        tenant: String,
        /// The channel's id
        id: String,
    },
    /// Delete a channel
    Delete {
        /// Id or name
        tenant: String,
        /// The channel's id
        id: String,
    },
}

/// Does it.
///
/// # Errors
/// What the platform says.
pub async fn run(command: Command, client: &Client, output: Output) -> Result<()> {
    let path = |tenant: &str| at(["tenants", tenant, "channels"]);
    let one = |tenant: &str, id: &str| at(["tenants", tenant, "channels", id]);
    match command {
        Command::List { tenant } => output.page(&client.get(&path(&tenant)).await?, FIELDS)?,
        Command::Add { tenant, id, kind, settings } => {
            let text = if settings.as_os_str() == "-" {
                // Ctrl-C ends this, too.
                let read = tokio::task::spawn_blocking(|| std::io::read_to_string(std::io::stdin())).await?;
                read.context("standard input cannot be read")?
            } else {
                std::fs::read_to_string(&settings).with_context(|| format!("{} cannot be read", settings.display()))?
            };
            let settings: Value = serde_json::from_str(&text).context("the settings are not JSON")?;
            let body = json!({"id": id, "type": kind, "settings": settings});
            output.thing(&client.post(&path(&tenant), &body).await?, FIELDS);
        }
        Command::Test { tenant, id } => {
            let outcome = client.post(&format!("{}/test", one(&tenant, &id)), &json!({})).await?;
            output.thing(&outcome, &["ok", "detail"]);
        }
        Command::Delete { tenant, id } => {
            let answer = client.call(Method::DELETE, &one(&tenant, &id), None).await?;
            output.done(&answer, &format!("The channel {id} is gone."));
        }
    }
    Ok(())
}
