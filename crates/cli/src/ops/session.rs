//! `session`: conversations.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::Paging;
use crate::{address::at, client::Client, output::Output};

const FIELDS: &[&str] = &["id", "end_user", "channel", "state", "close_reason", "created_at", "last_active_at"];

/// What to do.
#[derive(clap::Subcommand)]
pub enum Command {
    /// List conversations, the newest first
    List {
        /// Id or name
        tenant: String,
        /// Of this end user alone
        #[arg(long)]
        end_user: Option<String>,
        #[command(flatten)]
        paging: Paging,
    },
    /// Show a conversation
    Show {
        /// Id or name
        tenant: String,
        /// The session's id
        session: String,
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
    /// Find what was said, the newest first
    #[command(after_help = "Example:\n  astrfleet session search acme \"订单 refund\"")]
    Search {
        /// Id or name
        tenant: String,
        /// Words that a message has: all of them, each by its beginning
        query: String,
        #[command(flatten)]
        paging: Paging,
    },
    /// Answer yourself from now on: the bot keeps silent
    TakeOver {
        /// Id or name
        tenant: String,
        /// The session's id
        session: String,
    },
    /// Reply as a person, through the bot: into a conversation of an IM channel that was taken over
    #[command(
        after_help = "Example:\n  astrfleet session take-over acme ses_…\n  astrfleet session say acme ses_… 'Your parcel is on its way.'"
    )]
    Say {
        /// Id or name
        tenant: String,
        /// The session's id
        session: String,
        /// What is said
        text: String,
    },
    /// Let the bot answer again
    HandBack {
        /// Id or name
        tenant: String,
        /// The session's id
        session: String,
    },
    /// Stop an answer that is being given; what came of it is kept
    Stop {
        /// Id or name
        tenant: String,
        /// The session's id
        session: String,
        /// The id of the message that is being answered
        message: String,
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
    let all = |tenant: &str| at(["tenants", tenant, "sessions"]);
    let one = |tenant: &str, session: &str| at(["tenants", tenant, "sessions", session]);
    match command {
        Command::List { tenant, end_user, paging } => {
            let query = paging.query().and("end_user", end_user.as_deref());
            output.page(&client.get(&format!("{}{query}", all(&tenant))).await?, FIELDS)?;
        }
        Command::Show { tenant, session } => output.thing(&client.get(&one(&tenant, &session)).await?, FIELDS),
        Command::Messages { tenant, session, paging } => {
            let messages = client.get(&format!("{}/messages{}", one(&tenant, &session), paging.query())).await?;
            output.page(&messages, &["created_at", "id", "author", "state", "text"])?;
        }
        Command::Search { tenant, query, paging } => {
            let query = paging.query().with("q", &query);
            let mut found = client.get(&format!("{}{query}", at(["tenants", &tenant, "messages"]))).await?;
            if !output.is_json() {
                mark_hits(&mut found);
            }
            output.page(&found, &["created_at", "author", "session_id", "excerpt"])?;
        }
        Command::TakeOver { tenant, session } => {
            let path = format!("{}/take-over", one(&tenant, &session));
            output.thing(&client.post(&path, &json!({})).await?, FIELDS);
        }
        Command::Say { tenant, session, text } => {
            let session = client.get(&one(&tenant, &session)).await?;
            say(&session, &tenant, &text, client, output).await?;
        }
        Command::HandBack { tenant, session } => {
            let path = format!("{}/hand-back", one(&tenant, &session));
            output.thing(&client.post(&path, &json!({})).await?, FIELDS);
        }
        Command::Stop { tenant, session, message } => {
            let path = at(["tenants", &tenant, "sessions", &session, "messages", &message, "stop"]);
            let answer = client.post(&path, &json!({})).await?;
            output.done(&answer, &format!("The answer to {message} is stopped."));
        }
        Command::Close { tenant, session } => {
            output.thing(&client.post(&format!("{}/close", one(&tenant, &session)), &json!({})).await?, FIELDS);
        }
    }
    Ok(())
}

/// Says it through the bot, and waits until that has sent it.
async fn say(session: &Value, tenant: &str, text: &str, client: &Client, output: Output) -> Result<()> {
    if session["umo"].is_null() {
        bail!(
            "this is a conversation of your own program over the API: what is posted there are the end user's words \
             (`astrfleet chat --session`), and a person answers in that program"
        );
    }
    let id = session["id"].as_str().context("the answer has no id")?;
    let said = client.post(&at(["tenants", tenant, "sessions", id, "messages"]), &json!({"text": text})).await?;
    let message = &said["message"];
    if message["state"] == "failed" {
        bail!("it was not sent: {}", message["failure"]["detail"].as_str().unwrap_or("no reason was given"));
    }
    if output.is_json() {
        output.done(&said, "");
    } else {
        output.thing(message, &["id", "author", "state", "text", "created_at"]);
    }
    Ok(())
}

/// Each excerpt as one text, with brackets around the hits.
fn mark_hits(page: &mut Value) {
    for item in page["items"].as_array_mut().into_iter().flatten() {
        let pieces = item["excerpt"].as_array().into_iter().flatten();
        let text: String = pieces
            .map(|piece| match (piece["text"].as_str().unwrap_or_default(), piece["hit"].as_bool()) {
                (text, Some(true)) => format!("[{text}]"),
                (text, _) => text.to_owned(),
            })
            .collect();
        item["excerpt"] = Value::String(text);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::mark_hits;

    #[test]
    fn a_hit_is_marked() {
        let mut page = json!({"items": [{"excerpt": [{"text": "my ", "hit": false}, {"text": "order", "hit": true}]}]});
        mark_hits(&mut page);
        assert_eq!(page["items"][0]["excerpt"], "my [order]");
    }
}
