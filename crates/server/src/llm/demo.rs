//! The built-in model `demo`: answers where no provider is configured, in words that say what it is, so that the whole
//! path works offline. It is no language model.

use serde_json::Value;

/// Its name.
pub const MODEL: &str = "demo";
/// Of the user's own words it repeats no more, in characters.
const ECHO_MAX: usize = 200;

/// What it answers.
#[must_use]
pub fn answer(messages: &[Value]) -> String {
    let system = messages.iter().filter(|message| message["role"] == "system").map(text).collect::<String>();
    // A bot asks for a conversation's title in a call of its own.
    if system.contains("title") && messages.len() <= 2 && system.len() < 2_000 {
        return "Demo conversation".to_owned();
    }
    let last = messages.iter().rev().find(|message| message["role"] == "user").map(text).unwrap_or_default();
    let said = last.split("<system_reminder>").next().unwrap_or_default().trim();
    let said: String = said.chars().take(ECHO_MAX).collect();
    format!(
        "Hello from astrfleet's built-in demo model. I am a stand-in, not a language model: your message reached your \
         own AstrBot, and came back to you through the platform, piece by piece. You wrote: “{said}”. For real answers, \
         set LLM_API_KEY, or list providers as [[llm.upstreams]] in the configuration, and start astrfleet again."
    )
}

/// The text of a message, whose content is a string or a list of parts.
fn text(message: &Value) -> String {
    match &message["content"] {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str()).collect::<Vec<_>>().join(" "),
        _ => String::new(),
    }
}

/// Tokens of a text, roughly: four bytes each.
#[must_use]
pub fn tokens(text: &str) -> u64 {
    (text.len() as u64).div_ceil(4)
}
