//! How the fake provider answers one request, as a value: set by a test through the handle, or written as directives
//! into the user's own text, so that it survives a whole platform and a real bot between the test and the fake.
//! Nothing here does any I/O.

use serde_json::Value;

/// No directive asks for more than this.
const CHUNKS_MAX: usize = 100_000;
const WAIT_MS_MAX: u64 = 60_000;
const HUGE_BYTES_MAX: usize = 64 << 20;

/// How to answer one request. The default is the echo, at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Behaviour {
    /// Answers with this status and an error in OpenAI's shape: `#error=429`.
    pub error: Option<u16>,
    /// Waits before the first byte, in milliseconds: `#wait=200`.
    pub wait_ms: u64,
    /// Waits between two chunks, in milliseconds: `#slow=50`.
    pub slow_ms: u64,
    /// Exactly this many content chunks: the echo, filled up with numbers or joined at its end: `#chunks=200`.
    pub chunks: Option<usize>,
    /// Goes silent after this many content chunks until released: `#stall` (1), `#stall=0` (before the first byte).
    pub stall_after: Option<usize>,
    /// Cuts the connection after this many content chunks: `#die` (1), `#die=0`.
    pub die_after: Option<usize>,
    /// Sends a chunk that is no JSON after this many content chunks: `#malformed` (1).
    pub malformed_after: Option<usize>,
    /// The first content chunk has this many bytes: `#huge=1000000`.
    pub huge_bytes: Option<usize>,
    /// Calls this tool instead of answering, unless the last message is a tool's result: `#tool=name`.
    pub tool: Option<String>,
    /// The arguments of that call, as JSON text without spaces: `#args={"a":1}`.
    pub tool_arguments: Option<String>,
    /// Says this instead of the echo; `#say=word` for one word.
    pub say: Option<String>,
    /// Ends the stream without its finish reason, usage and `[DONE]`: `#cut`.
    pub cut: bool,
    /// Answers 200, and then this instead of an answer: `#headers=silence`.
    pub headers_only: Option<HeadersOnly>,
}

/// What comes after headers that promise an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadersOnly {
    /// Nothing, until released: `silence`.
    Silence,
    /// A comment, and then the connection is cut: `death`.
    Death,
    /// The end: `end`.
    End,
    /// An error in OpenAI's shape, as an event where a stream was asked for: `error`.
    Error,
}

impl Behaviour {
    /// An error and nothing else.
    #[must_use]
    pub fn error(status: u16) -> Self {
        Self { error: Some(status), ..Self::default() }
    }

    /// A fixed text instead of the echo.
    #[must_use]
    pub fn say(text: &str) -> Self {
        Self { say: Some(text.to_owned()), ..Self::default() }
    }

    /// Silence after the first chunk, until released.
    #[must_use]
    pub fn stall() -> Self {
        Self { stall_after: Some(1), ..Self::default() }
    }

    /// The same with what the directives in a text change.
    #[must_use]
    pub fn directed_by(mut self, text: &str) -> Self {
        for word in text.split_whitespace() {
            let Some(directive) = word.strip_prefix('#') else { continue };
            let (name, value) = directive.split_once('=').unwrap_or((directive, ""));
            let number = value.parse::<u64>().ok();
            let count = |fallback: usize| Some(number.map_or(fallback, |number| to_usize(number).min(CHUNKS_MAX)));
            match name {
                "error" => self.error = value.parse().ok().filter(|status| (400..600).contains(status)).or(Some(500)),
                "wait" => self.wait_ms = number.unwrap_or(0).min(WAIT_MS_MAX),
                "slow" => self.slow_ms = number.unwrap_or(0).min(WAIT_MS_MAX),
                "chunks" => self.chunks = count(1),
                "stall" => self.stall_after = count(1),
                "die" => self.die_after = count(1),
                "malformed" => self.malformed_after = count(1),
                "huge" => self.huge_bytes = number.map(|number| to_usize(number).min(HUGE_BYTES_MAX)),
                "tool" if !value.is_empty() => self.tool = Some(value.to_owned()),
                "args" => self.tool_arguments = Some(value.to_owned()),
                "say" => self.say = Some(value.to_owned()),
                "cut" => self.cut = true,
                "headers" => self.headers_only = HeadersOnly::named(value),
                "echo" => self = Self::default(),
                _ => {}
            }
        }
        self
    }
}

