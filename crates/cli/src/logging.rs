//! Where log lines go: to standard error, so that what a command prints stays clean. Where `up` talks to a person on a
//! terminal, only what needs them goes there, and everything to a file.

use std::{fs::DirBuilder, io::IsTerminal, os::unix::fs::DirBuilderExt, path::Path};

use anyhow::{Context, Result};
use tracing::level_filters::LevelFilter;
use tracing_appender::rolling::{RollingFileAppender, Rotation};
use tracing_subscriber::{EnvFilter, Layer, layer::SubscriberExt, util::SubscriberInitExt};

use crate::config::{LogConfig, LogFormat};

/// Days whose log files are kept.
const FILES_MAX: usize = 7;

/// Begins to write log lines.
///
/// # Errors
/// Where `log.level` makes no sense.
pub fn init(config: &LogConfig) -> Result<()> {
    let terminal = std::io::stderr().is_terminal();
    let json = match config.format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !terminal,
    };
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter(config)?).with_writer(std::io::stderr).with_ansi(terminal);
    if json {
        // The fields stand beside `timestamp`, `level` and `message`, as a collector expects them.
        builder.json().flatten_event(true).with_current_span(false).with_span_list(false).init();
    } else {
        builder.with_target(false).init();
    }
    Ok(())
}

/// Begins to write log lines to a file in `folder`, one a day, and warnings to the terminal too.
///
/// # Errors
/// Where `log.level` makes no sense, or the folder cannot be written to.
pub fn init_beside_terminal(config: &LogConfig, folder: &Path) -> Result<()> {
    let unwritable =
        || format!("the log folder {} cannot be written to: choose another with --data-dir", folder.display());
    DirBuilder::new().recursive(true).mode(0o700).create(folder).with_context(unwritable)?;
    let file = RollingFileAppender::builder()
        .rotation(Rotation::DAILY)
        .filename_prefix("astrfleet")
        .filename_suffix("log")
        .max_log_files(FILES_MAX)
        .build(folder)
        .with_context(unwritable)?;
    let all = tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(false)
        .with_writer(std::sync::Mutex::new(file))
        .with_filter(filter(config)?);
    let urgent = tracing_subscriber::fmt::layer()
        .with_target(false)
        .without_time()
        .with_writer(std::io::stderr)
        .with_filter(LevelFilter::WARN);
    tracing_subscriber::registry().with(all).with(urgent).init();
    Ok(())
}

fn filter(config: &LogConfig) -> Result<EnvFilter> {
    EnvFilter::try_new(&config.level)
        .with_context(|| format!("log.level {:?}: use error, warn, info, debug or trace", config.level))
}
