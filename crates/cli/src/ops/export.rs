//! `export`: archives of everything that is stored of a tenant; and how one is asked for, waited for and fetched.

use std::{
    io::Write,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{address::at, client::Client, output::Output, part_file::PartFile};

/// How often the platform is asked how far it is.
const PERIOD: Duration = Duration::from_millis(500);
const COLUMNS: &[&str] =
    &["id", "state", "done", "total", "size", "requested_by", "created_at", "expires_at", "failure"];

/// What to do.
#[derive(clap::Subcommand)]
pub enum Command {
    /// List the archives of a tenant that were asked for and have not expired, the newest first
    List {
        /// Id or name
        tenant: String,
    },
    /// Fetch an archive, as soon as it is done
    #[command(after_help = "Example:\n  astrfleet export fetch acme exp_… -o acme.tar.zst")]
    Fetch {
        /// Id or name
        tenant: String,
        /// The archive's id
        export: String,
        /// The file to write; it must not be there
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
    },
    /// Delete an archive, or stop its making
    Delete {
        /// Id or name
        tenant: String,
        /// The archive's id
        export: String,
    },
}

/// Does it.
///
/// # Errors
/// What the platform says; a file that is there already.
pub async fn run(command: Command, client: &Client, output: Output) -> Result<()> {
    match command {
        Command::List { tenant } => {
            output.page(&client.get(&at(["tenants", &tenant, "exports"])).await?, COLUMNS)?;
        }
        Command::Fetch { tenant, export, output: file } => {
            let target = PartFile::begin(&file)?;
            let fetched = fetch(client, &at(["tenants", &tenant, "exports", &export]), target).await?;
            output.done(&fetched, &has_everything(&file, &tenant));
        }
        Command::Delete { tenant, export } => {
            let path = at(["tenants", &tenant, "exports", &export]);
            let answer = client.call(Method::DELETE, &path, None).await?;
            output.done(&answer, &format!("{export} is gone."));
        }
    }
    Ok(())
}

/// Asks for an archive of a tenant and fetches it.
///
/// # Errors
/// What the platform says; a file that is there already.
pub async fn make(client: &Client, tenant: &str, file: &Path, output: Output) -> Result<()> {
    // Before anybody works for it.
    let target = PartFile::begin(file)?;
    let asked = client.post(&at(["tenants", tenant, "exports"]), &json!({})).await?;
    let id = asked["id"].as_str().context("the answer has no id")?;
    let fetched = fetch(client, &at(["tenants", tenant, "exports", id]), target).await;
    let fetched =
        fetched.with_context(|| format!("the archive is {id}: `astrfleet export fetch {tenant} {id} -o FILE`"))?;
    output.done(&fetched, &has_everything(file, tenant));
    Ok(())
}

fn has_everything(file: &Path, tenant: &str) -> String {
    format!("{} has everything that is stored of {tenant}", file.display())
}

/// Waits for the archive at `path` and writes it. Returns what the platform says of it.
async fn fetch(client: &Client, path: &str, mut target: PartFile) -> Result<Value> {
    let bar = ProgressBar::no_length();
    bar.set_style(ProgressStyle::with_template("{msg:<11} {wide_bar} {pos}/{len}")?);
    bar.set_message("exporting");
    let export = loop {
        let export = client.get(path).await?;
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
    target.finish()?;
    Ok(export)
}
