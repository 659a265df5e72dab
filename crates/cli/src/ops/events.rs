//! `events`: what happens in a tenant's conversations.

use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    address::{Query, at},
    client::{Client, Refused, SseEvent},
    output::{Output, aside, line},
};

/// The wait before a stream that broke is opened again: twice as long each time, up to the longest.
const AGAIN: Duration = Duration::from_secs(1);
const AGAIN_MAX: Duration = Duration::from_secs(30);
/// Without `--follow`, so many streams in a row that bring nothing are enough.
const TRIES_MAX: u32 = 5;

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

/// How a stream ended.
enum End {
    /// All was told.
    Told,
    /// It broke off, or was not there.
    Broken(Break),
}

/// What is known of a stream that broke off.
struct Break {
    /// The platform took the question.
    was_open: bool,
    /// So many events came before.
    told: usize,
    error: anyhow::Error,
}

/// Prints them.
///
/// # Errors
/// What the platform says. A stream that breaks is opened again where it was, with `--follow` for ever.
pub async fn run(events: Events, client: &Client, output: Output) -> Result<()> {
    let path = match &events.session {
        Some(session) => at(["tenants", &events.tenant, "sessions", session, "events"]),
        None => at(["tenants", &events.tenant, "events"]),
    };
    let mut place = events.after.or_else(|| (!events.follow).then(|| "0".to_owned()));
    let (mut was_open, mut failures) = (false, 0);
    loop {
        let broken = match read(client, &path, events.follow, &mut place, output).await? {
            End::Told => return Ok(()),
            End::Broken(broken) => broken,
        };
        was_open |= broken.was_open;
        failures = if broken.told > 0 { 1 } else { failures + 1 };
        // Where nothing ever answered, the address is wrong rather than the platform away.
        let is_hopeless = !was_open && Refused::status_of(&broken.error).is_none();
        if is_hopeless || (!events.follow && failures >= TRIES_MAX) {
            return Err(broken.error);
        }
        if failures == 1 {
            aside(&format!("the stream broke off and is opened again where it was: {:#}", broken.error));
        }
        tokio::time::sleep((AGAIN * (1 << (failures - 1).min(5))).min(AGAIN_MAX)).await;
    }
}

/// Prints what one stream brings, and notes how far that was.
async fn read(client: &Client, path: &str, follow: bool, place: &mut Option<String>, output: Output) -> Result<End> {
    let query = Query::default().and("after", place.as_deref()).and("follow", (!follow).then_some("false"));
    let mut stream = match client.stream(Method::GET, &format!("{path}{query}"), None).await {
        Ok(stream) => stream,
        Err(error) if is_final(&error) => return Err(error),
        Err(error) => return Ok(End::Broken(Break { was_open: false, told: 0, error })),
    };
    let mut told = 0;
    loop {
        let next = stream.next().await;
        // Also where no event came: what happens until the next try is not missed.
        if let Some(reached) = stream.place() {
            *place = Some(reached.to_owned());
        }
        let error = match next {
            Ok(Some(event)) if event.event == "end" => return Ok(End::Told),
            Ok(Some(event)) if event.event == "refused" => {
                let refused = event.data["detail"].as_str().unwrap_or("the right to read has ended").to_owned();
                // Maybe the token's time was up alone: whether there is another one shows at the next try.
                if event.data["status"] != 401 {
                    bail!(refused);
                }
                anyhow!(refused)
            }
            Ok(Some(event)) => {
                told += 1;
                show(&event, output);
                continue;
            }
            Ok(None) => anyhow!("the platform ended it"),
            Err(error) => error,
        };
        return Ok(End::Broken(Break { was_open: true, told, error }));
    }
}

/// Whether asking again would change nothing.
fn is_final(error: &anyhow::Error) -> bool {
    Refused::status_of(error).is_some_and(|status| (400..500).contains(&status) && ![408, 425, 429].contains(&status))
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
