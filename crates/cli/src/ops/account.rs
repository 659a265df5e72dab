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
