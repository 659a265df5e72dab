//! `tenant`: tenants and their members.

use std::path::PathBuf;

use anyhow::{Context, Result};
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::{Paging, export};
use crate::{client::Client, output::Output};

const FIELDS: &[&str] = &["id", "name", "display_name", "email", "plan", "status", "created_at", "erase_at"];
const COLUMNS: &[&str] = &["name", "id", "email", "plan", "status", "created_at"];

/// What to do.
#[derive(clap::Subcommand)]
pub enum Command {
    /// Make a tenant; its bot starts at once
    #[command(after_help = "Example:\n  astrfleet tenant create acme --email ada@acme.example --plan pro")]
    Create {
        /// A host name: a-z, 0-9 and -
        name: String,
        /// Of whoever answers for it
        #[arg(long)]
        email: String,
        /// For people
        #[arg(long)]
        display_name: Option<String>,
        /// A plan of the configuration
        #[arg(long)]
        plan: Option<String>,
    },
    /// List tenants
    List(Paging),
    /// Show a tenant
    Show {
        /// Id or name
        tenant: String,
    },
    /// Change a tenant
    Change {
        /// Id or name
        tenant: String,
        /// Another address
        #[arg(long)]
        email: Option<String>,
        /// Another name for people
        #[arg(long)]
        display_name: Option<String>,
        /// Another plan
        #[arg(long)]
        plan: Option<String>,
    },
    /// Stop a tenant's bot and take nothing in for it; everything is kept
    Suspend {
        /// Id or name
        tenant: String,
    },
    /// Serve a tenant again, also one that was deleted and is not erased
    Resume {
        /// Id or name
        tenant: String,
    },
    /// Delete a tenant: erased with its bot's data after the grace period
    Delete {
        /// Id or name
        tenant: String,
    },
    /// Fetch everything that is stored of a tenant, as one archive
    #[command(after_help = "Example:\n  astrfleet tenant export acme -o acme.tar.zst")]
    Export {
        /// Id or name
        tenant: String,
        /// The file to write; it must not be there
        #[arg(short, long)]
        output: PathBuf,
    },
    /// List a tenant's members
    Members {
        /// Id or name
        tenant: String,
        #[command(flatten)]
        paging: Paging,
    },
    /// Show a tenant's plan and what is left of it
    Limits {
        /// Id or name
        tenant: String,
    },
}

/// Does it.
///
/// # Errors
/// What the platform says.
pub async fn run(command: Command, client: &Client, output: Output) -> Result<()> {
    let path = |tenant: &str| format!("/api/v1/tenants/{tenant}");
    match command {
        Command::Create { name, email, display_name, plan } => {
            let body =
                given([("name", Some(name)), ("email", Some(email)), ("display_name", display_name), ("plan", plan)]);
            let tenant = client.post("/api/v1/tenants", &body).await?;
            output.thing(&tenant, FIELDS);
            if !output.is_json() {
                let name = tenant["name"].as_str().context("the answer has no name")?;
                println!("\nIts bot is starting. Talk to it:  astrfleet chat {name}");
            }
        }
        Command::List(paging) => {
            output.page(&client.get(&format!("/api/v1/tenants{}", paging.query())).await?, COLUMNS);
        }
        Command::Show { tenant } => output.thing(&client.get(&path(&tenant)).await?, FIELDS),
        Command::Change { tenant, email, display_name, plan } => {
            let body = given([("email", email), ("display_name", display_name), ("plan", plan)]);
            output.thing(&client.call(Method::PATCH, &path(&tenant), Some(&body)).await?, FIELDS);
        }
        Command::Suspend { tenant } => {
            output.thing(&client.post(&format!("{}/suspend", path(&tenant)), &json!({})).await?, FIELDS);
        }
        Command::Resume { tenant } => {
            output.thing(&client.post(&format!("{}/resume", path(&tenant)), &json!({})).await?, FIELDS);
        }
        Command::Delete { tenant } => {
            output.thing(&client.call(Method::DELETE, &path(&tenant), None).await?, FIELDS);
        }
        Command::Export { tenant, output: file } => {
            let export = export::fetch(client, &path(&tenant), &file).await?;
            output.done(&export, &format!("{} has everything that is stored of {tenant}", file.display()));
        }
        Command::Members { tenant, paging } => {
            let members = client.get(&format!("{}/members{}", path(&tenant), paging.query())).await?;
            output.page(&members, &["email", "display_name", "role", "user_id", "created_at"]);
        }
        Command::Limits { tenant } => {
            let limits = client.get(&format!("{}/limits", path(&tenant))).await?;
            output.done(&limits, &quotas(&limits));
        }
    }
    Ok(())
}

/// What is used of each amount, a line each.
fn quotas(limits: &Value) -> String {
    let amounts = [
        ("messages today", "messages_today"),
        ("tokens this month", "tokens_this_month"),
        ("bytes stored", "storage_bytes"),
    ];
    let lines = amounts.iter().map(|(name, field)| {
        let quota = &limits[field];
        let note = match (&quota["exhausted"], &quota["warning"]) {
            (Value::Bool(true), _) => "  used up",
            (_, Value::Bool(true)) => "  nearly used up",
            _ => "",
        };
        format!("{name:<18} {:>14} of {}{note}", quota["used"], quota["limit"])
    });
    let plan = limits["plan"].as_str().unwrap_or("-");
    let concurrent = format!("{:<18} {:>14}", "chats at a time", limits["concurrent_chats"]);
    [format!("{:<18} {plan:>14}", "plan")].into_iter().chain(lines).chain([concurrent]).collect::<Vec<_>>().join("\n")
}

/// A body of what was given.
pub fn given<const N: usize>(fields: [(&str, Option<String>); N]) -> Value {
    let map: Map<String, Value> =
        fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), Value::String(value?)))).collect();
    Value::Object(map)
}
