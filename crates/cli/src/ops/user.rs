//! `user`: people who can log in.

use anyhow::Result;
use reqwest::Method;
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;

use super::Paging;
use crate::{address::at, client::Client, output::Output};

const COLUMNS: &[&str] = &["id", "email", "display_name", "platform_admin", "disabled", "created_at"];

/// What to do.
#[derive(clap::Subcommand)]
pub enum Command {
    /// Make somebody who can log in; asks for the password
    Create {
        /// To log in with
        #[arg(long)]
        email: String,
        /// For people
        #[arg(long)]
        display_name: Option<String>,
        /// Administers the platform
        #[arg(long)]
        platform_admin: bool,
    },
    /// List people
    List(Paging),
    /// Make somebody a member of a tenant, or change what they may do
    #[command(after_help = "Example:\n  astrfleet user grant usr_… --tenant acme --role agent")]
    Grant {
        /// The user's id
        user: String,
        /// Id or name
        #[arg(long)]
        tenant: String,
        /// viewer, agent, admin or owner
        #[arg(long)]
        role: String,
    },
    /// Take somebody out of a tenant
    Revoke {
        /// The user's id
        user: String,
        /// Id or name
        #[arg(long)]
        tenant: String,
    },
}

/// Does it. `password` is asked for only where it is needed.
///
/// # Errors
/// What the platform says.
pub async fn run(
    command: Command,
    client: &Client,
    output: Output,
    password: impl AsyncFnOnce() -> Result<SecretString>,
) -> Result<()> {
    match command {
        Command::Create { email, display_name, platform_admin } => {
            let password = password().await?;
            let mut body =
                json!({"email": email, "password": password.expose_secret(), "platform_admin": platform_admin});
            if let Some(name) = display_name {
                body["display_name"] = name.into();
            }
            output.thing(&client.post(&at(["users"]), &body).await?, COLUMNS);
        }
        Command::List(paging) => {
            output.page(&client.get(&format!("{}{}", at(["users"]), paging.query())).await?, COLUMNS)?;
        }
        Command::Grant { user, tenant, role } => {
            let path = at(["tenants", &tenant, "members", &user]);
            let member = client.call(Method::PUT, &path, Some(&json!({"role": role}))).await?;
            output.thing(&member, &["user_id", "email", "role"]);
        }
        Command::Revoke { user, tenant } => {
            let path = at(["tenants", &tenant, "members", &user]);
            let answer = client.call(Method::DELETE, &path, None).await?;
            output.done(&answer, &format!("{user} is no member of {tenant} any more"));
        }
    }
    Ok(())
}
