//! `login`, `logout`, `usage` and `audit`: small commands of one call each.

use std::io::{BufRead, IsTerminal, Write};

use anyhow::{Context, Result, bail};
use secrecy::SecretString;

use super::Paging;
use crate::{client::Client, output::Output};

/// Shows what a tenant used, by day.
///
/// # Errors
/// What the platform says.
pub async fn usage(client: &Client, tenant: &str, output: Output) -> Result<()> {
    let usage = client.get(&format!("/api/v1/tenants/{tenant}/usage")).await?;
    output.page(&usage, &["period", "messages", "requests", "prompt_tokens", "completion_tokens"]);
    Ok(())
}

/// More about what was used.
#[derive(clap::Subcommand)]
pub enum UsageCommand {
    /// Write every call of a model to standard output, or to a file
    Export {
        /// Id or name
        tenant: String,
        /// The first day or moment; thirty days before the end
        #[arg(long)]
        from: Option<String>,
        /// The day or moment after the last one; now
        #[arg(long)]
        to: Option<String>,
        /// As what
        #[arg(long, value_enum, default_value_t)]
        format: ExportFormat,
        /// Into this file, which must not be there
        #[arg(long, short, value_name = "FILE")]
        output: Option<std::path::PathBuf>,
    },
}

/// As what lines are written.
#[derive(Clone, Copy, Default, clap::ValueEnum)]
pub enum ExportFormat {
    /// For spreadsheets
    #[default]
    Csv,
    /// For programs
    Json,
}

/// Writes out every call of a model.
///
/// # Errors
/// What the platform says, and where it cannot be written.
pub async fn export_usage(client: &Client, command: UsageCommand) -> Result<()> {
    let UsageCommand::Export { tenant, from, to, format, output } = command;
    let format = match format {
        ExportFormat::Csv => "csv",
        ExportFormat::Json => "json",
    };
    let moment = |name: &str, value: Option<String>| {
        // What a moment is written in, but for the sign of an offset, stands in an address as it is.
        value.map(|value| {
            format!("&{name}={}", value.replace('%', "%25").replace('+', "%2B").replace('&', "%26").replace('#', "%23"))
        })
    };
    let (from, to) = (moment("from", from).unwrap_or_default(), moment("to", to).unwrap_or_default());
    let path = format!("/api/v1/tenants/{tenant}/usage/export?format={format}{from}{to}");
    match output {
        None => {
            let mut out = std::io::stdout().lock();
            client.download(&path, |piece| Ok(out.write_all(piece)?)).await
        }
        Some(file) => {
            let opened = std::fs::OpenOptions::new().write(true).create_new(true).open(&file);
            let mut out = opened.with_context(|| format!("{} cannot be made", file.display()))?;
            let written = client.download(&path, |piece| Ok(out.write_all(piece)?)).await;
            if written.is_err() {
                // A part of it would look like all of it.
                std::fs::remove_file(&file).ok();
            }
            written
        }
    }
}

/// Shows who did what.
///
/// # Errors
/// What the platform says.
pub async fn audit(client: &Client, tenant: Option<&str>, paging: &Paging, output: Output) -> Result<()> {
    let path = match tenant {
        Some(tenant) => format!("/api/v1/tenants/{tenant}/audit-log{}", paging.query()),
        None => format!("/api/v1/audit-log{}", paging.query()),
    };
    output.page(&client.get(&path).await?, &["at", "actor", "action", "target", "request_id"]);
    Ok(())
}

/// A line that is typed, or piped, and belongs to nobody else's eyes.
///
/// # Errors
/// Where there is none.
pub fn password(prompt: &str) -> Result<SecretString> {
    let stdin = std::io::stdin();
    let terminal = stdin.is_terminal();
    if terminal {
        eprint!("{prompt}: ");
        std::io::stderr().flush()?;
    }
    let _hidden = if terminal { Some(HiddenInput::begin()?) } else { None };
    let mut line = String::new();
    stdin.lock().read_line(&mut line).context("the password cannot be read")?;
    if terminal {
        eprintln!();
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
