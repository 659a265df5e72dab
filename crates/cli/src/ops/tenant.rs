//! `tenant`: tenants and their members.

use std::path::PathBuf;

use anyhow::{Context, Result};
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::{Paging, end_user, export};
use crate::{
    address::at,
    client::Client,
    output::{Output, line},
    part_file::PartFile,
};

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
        /// Keep messages for so many days, at most as the plan says; 0: as the plan says
        #[arg(long, value_name = "N")]
        retention_days: Option<u32>,
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
    /// Have everything that is stored of a tenant put into one archive, and fetch that
    #[command(after_help = "Example:\n  astrfleet tenant export acme -o acme.tar.zst")]
    Export {
        /// Id or name
        tenant: String,
        /// The file to write; it must not be there
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
    },
    /// Show the signed statement of what was erased with a tenant
    #[command(after_help = "Example:\n  astrfleet tenant erasure ten_… -o acme.jws")]
    Erasure {
        /// The id: an erased tenant has no name any more
        tenant_id: String,
        /// Write the statement into this file, which must not be there
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
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
    let path = |tenant: &str| at(["tenants", tenant]);
    match command {
        Command::Create { name, email, display_name, plan } => {
            let body =
                given([("name", Some(name)), ("email", Some(email)), ("display_name", display_name), ("plan", plan)]);
            let tenant = client.post(&at(["tenants"]), &body).await?;
            output.thing(&tenant, FIELDS);
            if !output.is_json() {
                let name = tenant["name"].as_str().context("the answer has no name")?;
                line(&format!("\nIts bot is starting. Talk to it:  astrfleet chat {name}"));
            }
        }
        Command::List(paging) => {
            output.page(&client.get(&format!("{}{}", at(["tenants"]), paging.query())).await?, COLUMNS)?;
        }
        Command::Show { tenant } => output.thing(&client.get(&path(&tenant)).await?, FIELDS),
        Command::Change { tenant, email, display_name, plan, retention_days } => {
            let mut body = given([("email", email), ("display_name", display_name), ("plan", plan)]);
            if let Some(days) = retention_days {
                body["retention_days"] = days.into();
            }
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
            export::make(client, &tenant, &file, output).await?;
        }
        Command::Erasure { tenant_id, output: file } => {
            let target = file.as_deref().map(PartFile::begin).transpose()?;
            let erasure = client.get(&format!("{}/erasure", path(&tenant_id))).await?;
            if let Some(target) = target {
                end_user::keep_statement(target, &erasure)?;
            }
            let statement = erasure["statement"].as_str().context("the answer has no statement")?;
            let erased_at = erasure["entry"]["at"].as_str().unwrap_or("-");
            output.done(&erasure, &format!("erased_at  {erased_at}\nstatement  {statement}"));
        }
        Command::Members { tenant, paging } => {
            let members = client.get(&format!("{}/members{}", path(&tenant), paging.query())).await?;
            output.page(&members, &["email", "display_name", "role", "user_id", "created_at"])?;
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
        ("of these, of its key", "tokens_this_month_of_key"),
        ("bytes stored", "storage_bytes"),
        ("chats now", "chats_now"),
    ];
    // A plan need not limit the key by itself.
    let lines = amounts.iter().filter(|(_, field)| limits[field].is_object()).map(|(name, field)| {
        let quota = &limits[field];
        // What a plan lets run over before it refuses.
        let burst = match (quota["limit"].as_u64(), quota["hard_limit"].as_u64()) {
            (Some(limit), Some(hard)) if hard > limit => format!(", {hard} at the most"),
            _ => String::new(),
        };
        let note = match (&quota["exhausted"], &quota["warning"]) {
            (Value::Bool(true), _) => "  used up",
            (_, Value::Bool(true)) => "  nearly used up",
            _ => "",
        };
        format!("{name:<20} {:>14} of {}{burst}{note}", quota["used"], quota["limit"])
    });
    let plan = limits["plan"].as_str().unwrap_or("-");
    [format!("{:<20} {plan:>14}", "plan")].into_iter().chain(lines).collect::<Vec<_>>().join("\n")
}

/// A body of what was given.
pub fn given<const N: usize>(fields: [(&str, Option<String>); N]) -> Value {
    let map: Map<String, Value> =
        fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), Value::String(value?)))).collect();
    Value::Object(map)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::quotas;

    #[test]
    fn limits_say_what_may_run_over_and_what_the_key_has() {
        let quota = |used: u64, limit: u64, hard: u64| json!({"used": used, "limit": limit, "hard_limit": hard, "warning": used * 5 > limit * 4, "exhausted": used >= hard});
        let limits = json!({
            "plan": "pro", "messages_today": quota(90, 100, 120), "tokens_this_month": quota(0, 1_000, 1_000),
            "tokens_this_month_of_key": quota(500, 500, 500), "storage_bytes": quota(0, 7, 7), "chats_now": quota(1, 4, 4),
        });
        let shown = quotas(&limits);
        let lines: Vec<_> = shown.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(
            lines,
            [
                "plan pro",
                "messages today 90 of 100, 120 at the most nearly used up",
                "tokens this month 0 of 1000",
                "of these, of its key 500 of 500 used up",
                "bytes stored 0 of 7",
                "chats now 1 of 4",
            ]
        );
    }
}
