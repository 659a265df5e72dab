//! Ctrl-C and a polite end (SIGTERM), for commands that ask a platform: what a command has to put back, the terminal's echo
//! and half a file, is put back before the process ends.

use std::{process::ExitCode, time::Duration};

use anyhow::Result;
use tokio::signal::unix::{SignalKind, signal};

/// How long putting things back may take: a command that hangs in a call of the system must end all the same.
const PUT_BACK_MAX: Duration = Duration::from_secs(2);

/// Runs a command until it is done, or until a signal: then it is dropped where it waits, with all that it holds.
///
/// # Errors
/// What the command says.
pub async fn unless_interrupted(command: impl Future<Output = Result<ExitCode>> + Send + 'static) -> Result<ExitCode> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    // A task of its own: a signal is noticed whatever the command does.
    let mut task = tokio::spawn(command);
    let code = tokio::select! {
        outcome = &mut task => return outcome?,
        // As a shell has it: 128 and the number of the signal.
        _ = interrupt.recv() => 130,
        _ = terminate.recv() => 143,
    };
    task.abort();
    tokio::time::timeout(PUT_BACK_MAX, task).await.ok();
    Ok(ExitCode::from(code))
}
