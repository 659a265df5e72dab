//! `attachment`: files of a tenant's conversations.

use std::{io::Write, path::PathBuf};

use anyhow::{Context, Result};
use serde_json::json;

use crate::{address::at, client::Client, output::Output, part_file::PartFile};

/// What to do.
#[derive(clap::Subcommand)]
pub enum Command {
    /// Store a file, to be sent with a message
    Upload {
        /// Id or name
        tenant: String,
        /// The file
        file: PathBuf,
    },
    /// Fetch a file
    #[command(after_help = "Example:\n  astrfleet attachment download acme att_… -o photo.jpg")]
    Download {
        /// Id or name
        tenant: String,
        /// The attachment's id
        attachment: String,
        /// The file to write; it must not be there
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
    },
}

/// Does it.
///
/// # Errors
/// What the platform says; a file that cannot be read, or is there already.
pub async fn run(command: Command, client: &Client, output: Output) -> Result<()> {
    match command {
        Command::Upload { tenant, file } => {
            let content = std::fs::read(&file).with_context(|| format!("{} cannot be read", file.display()))?;
            let name = file.file_name().with_context(|| format!("{} is no file", file.display()))?;
            let name = name.to_string_lossy().into_owned();
            let stored = client.upload(&at(["tenants", &tenant, "attachments"]), name, content).await?;
            output.thing(&stored, &["id", "name", "media_type", "size", "sha256", "created_at"]);
        }
        Command::Download { tenant, attachment, output: file } => {
            let mut target = PartFile::begin(&file)?;
            let mut bytes = 0;
            let write = |piece: &[u8]| {
                bytes += piece.len();
                Ok(target.write_all(piece)?)
            };
            client.download(&at(["tenants", &tenant, "attachments", &attachment]), write).await?;
            target.finish()?;
            let said = json!({"file": file, "bytes": bytes});
            output.done(&said, &format!("{} has {attachment}: {bytes} bytes.", file.display()));
        }
    }
    Ok(())
}
