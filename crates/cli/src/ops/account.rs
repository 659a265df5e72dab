//! `login`, `logout`, `usage` and `audit`: small commands of one call each.

use std::{
    io::{BufRead, IsTerminal, Write},
    path::PathBuf,
};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use secrecy::SecretString;
use serde_json::json;

use super::Paging;
use crate::{
    address::{Query, at},
    client::Client,
    output::{Output, aside},
    part_file::PartFile,
};

/// From when to when.
#[derive(clap::Args)]
pub struct Period {
    /// The first day (2026-11-23, UTC) or moment (RFC 3339); thirty days before the end
    #[arg(long)]
    from: Option<String>,
    /// The day or moment after the last one; now
    #[arg(long)]
    to: Option<String>,
}

impl Period {
    /// As the API takes it.
    fn query(&self) -> Query {
        Query::default().and("from", self.from.as_deref()).and("to", self.to.as_deref())
    }
}

/// Shows what a tenant used, by day, and all of it together.
///
/// # Errors
/// What the platform says.
pub async fn usage(client: &Client, tenant: &str, period: &Period, output: Output) -> Result<()> {
    let usage = client.get(&format!("{}{}", at(["tenants", tenant, "usage"]), period.query())).await?;
    if output.is_json() {
        output.done(&usage, "");
        return Ok(());
    }
    let mut rows = usage["days"].as_array().context("the answer has no days")?.clone();
    let mut total = usage["total"].clone();
    total["period"] = "total".into();
    rows.push(total);
    output.page(&json!({"items": rows}), &["period", "messages", "requests", "prompt_tokens", "completion_tokens"])
}

/// More about what was used.
#[derive(clap::Subcommand)]
pub enum UsageCommand {
    /// Write every call of a model to standard output, or to a file
    Export {
        /// Id or name
        tenant: String,
        #[command(flatten)]
        period: Period,
        /// As what [default: csv, and json with --json]
        #[arg(long, value_enum)]
        format: Option<ExportFormat>,
        /// Into this file, which must not be there
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
    },
}

/// As what lines are written.
#[derive(Clone, Copy, clap::ValueEnum)]
pub enum ExportFormat {
    /// For spreadsheets
    Csv,
    /// For programs
    Json,
}

/// Writes out every call of a model.
///
/// # Errors
/// What the platform says, and where it cannot be written.
pub async fn export_usage(client: &Client, command: UsageCommand, output: Output) -> Result<()> {
    let UsageCommand::Export { tenant, period, format, output: file } = command;
    let format = match format {
        None if output.is_json() && file.is_none() => "json",
        Some(ExportFormat::Csv) if output.is_json() && file.is_none() => {
            bail!("--format csv is no JSON: leave --json out")
        }
        None | Some(ExportFormat::Csv) => "csv",
        Some(ExportFormat::Json) => "json",
    };
    let query = period.query().with("format", format);
    let path = format!("{}{query}", at(["tenants", &tenant, "usage", "export"]));
    let Some(file) = file else {
        let printed = client.download(&path, |piece| Ok(std::io::stdout().lock().write_all(piece)?)).await;
        // A reader that has had enough (`| head`) is no failure.
        let is_read = |error: &std::io::Error| error.kind() == std::io::ErrorKind::BrokenPipe;
        return printed.or_else(|error| if error.downcast_ref().is_some_and(is_read) { Ok(()) } else { Err(error) });
    };
    // Nobody knows how many there are.
    let bar =
        ProgressBar::new_spinner().with_style(ProgressStyle::with_template("{spinner} {bytes} ({bytes_per_sec})")?);
    let mut target = PartFile::begin(&file)?;
    let write = |piece: &[u8]| {
        bar.inc(piece.len() as u64);
        Ok(target.write_all(piece)?)
    };
    client.download(&path, write).await?;
    target.finish()?;
    bar.finish_and_clear();
    let said = json!({"file": file, "format": format, "bytes": bar.position()});
    output.done(&said, &format!("{} has every call of a model of {tenant}.", file.display()));
    Ok(())
}

/// Shows who did what.
///
/// # Errors
/// What the platform says.
pub async fn audit(client: &Client, tenant: Option<&str>, paging: &Paging, output: Output) -> Result<()> {
    let log = tenant.map_or_else(|| at(["audit-log"]), |tenant| at(["tenants", tenant, "audit-log"]));
    let entries = client.get(&format!("{log}{}", paging.query())).await?;
    output.page(&entries, &["at", "actor", "action", "target", "request_id"])
}

/// A line that is typed, or piped, and belongs to nobody else's eyes.
///
/// # Errors
/// Where there is none.
pub async fn password(prompt: &str) -> Result<SecretString> {
    let terminal = std::io::stdin().is_terminal();
    // Lives here and not in the thread that reads: whoever is interrupted gets the echo back.
    let hidden = if terminal { Some(HiddenInput::begin()?) } else { None };
    if terminal {
        let mut stderr = std::io::stderr().lock();
        write!(stderr, "{prompt}: ").and_then(|()| stderr.flush())?;
    }
    let line = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line).map(|_| line)
    });
    let line = line.await?.context("the password cannot be read")?;
    if hidden.is_some() {
        aside("");
    }
    let password = line.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        bail!("no password was given: type it, or pipe it into standard input");
    }
    Ok(password.to_owned().into())
}

/// The terminal shows nothing of what is typed while this lives.
struct HiddenInput(rustix::termios::Termios);

impl HiddenInput {
    fn begin() -> Result<Self> {
        let before = rustix::termios::tcgetattr(std::io::stdin())?;
        let mut hidden = before.clone();
        hidden.local_modes.remove(rustix::termios::LocalModes::ECHO);
        rustix::termios::tcsetattr(std::io::stdin(), rustix::termios::OptionalActions::Now, &hidden)?;
        Ok(Self(before))
    }
}

impl Drop for HiddenInput {
    fn drop(&mut self) {
        rustix::termios::tcsetattr(std::io::stdin(), rustix::termios::OptionalActions::Now, &self.0).ok();
    }
}
