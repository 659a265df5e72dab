//! How a bot's channels are. An adapter that gave up still calls itself `running`, and says why in the bot's log alone:
//! so the errors there belong to a channel's state, those since it was started. A log is read for nothing else.

use astrfleet_core::error::Result;
use reqwest::Method;
use serde_json::{Value, json};

use super::{client::Failure, connection::Connection};

/// What an adapter says when it will not try again.
const GAVE_UP: &str = "Polling stopped";
/// Time zones differ by multiples of this.
const ZONE_STEP_SECONDS: f64 = 900.0;

/// One object a channel that is loaded: `id`, `status`, `last_error: {message}`.
pub(super) async fn read(bot: &Connection) -> Result<Vec<Value>> {
    let Value::Array(mut states) = bot.call(Method::GET, "bots/stats", None).await?["platforms"].take() else {
        return Err(Failure::Away("its list of channels' states is none".into()).into());
    };
    let log = bot.call(Method::GET, "logs/history", None).await?;
    let started = bot.call(Method::GET, "stats/start-time", None).await?;
    let log = log["logs"].as_array().map(Vec::as_slice).unwrap_or_default();
    add_errors(&mut states, log, started["start_time"].as_f64());
    Ok(states)
}

fn add_errors(states: &mut [Value], log: &[Value], bot_started: Option<f64>) {
    let zone = zone_seconds(states, bot_started);
    for state in states.iter_mut().filter(|state| state["last_error"].is_null()) {
        let since = local_seconds(state).map_or(f64::MAX, |local| local - zone);
        let newest = log.iter().rfind(|line| {
            line["platform_id"] == state["id"] && line["level"] == "ERROR" && line["time"].as_f64() >= Some(since)
        });
        let Some(words) = newest.and_then(|line| line["body"].as_str()) else { continue };
        if words.contains(GAVE_UP) {
            state["status"] = json!("error");
        }
        state["last_error"] = json!({"message": words});
    }
}

/// How far the bot's local time is ahead of UTC: it notes a channel's start in the first and its own in the second, and
/// the channel of its own web page starts with it.
fn zone_seconds(states: &[Value], bot_started: Option<f64>) -> f64 {
    let own = states.iter().find(|state| state["id"] == "webchat").and_then(local_seconds);
    match (own, bot_started) {
        (Some(local), Some(started)) => ((local - started) / ZONE_STEP_SECONDS).round() * ZONE_STEP_SECONDS,
        _ => 0.0,
    }
}

/// When a channel was started, in seconds since 1970 in the bot's local time.
fn local_seconds(state: &Value) -> Option<f64> {
    let local: jiff::civil::DateTime = state["started_at"].as_str()?.parse().ok()?;
    Some(local.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_duration().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::add_errors;

    fn states() -> Vec<Value> {
        // Eight hours ahead of UTC; the bot was started at 08:51:54 UTC.
        vec![
            json!({"id": "webchat", "status": "running", "started_at": "2026-11-23T16:51:56.446119", "last_error": null}),
            json!({"id": "tg1", "status": "running", "started_at": "2026-11-23T17:00:00.323464", "last_error": null}),
        ]
    }

    fn error(id: &str, time: f64, words: &str) -> Value {
        json!({"level": "ERROR", "time": time, "platform_id": id, "body": words})
    }

    #[test]
    fn an_error_since_the_start_is_the_channels() {
        let mut states = states();
        let log = [
            error("tg1", 1_795_424_500.0, "an older one"),
            error("tg1", 1_795_424_500.5, "The token was rejected. Polling stopped."),
            error("tg2", 1_795_424_501.0, "of another one"),
        ];
        add_errors(&mut states, &log, Some(1_795_423_914.0));
        assert_eq!(states[1]["status"], "error");
        assert_eq!(states[1]["last_error"]["message"], "The token was rejected. Polling stopped.");
        assert_eq!(states[0]["last_error"], Value::Null);
    }

    #[test]
    fn an_error_before_the_start_is_over() {
        let mut states = states();
        let log = [error("tg1", 1_795_424_300.0, "Polling stopped")];
        add_errors(&mut states, &log, Some(1_795_423_914.0));
        assert_eq!((&states[1]["status"], &states[1]["last_error"]), (&json!("running"), &Value::Null));
    }
}
