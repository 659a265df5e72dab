//! `session`: conversations.

use anyhow::Result;
use serde_json::json;

use super::Paging;
use crate::{client::Client, output::Output};

const FIELDS: &[&str] = &["id", "end_user", "channel", "state", "close_reason", "created_at", "last_active_at"];

/// What to do.
#[derive(clap::Subcommand)]
pub enum Command {
    /// List conversations, the newest first
    List {
        /// Id or name
        tenant: String,
        #[command(flatten)]
        paging: Paging,
    },
    /// Show what was said
    Messages {
        /// Id or name
        tenant: String,
        /// The session's id
        session: String,
        #[command(flatten)]
        paging: Paging,
    },
    /// Close a conversation
    Close {
        /// Id or name
        tenant: String,
        /// The session's id
        session: String,
    },
}

/// Does it.
///
/// # Errors
/// What the platform says.
pub async fn run(command: Command, client: &Client, output: Output) -> Result<()> {
    let path = |tenant: &str| format!("/api/v1/tenants/{tenant}/sessions");
    match command {
        Command::List { tenant, paging } => {
            output.page(&client.get(&format!("{}{}", path(&tenant), paging.query())).await?, FIELDS);
        }
        Command::Messages { tenant, session, paging } => {
            let messages = client.get(&format!("{}/{session}/messages{}", path(&tenant), paging.query())).await?;
            output.page(&messages, &["created_at", "author", "state", "text"]);
        }
        Command::Close { tenant, session } => {
            output.thing(&client.post(&format!("{}/{session}/close", path(&tenant)), &json!({})).await?, FIELDS);
        }
    }
    Ok(())
}
