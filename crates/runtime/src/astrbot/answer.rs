//! One answer of a bot, from its events in ours. What a bot says where its model fails looks like any other text: such
//! text is held back until it is known what it is. Thoughts and calls of tools are never part of the text.

use std::collections::VecDeque;

use astrfleet_core::{
    chat::ChatEvent,
    error::{Error, Result},
    message::TokenUsage,
};
use serde_json::Value;

/// How a bot begins where its model fails, unless its persona has other words for it.
const FAILURE_MARKS: [&str; 3] = ["LLM 响应错误", "LLM 请求失败", "Error occurred while processing agent"];
/// Between two messages that are one answer.
const SEPARATOR: &str = "\n\n";
/// Letters of what a bot says of a failure that are passed on.
const REASON_MAX: usize = 500;
/// Of the name of a file.
const REFERENCE_BYTES_MAX: usize = 1_024;

type Ready = VecDeque<Result<ChatEvent>>;

/// An answer as far as it came.
pub(super) struct Answer {
    failure_text: String,
    text_bytes_max: usize,
    /// The messages that are whole.
    finished: String,
    /// The one that is being streamed.
    message: String,
    /// Text that may be a failure.
    held: String,
    /// Whether tools were called in this message: the bot then puts the calls into what it calls the whole text.
    tools: bool,
    usage: Option<TokenUsage>,
}

impl Answer {
    pub(super) fn new(failure_text: &str, text_bytes_max: usize) -> Self {
        Self {
            failure_text: failure_text.trim().to_owned(),
            text_bytes_max,
            finished: String::new(),
            message: String::new(),
            held: String::new(),
            tools: false,
            usage: None,
        }
    }

    /// Takes one event of the bot. What is not understood says nothing to us.
    pub(super) fn hear(&mut self, data: &[u8], ready: &mut Ready) {
        let Ok(event) = serde_json::from_slice::<Value>(data) else { return };
        let text = event["data"].as_str().unwrap_or_default();
        match event["type"].as_str().unwrap_or_default() {
            "user_message_saved" => {
                ready.extend(event["data"]["id"].as_i64().map(|record| Ok(ChatEvent::Received { record })));
            }
            "message_saved" => {
                ready.extend(event["data"]["id"].as_i64().map(|record| Ok(ChatEvent::Saved { record })));
            }
            "plain" => match event["chain_type"].as_str() {
                Some("reasoning" | "agent_stats") => {}
                Some("tool_call" | "tool_call_result") => self.tools = true,
                _ => self.say(text, event["streaming"] == true, ready),
            },
            "agent_stats" => self.count(&event["data"], ready),
            "complete" => self.complete(text, ready),
            kind @ ("image" | "file" | "record" | "video") => {
                self.settle(ready);
                let reference = text.split_once(']').map_or(text, |(_, name)| name);
                if !reference.is_empty() && reference.len() <= REFERENCE_BYTES_MAX {
                    ready.push_back(Ok(ChatEvent::Attachment { reference: reference.into(), kind: kind.into() }));
                }
            }
            "error" => {
                self.settle(ready);
                ready.push_back(Ok(ChatEvent::Error(shortened(text))));
            }
            "end" => self.settle(ready),
            _ => {}
        }
    }

    /// No more will come.
    pub(super) fn end(&mut self, ready: &mut Ready) {
        self.settle(ready);
    }

    fn say(&mut self, text: &str, streaming: bool, ready: &mut Ready) {
        if text.is_empty() {
            return;
        }
        if !streaming {
            self.settle(ready);
            self.end_message();
        }
        if self.finished.len() + self.message.len() + self.held.len() + text.len() > self.text_bytes_max {
            let limit_bytes = self.text_bytes_max as u64;
            ready.push_back(Err(Error::TooLarge { what: "the bot's answer", limit_bytes }));
            return;
        }
        self.held.push_str(text);
        if !self.may_be_failure() {
            self.release(ready);
        }
        if !streaming && self.held.is_empty() {
            self.end_message();
        }
    }

    fn count(&mut self, stats: &Value, ready: &mut Ready) {
        let Some(usage) = usage_of(stats) else { return };
        self.usage = Some(usage);
        ready.push_back(Ok(ChatEvent::Usage(usage)));
        if usage.total() > 0 && self.held != self.failure_text {
            self.release(ready);
        }
    }

    fn complete(&mut self, text: &str, ready: &mut Ready) {
        if self.message.is_empty() && self.held.is_empty() && !self.tools {
            // Its pieces were lost, or there never were any.
            text.clone_into(&mut self.held);
            if !self.is_failure() {
                self.held.clear();
            }
        }
        let failed = self.is_failure();
        self.settle(ready);
        // What it calls the whole text is this message alone, and not even that where tools were called in it.
        if !failed && !self.tools && !text.is_empty() && text.len() <= self.text_bytes_max {
            text.clone_into(&mut self.message);
        }
        self.end_message();
        if !failed {
            ready.push_back(Ok(ChatEvent::Complete(self.finished.clone())));
        }
    }

    /// What was held back is a failure or it is not.
    fn settle(&mut self, ready: &mut Ready) {
        if self.is_failure() {
            ready.push_back(Ok(ChatEvent::Error(shortened(&self.held))));
            self.held.clear();
        }
        self.release(ready);
    }

    fn release(&mut self, ready: &mut Ready) {
        if self.held.is_empty() {
            return;
        }
        if self.message.is_empty() && !self.finished.is_empty() {
            ready.push_back(Ok(ChatEvent::Delta(SEPARATOR.into())));
        }
        self.message.push_str(&self.held);
        ready.push_back(Ok(ChatEvent::Delta(std::mem::take(&mut self.held))));
    }

    fn end_message(&mut self) {
        if !self.message.is_empty() && !self.finished.is_empty() {
            self.finished.push_str(SEPARATOR);
        }
        self.finished.push_str(&self.message);
        self.message.clear();
        self.tools = false;
    }

    /// Whether what is held back is the beginning of a failure, or one already.
    fn may_be_failure(&self) -> bool {
        let counted = self.usage.is_some_and(|usage| usage.total() > 0);
        let begins = |mark: &str| mark.starts_with(&self.held) || self.held.starts_with(mark);
        (!counted && FAILURE_MARKS.iter().any(|mark| begins(mark)))
            || (!self.failure_text.is_empty() && self.failure_text.starts_with(&self.held))
    }

    fn is_failure(&self) -> bool {
        is_failure(&self.held, self.usage, &self.failure_text)
    }
}

/// Whether a text with this usage is what a bot says where its model failed.
pub(super) fn is_failure(text: &str, usage: Option<TokenUsage>, failure_text: &str) -> bool {
    let nothing_used = usage.is_none_or(|usage| usage.total() == 0);
    let text = text.trim();
    let ours = !text.is_empty() && text == failure_text.trim();
    ours || (nothing_used && FAILURE_MARKS.iter().any(|mark| text.starts_with(mark)))
}

/// What an answer took, in a bot's words.
pub(super) fn usage_of(stats: &Value) -> Option<TokenUsage> {
    let usage = stats.get("token_usage")?;
    let number = |key: &str| usage[key].as_u64().unwrap_or(0);
    let prompt_tokens = number("input_other").saturating_add(number("input_cached"));
    Some(TokenUsage { prompt_tokens, completion_tokens: number("output") })
}

fn shortened(text: &str) -> String {
    text.chars().take(REASON_MAX).collect()
}

#[cfg(test)]
#[path = "answer_tests.rs"]
mod tests;
