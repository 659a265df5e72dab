//! `end-user`: those who write to a tenant's bot.

use std::{io::Write, path::PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::{address::at, client::Client, output::Output, part_file::PartFile};

/// What to do.
#[derive(clap::Subcommand)]
pub enum Command {
    /// Erase what is stored of an end user: sessions, messages, files, and every export that has them
    #[command(after_help = "Example:\n  astrfleet end-user erase acme ada --yes -o ada.jws")]
    Erase {
        /// Id or name
        tenant: String,
        /// Your own name of them, as in their sessions; of an IM channel, its own id of them
        end_user: String,
        /// Really do it: nothing of it comes back
        #[arg(long)]
        yes: bool,
        /// Write the signed statement of what was erased into this file, which must not be there
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
}

/// Does it.
///
/// # Errors
/// What the platform says; a file that is there already.
pub async fn run(command: Command, client: &Client, output: Output) -> Result<()> {
    let Command::Erase { tenant, end_user, yes, output: file } = command;
    if !yes {
        bail!("this would erase all that is stored of {end_user} in {tenant}, for good: add --yes");
    }
    // Before anything is erased.
    let target = file.as_deref().map(PartFile::begin).transpose()?;
    let erased = client.post(&at(["tenants", &tenant, "end-users", &end_user, "erase"]), &json!({})).await?;
    if let Some(target) = target {
        keep_statement(target, &erased)?;
    }
    output.thing(&erased, &["sessions", "messages", "attachments", "statement"]);
    Ok(())
}

/// Writes the signed statement of an erasure.
///
/// # Errors
/// Where there is none, or it cannot be written.
pub fn keep_statement(mut target: PartFile, answer: &Value) -> Result<()> {
    let statement = answer["statement"].as_str().context("the answer has no statement")?;
    writeln!(target, "{statement}")?;
    target.finish()
}