impl HeadersOnly {
    fn named(name: &str) -> Option<Self> {
        match name {
            "silence" => Some(Self::Silence),
            "death" => Some(Self::Death),
            "end" => Some(Self::End),
            "error" => Some(Self::Error),
            _ => None,
        }
    }
}

fn to_usize(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// What the user said last, without what `AstrBot` adds to it (`<system_reminder>…</system_reminder>`).
#[must_use]
pub fn last_user_text(body: &Value) -> String {
    let messages = body["messages"].as_array().map_or(&[] as &[Value], Vec::as_slice);
    let last = messages.iter().rev().find(|message| message["role"] == "user");
    last.map(|message| without_reminders(&text_of(&message["content"])).trim().to_owned()).unwrap_or_default()
}

/// The text of a message's `content`: a string, or the text parts of a list.
#[must_use]
pub fn text_of(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str()).collect::<Vec<_>>().join("\n"),
        _ => String::new(),
    }
}

/// Whether `AstrBot` asks for a title of a new conversation, which it does beside the first real request.
#[must_use]
pub fn is_title_request(body: &Value) -> bool {
    body["messages"].as_array().is_some_and(|messages| {
        messages.iter().any(|message| {
            message["role"] == "system" && text_of(&message["content"]).contains("conversation title generator")
        })
    })
}

fn without_reminders(text: &str) -> String {
    const OPEN: &str = "<system_reminder>";
    const CLOSE: &str = "</system_reminder>";
    let mut kept = String::new();
    let mut rest = text;
    while let Some(start) = rest.find(OPEN) {
        kept.push_str(&rest[..start]);
        let Some(end) = rest[start..].find(CLOSE) else { return kept };
        rest = &rest[start + end + CLOSE.len()..];
    }
    kept.push_str(rest);
    kept
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn directives_are_read_wherever_they_stand_in_the_text() {
        let behaviour = Behaviour::default().directed_by("hello #slow=50 there #chunks=200\n#stall=7 #nonsense #2");
        assert_eq!(
            behaviour,
            Behaviour { slow_ms: 50, chunks: Some(200), stall_after: Some(7), ..Behaviour::default() }
        );
    }

    #[test]
    fn a_directive_cannot_ask_for_more_than_the_limit() {
        let behaviour = Behaviour::default().directed_by("#chunks=99999999999 #wait=99999999 #huge=99999999999");
        assert_eq!(
            (behaviour.chunks, behaviour.wait_ms, behaviour.huge_bytes),
            (Some(CHUNKS_MAX), WAIT_MS_MAX, Some(HUGE_BYTES_MAX))
        );
    }

    #[test]
    fn an_error_that_is_no_error_status_becomes_500() {
        assert_eq!(Behaviour::default().directed_by("#error=200").error, Some(500));
        assert_eq!(Behaviour::default().directed_by("#error=402").error, Some(402));
    }

    #[test]
    fn the_last_user_text_comes_without_the_bots_reminders() {
        let body = json!({"messages": [
            {"role": "user", "content": "first"},
            {"role": "assistant", "content": "answer"},
            {"role": "user", "content": [
                {"type": "text", "text": "second"},
                {"type": "image_url", "image_url": {"url": "data:,"}},
                {"type": "text", "text": "<system_reminder>Current datetime: now</system_reminder>"},
            ]},
        ]});
        assert_eq!(last_user_text(&body), "second");
        let body = json!({"messages": [{"role": "user", "content": "a <system_reminder>x</system_reminder>b"}]});
        assert_eq!(last_user_text(&body), "a b");
        assert_eq!(last_user_text(&json!({})), "");
    }

    #[test]
    fn the_request_for_a_title_is_told_apart() {
        let title = json!({"messages": [{"role": "system", "content": "You are a conversation title generator. …"}]});
        assert!(is_title_request(&title));
        assert!(!is_title_request(&json!({"messages": [{"role": "user", "content": "conversation title generator"}]})));
    }
}
