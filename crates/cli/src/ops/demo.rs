//! `up --demo`: a tenant, a question to its bot, the answer as it streams, and a link into the bot's own dashboard. All
//! of it over the public API: what is shown here anybody can do.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    client::{Client, Refused},
    events::{Event, Reporter},
    login::Local,
};

/// The demonstration's tenant.
const TENANT: &str = "acme";
/// What is asked.
const QUESTION: &str = "Hello! Who are you, and what can you do?";
/// How long the bot may take to become ready: the first start on a slow machine takes a minute.
const BOT_LIMIT: Duration = Duration::from_mins(5);

/// Shows everything, or tells why it did not work.
pub async fn run(url: &str, local: &Path, reporter: &Reporter) {
    if let Err(error) = show(url, local, reporter).await {
        reporter.tell(&Event::DemoFailed { reason: format!("{error:#}") });
    }
}

async fn show(url: &str, local: &Path, reporter: &Reporter) -> Result<()> {
    let client = Local::client(local, url)?;
    let began = Instant::now();
    create_tenant(&client).await?;
    tokio::time::timeout(BOT_LIMIT, wait_for_bot(&client, reporter))
        .await
        .with_context(|| format!("the bot was not ready within {} s", BOT_LIMIT.as_secs()))??;
    let bot_ready_ms = millis(began);

    let session = client.post(&format!("/api/v1/tenants/{TENANT}/sessions"), &json!({"end_user": "demo"})).await?;
    let session = session["id"].as_str().context("the new session has no id")?.to_owned();
    reporter.tell(&Event::DemoQuestion { question: QUESTION.to_owned() });
    let asked = Instant::now();
    let path = format!("/api/v1/tenants/{TENANT}/sessions/{session}/messages");
    let mut stream = client.stream(Method::POST, &path, Some(&json!({"text": QUESTION}))).await?;
    let (mut answer, mut first_token_ms) = (String::new(), None);
    while let Some(event) = stream.next().await? {
        match event.event.as_str() {
            "delta" => {
                let text = event.data["text"].as_str().unwrap_or_default();
                first_token_ms.get_or_insert_with(|| millis(asked));
                answer.push_str(text);
                reporter.tell(&Event::DemoDelta { text: text.to_owned() });
            }
            "done" => break,
            "failed" | "interrupted" => bail!("{}", event.data["detail"].as_str().unwrap_or("the answer broke off")),
            _ => {}
        }
    }
    let link =
        client.post(&format!("/api/v1/tenants/{TENANT}/instance/open"), &Value::Object(serde_json::Map::new())).await?;
    reporter.tell(&Event::Demo {
        tenant: TENANT.to_owned(),
        question: QUESTION.to_owned(),
        answer,
        bot_ready_ms,
        first_token_ms: first_token_ms.unwrap_or_else(|| millis(asked)),
        dashboard_url: link["url"].as_str().unwrap_or_default().to_owned(),
    });
    Ok(())
}

/// Makes the tenant, unless an earlier demonstration did.
async fn create_tenant(client: &Client) -> Result<()> {
    let body = json!({"name": TENANT, "display_name": "Acme (demo)", "email": "owner@acme.example"});
    match client.post("/api/v1/tenants", &body).await {
        Ok(_) => Ok(()),
        Err(error) if error.downcast_ref::<Refused>().is_some_and(|refused| refused.status == 409) => Ok(()),
        Err(error) => Err(error),
    }
}

async fn wait_for_bot(client: &Client, reporter: &Reporter) -> Result<()> {
    let mut stream = client.stream(Method::GET, &format!("/api/v1/tenants/{TENANT}/instance/events"), None).await?;
    let mut last = String::new();
    while let Some(event) = stream.next().await? {
        if event.data["ready"].as_bool() == Some(true) {
            return Ok(());
        }
        let observed = event.data["observed"].as_str().unwrap_or_default();
        let reason = event.data["reason"].as_str().unwrap_or_default();
        if observed == "failed" {
            bail!("the bot failed: {reason}");
        }
        if observed != last {
            observed.clone_into(&mut last);
            let state = if reason.is_empty() { observed.to_owned() } else { format!("{observed} ({reason})") };
            reporter.tell(&Event::DemoState { state: format!("{TENANT}'s bot is {state}") });
        }
    }
    bail!("the stream of the bot's states ended")
}

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}
