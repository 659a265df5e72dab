//! `events`: what happens in a tenant's conversations.

use std::time::Duration;

use anyhow::{Result, bail};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    client::{Client, Refused, SseEvent},
    output::{Output, line},
};

/// Without `--follow`, nothing for so long is the end.
const SILENCE: Duration = Duration::from_secs(1);
/// The wait before a broken stream is opened again.
const AGAIN: Duration = Duration::from_secs(1);

/// Whose.
#[derive(clap::Args)]
pub struct Events {
    /// Id or name
    tenant: String,
    /// Of one conversation alone: its id
    #[arg(long)]
    session: Option<String>,
    /// Only what comes after this event [default: the first kept; with --follow, now]
    #[arg(long, value_name = "EVENT")]
    after: Option<String>,
    /// Go on, and print what happens as it does
    #[arg(long, short)]
    follow: bool,
}

/// Prints them.
///
/// # Errors
/// What the platform says.
pub async fn run(events: Events, client: &Client, output: Output) -> Result<()> {
    let Events { tenant, session, after, follow } = events;
    let session = session.map_or_else(String::new, |session| format!("/sessions/{session}"));
    let path = format!("/api/v1/tenants/{tenant}{session}/events");
    let mut seen = after.or_else(|| (!follow).then(|| "0".to_owned()));
    loop {
        let query = seen.as_ref().map_or_else(String::new, |seen| format!("?after={seen}"));
        let mut stream = match client.stream(Method::GET, &format!("{path}{query}"), None).await {
            Ok(stream) => stream,
            Err(error) if follow && seen.is_some() && !error.is::<Refused>() => {
                tokio::time::sleep(AGAIN).await;
                continue;
            }
            Err(error) => return Err(error),
        };
        loop {
            let next = if follow {
                stream.next().await
            } else {
                match tokio::time::timeout(SILENCE, stream.next()).await {
                    Ok(next) => next,
                    Err(_) => return Ok(()),
                }
            };
            match next {
                Ok(Some(event)) if event.event == "refused" => {
                    bail!("{}", event.data["detail"].as_str().unwrap_or("the right to read has ended"))
                }
                Ok(Some(event)) => {
                    show(&event, output);
                    if !event.id.is_empty() {
                        seen = Some(event.id);
                    }
                }
                // It goes on where it broke off.
                Ok(None) | Err(_) if follow => break,
                Ok(None) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        tokio::time::sleep(AGAIN).await;
    }
}

fn show(event: &SseEvent, output: Output) {
    if output.is_json() {
        return line(&json!({"id": event.id, "event": event.event, "data": event.data}).to_string());
    }
    let data = &event.data;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let about = match event.event.as_str() {
        "gap" => "(something before this is not kept any more)".to_owned(),
        name if name.starts_with("session.") => text(&data["data"]["session"]["end_user"]),
        name if name.starts_with("webhook.") => text(&data["data"]["webhook"]["url"]),
        _ => match &data["data"]["message"]["failure"]["detail"] {
            Value::String(detail) => detail.clone(),
            _ => text(&data["data"]["message"]["text"]),
        },
    };
    // What others wrote must not steer the terminal, and stays on its line.
    let about: String = about.chars().map(|character| if character.is_control() { ' ' } else { character }).collect();
    line(&format!(
        "{}  {:<20}  {:<36}  {about}",
        text(&data["timestamp"]),
        event.event,
        data["session_id"].as_str().unwrap_or("-"),
    ));
}
