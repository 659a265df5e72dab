//! `webhook`: a tenant's own systems are told of what happens.

use anyhow::{Result, bail};
use reqwest::Method;
use serde_json::{Value, json};

use super::Paging;
use crate::{
    address::at,
    client::Client,
    output::{Output, line},
};

const COLUMNS: &[&str] = &["id", "url", "events", "enabled", "disabled_reason", "failing_since"];
const FIELDS: &[&str] = &[
    "id",
    "url",
    "events",
    "description",
    "enabled",
    "disabled_reason",
    "failing_since",
    "previous_secret_until",
    "created_at",
    "updated_at",
];
const DELIVERIES: &[&str] =
    &["id", "type", "event_id", "state", "attempts", "response_status", "error", "next_attempt_at", "updated_at"];
const DELIVERY: &[&str] = &[
    "id",
    "type",
    "event_id",
    "session_id",
    "replay_of",
    "state",
    "attempts",
    "response_status",
    "response_body",
    "error",
    "next_attempt_at",
    "created_at",
    "updated_at",
];

/// What to do.
#[derive(clap::Subcommand)]
pub enum Command {
    /// Make a webhook; its secret is shown once
    #[command(
        after_help = "Examples:\n  astrfleet webhook create acme https://example.com/astrfleet\n  astrfleet webhook create acme https://example.com/astrfleet --event reply.done --event reply.failed"
    )]
    Create {
        /// Id or name
        tenant: String,
        /// Where events are sent: https, and on the public internet
        #[arg(value_name = "URL")]
        to: String,
        /// A kind of event, such as reply.done; may be given again [default: all]
        #[arg(long = "event", value_name = "KIND")]
        events: Vec<String>,
        /// For people
        #[arg(long, default_value = "")]
        description: String,
    },
    /// List webhooks
    List {
        /// Id or name
        tenant: String,
        #[command(flatten)]
        paging: Paging,
    },
    /// Show a webhook
    Show {
        /// Id or name
        tenant: String,
        /// The webhook's id
        webhook: String,
    },
    /// Change a webhook
    #[command(
        after_help = "Examples:\n  astrfleet webhook change acme whk_… --disable\n  astrfleet webhook change acme whk_… --to https://example.com/new --event session.closed"
    )]
    Change {
        /// Id or name
        tenant: String,
        /// The webhook's id
        webhook: String,
        /// Another address
        #[arg(long, value_name = "URL")]
        to: Option<String>,
        /// These kinds of events instead; may be given again
        #[arg(long = "event", value_name = "KIND", conflicts_with = "all_events")]
        events: Vec<String>,
        /// All kinds of events
        #[arg(long)]
        all_events: bool,
        /// Another description
        #[arg(long)]
        description: Option<String>,
        /// Send again, beginning with what happens from now on
        #[arg(long, conflicts_with = "disable")]
        enable: bool,
        /// Send nothing more, and give up what waits
        #[arg(long)]
        disable: bool,
    },
    /// Delete a webhook and the log of its deliveries
    Delete {
        /// Id or name
        tenant: String,
        /// The webhook's id
        webhook: String,
    },
    /// Make another secret; the one before it signs too for `webhooks.secret_overlap_s`
    RotateSecret {
        /// Id or name
        tenant: String,
        /// The webhook's id
        webhook: String,
    },
    /// Show what a webhook was told, the newest first
    #[command(after_help = "Example:\n  astrfleet webhook deliveries acme whk_… --state failed")]
    Deliveries {
        /// Id or name
        tenant: String,
        /// The webhook's id
        webhook: String,
        /// pending, succeeded or failed alone
        #[arg(long)]
        state: Option<String>,
        #[command(flatten)]
        paging: Paging,
    },
    /// Show a delivery, with what the receiver answered
    Delivery {
        /// Id or name
        tenant: String,
        /// The webhook's id
        webhook: String,
        /// The delivery's id
        delivery: String,
    },
    /// Do a delivery again
    Replay {
        /// Id or name
        tenant: String,
        /// The webhook's id
        webhook: String,
        /// The delivery's id
        delivery: String,
    },
}

/// Does it.
///
/// # Errors
/// What the platform says.
pub async fn run(command: Command, client: &Client, output: Output) -> Result<()> {
    let all = |tenant: &str| at(["tenants", tenant, "webhooks"]);
    let one = |tenant: &str, webhook: &str| at(["tenants", tenant, "webhooks", webhook]);
    let delivery_of =
        |tenant: &str, webhook: &str, id: &str| at(["tenants", tenant, "webhooks", webhook, "deliveries", id]);
    match command {
        Command::Create { tenant, to, events, description } => {
            let body = json!({"url": to, "events": events, "description": description});
            show_secret(&client.post(&all(&tenant), &body).await?, output);
        }
        Command::List { tenant, paging } => {
            output.page(&client.get(&format!("{}{}", all(&tenant), paging.query())).await?, COLUMNS)?;
        }
        Command::Show { tenant, webhook } => output.thing(&client.get(&one(&tenant, &webhook)).await?, FIELDS),
        Command::Change { tenant, webhook, to, events, all_events, description, enable, disable } => {
            let mut body = json!({});
            if let Some(to) = to {
                body["url"] = to.into();
            }
            if all_events || !events.is_empty() {
                body["events"] = json!(events);
            }
            if let Some(description) = description {
                body["description"] = description.into();
            }
            if enable || disable {
                body["enabled"] = enable.into();
            }
            if body == json!({}) {
                bail!("nothing is to be changed: say what with --to, --event, --description, --enable or --disable");
            }
            let changed = client.call(Method::PATCH, &one(&tenant, &webhook), Some(&body)).await?;
            output.thing(&changed, FIELDS);
        }
        Command::Delete { tenant, webhook } => {
            let answer = client.call(Method::DELETE, &one(&tenant, &webhook), None).await?;
            output.done(&answer, &format!("{webhook} is gone; nothing more is sent."));
        }
        Command::RotateSecret { tenant, webhook } => {
            let path = format!("{}/rotate-secret", one(&tenant, &webhook));
            show_secret(&client.post(&path, &json!({})).await?, output);
        }
        Command::Deliveries { tenant, webhook, state, paging } => {
            let query = paging.query().and("state", state.as_deref());
            let path = format!("{}/deliveries{query}", one(&tenant, &webhook));
            output.page(&client.get(&path).await?, DELIVERIES)?;
        }
        Command::Delivery { tenant, webhook, delivery } => {
            output.thing(&client.get(&delivery_of(&tenant, &webhook, &delivery)).await?, DELIVERY);
        }
        Command::Replay { tenant, webhook, delivery } => {
            let path = format!("{}/replay", delivery_of(&tenant, &webhook, &delivery));
            output.thing(&client.post(&path, &json!({})).await?, DELIVERIES);
        }
    }
    Ok(())
}

fn show_secret(webhook: &Value, output: Output) {
    output.thing(webhook, &["id", "url", "events", "enabled", "previous_secret_until", "secret"]);
    if !output.is_json() {
        line("\nThe secret is shown this once: your receiver checks signatures with it (Standard Webhooks).");
    }
}
