//! `key`: API keys of a tenant.

use anyhow::Result;
use reqwest::Method;
use serde_json::json;

use super::Paging;
use crate::{
    address::at,
    client::Client,
    output::{Output, line},
};

const COLUMNS: &[&str] = &["id", "name", "prefix", "scopes", "created_at", "expires_at", "last_used_at", "revoked_at"];

/// What to do.
#[derive(clap::Subcommand)]
pub enum Command {
    /// Make a key; its secret is shown once
    #[command(after_help = "Example:\n  astrfleet key create acme --name website --scope chat")]
    Create {
        /// Id or name
        tenant: String,
        /// For people
        #[arg(long)]
        name: String,
        /// chat or instance; may be given twice
        #[arg(long = "scope", required = true)]
        scopes: Vec<String>,
        /// When it ends (RFC 3339); without it, it does not expire
        #[arg(long)]
        expires_at: Option<String>,
    },
    /// List keys
    List {
        /// Id or name
        tenant: String,
        #[command(flatten)]
        paging: Paging,
    },
    /// Take a key back
    Revoke {
        /// Id or name
        tenant: String,
        /// The key's id
        key: String,
    },
}

/// Does it.
///
/// # Errors
/// What the platform says.
pub async fn run(command: Command, client: &Client, output: Output) -> Result<()> {
    let path = |tenant: &str| at(["tenants", tenant, "api-keys"]);
    match command {
        Command::Create { tenant, name, scopes, expires_at } => {
            let mut body = json!({"name": name, "scopes": scopes});
            if let Some(moment) = expires_at {
                body["expires_at"] = moment.into();
            }
            let key = client.post(&path(&tenant), &body).await?;
            output.thing(&key, &["id", "name", "scopes", "expires_at", "secret"]);
            if !output.is_json() {
                line("\nThe secret is shown this once.");
            }
        }
        Command::List { tenant, paging } => {
            output.page(&client.get(&format!("{}{}", path(&tenant), paging.query())).await?, COLUMNS)?;
        }
        Command::Revoke { tenant, key } => {
            let answer = client.call(Method::DELETE, &at(["tenants", &tenant, "api-keys", &key]), None).await?;
            output.done(&answer, &format!("{key} is worth nothing any more"));
        }
    }
    Ok(())
}
