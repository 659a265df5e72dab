//! A bot's own memory of a session, for repairing an answer whose stream was cut.

use astrfleet_core::{chat::HistoryRecord, error::Result};
use reqwest::Method;
use serde_json::Value;

use super::{
    answer::{is_failure, usage_of},
    client::{Failure, escaped},
    connection::Connection,
};

/// The newest lines; a bot gives no more at once, and a repair needs the last few.
const RECORDS_MAX: usize = 1_000;

/// The lines of a session, the oldest first. A line in which the bot says that its model failed is marked: it is no
/// answer, and whoever looks for one need not wait any longer.
pub(super) async fn read(bot: &Connection, end_user: &str, session: &str) -> Result<Vec<HistoryRecord>> {
    let path = format!("chat/sessions/{}?page_size={RECORDS_MAX}", escaped(session));
    let answer = match bot.call_as(end_user, Method::GET, &path, None).await {
        Ok(answer) => answer,
        Err(Failure::Refused(words)) if words.contains("not found") => return Ok(Vec::new()),
        Err(failure) => return Err(failure.into()),
    };
    let lines = answer["history"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut records: Vec<_> = lines.iter().filter_map(|line| record(line, &bot.shared.failure_text)).collect();
    records.sort_by_key(|line| line.record);
    Ok(records)
}

fn record(line: &Value, failure_text: &str) -> Option<HistoryRecord> {
    let content = &line["content"];
    let parts = content["message"].as_array()?;
    let text: String =
        parts.iter().filter(|part| part["type"] == "plain").filter_map(|part| part["text"].as_str()).collect();
    let (from_bot, usage) = (content["type"] == "bot", usage_of(&content["agent_stats"]));
    let failed = from_bot && is_failure(&text, usage, failure_text);
    Some(HistoryRecord { record: line["id"].as_i64()?, from_bot, text, usage, failed })
}
