//! `session`: conversations.

use anyhow::Result;
use serde_json::{Value, json};

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
    /// Let the bot answer again
    HandBack {
        /// Id or name
        tenant: String,
        /// The session's id
        session: String,
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
        Command::Search { tenant, query, paging } => {
            let query = query_value(&query);
            let more = paging.query().replace('?', "&");
            let mut found = client.get(&format!("/api/v1/tenants/{tenant}/messages?q={query}{more}")).await?;
            if !output.is_json() {
                mark_hits(&mut found);
            }
            output.page(&found, &["created_at", "author", "session_id", "excerpt"]);
        }
        Command::TakeOver { tenant, session } => {
            let path = format!("{}/{session}/take-over", path(&tenant));
            output.thing(&client.post(&path, &json!({})).await?, FIELDS);
        }
        Command::HandBack { tenant, session } => {
            let path = format!("{}/{session}/hand-back", path(&tenant));
            output.thing(&client.post(&path, &json!({})).await?, FIELDS);
        }
        Command::Close { tenant, session } => {
            output.thing(&client.post(&format!("{}/{session}/close", path(&tenant)), &json!({})).await?, FIELDS);
        }
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

/// A text as it stands in the query of an address.
fn query_value(text: &str) -> String {
    text.bytes().fold(String::new(), |encoded, byte| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => encoded + char::from(byte).encode_utf8(&mut [0; 4]),
        byte => format!("{encoded}%{byte:02X}"),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{mark_hits, query_value};

    #[test]
    fn what_is_looked_for_stays_one_value() {
        assert_eq!(query_value("a&b=订"), "a%26b%3D%E8%AE%A2");
    }

    #[test]
    fn a_hit_is_marked() {
        let mut page = json!({"items": [{"excerpt": [{"text": "my ", "hit": false}, {"text": "order", "hit": true}]}]});
        mark_hits(&mut page);
        assert_eq!(page["items"][0]["excerpt"], "my [order]");
    }
}
