//! Fetches an export: asks for one, waits for it, downloads it.

use std::{fs::OpenOptions, io::Write, os::unix::fs::OpenOptionsExt, path::Path, time::Duration};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use crate::client::Client;

/// How often the platform is asked how far it is.
const PERIOD: Duration = Duration::from_millis(500);

/// Writes an export of the tenant at `path` into `file`. Returns what the platform says of it.
///
/// # Errors
/// What the platform says; a file that is there already.
pub async fn fetch(client: &Client, path: &str, file: &Path) -> Result<Value> {
    // Before anybody works for it. It is for its owner's eyes only.
    let mut target = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)
        .with_context(|| format!("{} cannot be made", file.display()))?;
    let fetched = fetch_into(client, path, &mut target).await;
    if fetched.is_err() {
        std::fs::remove_file(file).ok();
    }
    fetched
}

async fn fetch_into(client: &Client, path: &str, target: &mut impl Write) -> Result<Value> {
    let asked = client.post(&format!("{path}/exports"), &json!({})).await?;
    let id = asked["id"].as_str().context("the answer has no id")?;
    let path = format!("{path}/exports/{id}");
    let bar = ProgressBar::no_length();
    bar.set_style(ProgressStyle::with_template("{msg:<11} {wide_bar} {pos}/{len}")?);
    bar.set_message("exporting");
    let export = loop {
        let export = client.get(&path).await?;
        bar.set_length(export["total"].as_u64().unwrap_or(0));
        bar.set_position(export["done"].as_u64().unwrap_or(0));
        match export["state"].as_str().unwrap_or_default() {
            "done" => break export,
            "failed" => bail!("the export failed: {}", export["failure"].as_str().unwrap_or("no reason was given")),
            _ => tokio::time::sleep(PERIOD).await,
        }
    };
    let size = export["size"].as_u64().context("the export has no size")?;
    bar.set_message("downloading");
    bar.set_style(ProgressStyle::with_template("{msg:<11} {wide_bar} {bytes}/{total_bytes}")?);
    bar.set_length(size);
    bar.set_position(0);
    let mut written = 0;
    let write = |piece: &[u8]| {
        target.write_all(piece)?;
        written += piece.len() as u64;
        bar.set_position(written);
        Ok(())
    };
    client.download(&format!("{path}/archive"), write).await?;
    bar.finish_and_clear();
    if written != size {
        bail!("the download ended after {written} of {size} bytes: try again");
    }
    target.flush()?;
    Ok(export)
}
