//! `instance`: a tenant's bot.

use anyhow::{Context, Result};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{address::at, client::Client, output::Output};

const FIELDS: &[&str] = &[
    "id",
    "tenant_id",
    "desired",
    "observed",
    "ready",
    "reason",
    "since",
    "version",
    "url",
    "restarts",
    "memory_bytes",
];

/// What to do.
#[derive(clap::Subcommand)]
pub enum Command {
    /// Show the bot
    Show {
        /// Id or name
        tenant: String,
    },
    /// Show every change of its state until Ctrl-C
    Watch {
        /// Id or name
        tenant: String,
    },
    /// Start it
    Start {
        /// Id or name
        tenant: String,
    },
    /// Stop it; its data is kept
    Stop {
        /// Id or name
        tenant: String,
    },
    /// Stop it and start it again
    Restart {
        /// Id or name
        tenant: String,
    },
    /// Print a link into the bot's own dashboard, signed in: for one use, within a minute
    Open {
        /// Id or name
        tenant: String,
    },
    /// Print its log
    Logs {
        /// Id or name
        tenant: String,
        /// So many lines
        #[arg(long, short = 'n', default_value_t = 100)]
        lines: u32,
        /// And those that follow, until Ctrl-C
        #[arg(long, short)]
        follow: bool,
    },
    /// Print its configuration, or change it
    #[command(after_help = "Example:\n  astrfleet instance config acme --set '{\"timezone\": \"Asia/Shanghai\"}'")]
    Config {
        /// Id or name
        tenant: String,
        /// A JSON merge patch (RFC 7386)
        #[arg(long, value_name = "JSON")]
        set: Option<String>,
    },
}

/// Does it.
///
/// # Errors
/// What the platform says.
pub async fn run(command: Command, client: &Client, output: Output) -> Result<()> {
    let below = |tenant: &str, rest: &str| format!("{}{rest}", at(["tenants", tenant, "instance"]));
    match command {
        Command::Show { tenant } => output.thing(&client.get(&below(&tenant, "")).await?, FIELDS),
        Command::Start { tenant } => act(client, output, &below(&tenant, "/start")).await?,
        Command::Stop { tenant } => act(client, output, &below(&tenant, "/stop")).await?,
        Command::Restart { tenant } => act(client, output, &below(&tenant, "/restart")).await?,
        Command::Open { tenant } => {
            let link = client.post(&below(&tenant, "/open"), &json!({})).await?;
            output.done(&link, link["url"].as_str().context("the answer has no url")?);
        }
        Command::Watch { tenant } => {
            let mut states = client.stream(Method::GET, &below(&tenant, "/events"), None).await?;
            while let Some(state) = states.next().await? {
                let text = |field: &str| state.data[field].as_str().unwrap_or_default().to_owned();
                output.news(&state.data, &format!("{}  {:<13} {}", text("since"), text("observed"), text("reason")));
            }
        }
        Command::Logs { tenant, lines, follow: false } => {
            let log = client.get(&below(&tenant, &format!("/logs?lines={lines}"))).await?;
            if output.is_json() {
                output.done(&log, "");
            } else {
                log["items"].as_array().into_iter().flatten().for_each(|entry| print_line(output, entry));
            }
        }
        Command::Logs { tenant, lines, follow: true } => {
            let rest = format!("/logs?lines={lines}&follow=true");
            let mut log = client.stream(Method::GET, &below(&tenant, &rest), None).await?;
            while let Some(entry) = log.next().await? {
                print_line(output, &entry.data);
            }
        }
        Command::Config { tenant, set: None } => {
            let config = client.get(&below(&tenant, "/config")).await?;
            output.done(&config, &format!("{config:#}"));
        }
        Command::Config { tenant, set: Some(patch) } => {
            let patch: Value = serde_json::from_str(&patch).context("--set is not JSON")?;
            let config = client.call(Method::PATCH, &below(&tenant, "/config"), Some(&patch)).await?;
            output.done(&config, "Changed.");
        }
    }
    Ok(())
}

async fn act(client: &Client, output: Output, path: &str) -> Result<()> {
    output.thing(&client.post(path, &json!({})).await?, FIELDS);
    Ok(())
}

fn print_line(output: Output, entry: &Value) {
    let text = |field: &str| entry[field].as_str().unwrap_or_default().to_owned();
    let shown: String =
        text("line").chars().filter(|character| !character.is_control() || *character == '\t').collect();
    output.news(entry, &format!("{}  {shown}", text("at")));
}
