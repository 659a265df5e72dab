//! The built-in model `demo`: answers where no provider is configured, in words that say what it is, so that the whole
//! path works offline. It is no language model.

use std::convert::Infallible;

use astrfleet_core::{Error, Result, id::RequestId, message::TokenUsage, time::Timestamp};
use axum::{
    Json,
    response::{
        IntoResponse, Response,
        sse::{Event, Sse},
    },
};
use futures_util::stream;
use serde::Deserialize;
use serde_json::{Value, json};

use super::request::{ChatRequest, tokens};

/// Its name.
pub const MODEL: &str = "demo";
/// Of the user's own words it repeats no more, in characters.
const ECHO_MAX: usize = 200;
/// What a bot asks for a conversation's title with.
const TITLE_PROMPT: &str = "title generator";

#[derive(Deserialize)]
struct Asked {
    #[serde(default)]
    messages: Vec<Value>,
}

/// What it answers.
#[must_use]
pub fn answer(messages: &[Value]) -> String {
    if messages.iter().any(|message| message["role"] == "system" && text(message).contains(TITLE_PROMPT)) {
        return "Demo conversation".to_owned();
    }
    let last = messages.iter().rev().find(|message| message["role"] == "user").map(text).unwrap_or_default();
    // What AstrBot adds to a message is not the user's.
    let said = last.split("<system_reminder>").next().unwrap_or_default().trim();
    let mut repeated: String = said.chars().take(ECHO_MAX).collect();
    if repeated.len() < said.len() {
        repeated.push('…');
    }
    format!(
        "Hello from astrfleet's built-in demo model. I am a stand-in, not a language model: your message reached your \
         own AstrBot, and came back to you through the platform, piece by piece. You wrote: “{repeated}”. For real \
         answers, set LLM_API_KEY, or list providers as [[llm.upstreams]] in the configuration, and start astrfleet again."
    )
}

/// Answers a request, and says what that took.
///
/// # Errors
/// [`Error::Invalid`] where the messages cannot be read.
pub(super) fn respond(request: &ChatRequest, id: &RequestId, now: Timestamp) -> Result<(Response, TokenUsage)> {
    let asked: Asked = serde_json::from_slice(request.body())
        .map_err(|error| Error::invalid("messages", format!("cannot be read: {error}")))?;
    let answer = answer(&asked.messages);
    let used = TokenUsage { prompt_tokens: request.prompt_tokens, completion_tokens: tokens(answer.len() as u64) };
    let usage = json!({
        "prompt_tokens": used.prompt_tokens,
        "completion_tokens": used.completion_tokens,
        "total_tokens": used.total(),
    });
    let id = format!("chatcmpl-{id}");
    let created = now.seconds();
    if !request.stream {
        let message = json!({"role": "assistant", "content": answer});
        let body = json!({
            "id": id, "object": "chat.completion", "created": created, "model": MODEL, "usage": usage,
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        });
        return Ok((Json(body).into_response(), used));
    }
    let chunk = |choices: Value| json!({"id": id, "object": "chat.completion.chunk", "created": created, "model": MODEL, "choices": choices});
    let mut chunks =
        vec![chunk(json!([{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": null}]))];
    for word in answer.split_inclusive(' ') {
        chunks.push(chunk(json!([{"index": 0, "delta": {"content": word}, "finish_reason": null}])));
    }
    chunks.push(chunk(json!([{"index": 0, "delta": {}, "finish_reason": "stop"}])));
    if request.wants_usage {
        let mut last = chunk(json!([]));
        last["usage"] = usage;
        chunks.push(last);
    }
    let lines = chunks.into_iter().map(|chunk| chunk.to_string()).chain(["[DONE]".to_owned()]);
    let events = stream::iter(lines.map(|data| Ok::<_, Infallible>(Event::default().data(data))).collect::<Vec<_>>());
    Ok((Sse::new(events).into_response(), used))
}

/// The text of a message, whose content is a string or a list of parts.
fn text(message: &Value) -> String {
    match &message["content"] {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str()).collect::<Vec<_>>().join(" "),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::answer;

    #[test]
    fn it_says_what_it_is_and_repeats_the_user() {
        let text = answer(&[json!({"role": "user", "content": [
            {"type": "text", "text": "Good morning"},
            {"type": "text", "text": "<system_reminder>Current datetime: now</system_reminder>"},
        ]})]);
        assert!(
            text.contains("demo model") && text.contains("LLM_API_KEY") && text.contains("“Good morning”"),
            "{text}"
        );
        assert!(answer(&[json!({"role": "user", "content": "x".repeat(10_000)})]).len() < 1_000);
    }

    #[test]
    fn a_title_is_short() {
        let system = json!({"role": "system", "content": "You are a conversation title generator."});
        assert!(answer(&[system, json!({"role": "user", "content": "hello"})]).len() < 30);
    }
}
