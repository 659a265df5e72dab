//! A bot's request: read as little as possible, changed as little as possible. What we do not know of it (messages,
//! tools, images) goes on untouched, byte for byte.

use std::ops::Range;

use astrfleet_core::{Error, Result};
use bytes::Bytes;
use memchr::memmem;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, value::RawValue};

/// Estimated for an answer whose request sets no limit, in tokens.
const ANSWER_TOKENS: u64 = 1_024;
/// Of an image, whatever its bytes: what OpenAI takes for one of full HD in detail.
const IMAGE_TOKENS: u64 = 1_105;
/// A longer name is none.
const MODEL_NAME_MAX: usize = 256;

/// One request.
#[derive(Clone, Debug)]
pub(super) struct ChatRequest {
    body: Bytes,
    /// The model asked for.
    pub(super) model: String,
    model_at: Range<usize>,
    /// Whether the answer is to be streamed.
    pub(super) stream: bool,
    /// Whether the bot itself wants to know what a stream took.
    pub(super) wants_usage: bool,
    options: Options,
    /// What the prompt will take, in tokens.
    pub(super) prompt_tokens: u64,
    /// What the answer will take at the most, or usually.
    answer_tokens: u64,
}

/// Where `stream_options` come in.
#[derive(Clone, Debug)]
enum Options {
    /// They say what we need.
    Asked,
    /// Their value becomes this one.
    Replaced(Range<usize>, String),
    /// They are put here.
    Absent(usize),
}

#[derive(Deserialize)]
#[serde(expecting = "an object")]
struct Read<'a> {
    #[serde(borrow)]
    model: &'a RawValue,
    stream: Option<bool>,
    #[serde(default, borrow, deserialize_with = "present")]
    stream_options: Option<&'a RawValue>,
    max_tokens: Option<u64>,
    max_completion_tokens: Option<u64>,
    n: Option<u64>,
}

/// Also `null` is something that stands there.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

impl ChatRequest {
    /// Reads one.
    ///
    /// # Errors
    /// [`Error::Invalid`] that says what is wrong, as far as we look.
    pub(super) fn read(body: Bytes) -> Result<Self> {
        let open = body.iter().position(|byte| !byte.is_ascii_whitespace()).filter(|at| body[*at] == b'{');
        let Some(open) = open else { return Err(Error::invalid("body", "must be a JSON object")) };
        let read: Read<'_> =
            serde_json::from_slice(&body).map_err(|error| Error::invalid("body", format!("is not valid: {error}")))?;
        let model = serde_json::from_str::<String>(read.model.get())
            .ok()
            .filter(|model| (1..=MODEL_NAME_MAX).contains(&model.len()) && !model.contains(char::is_control))
            .ok_or_else(|| Error::invalid("model", "must be the name of a model, without control characters"))?;
        let at = |value: &RawValue| {
            let begin = value.get().as_ptr().addr() - body.as_ptr().addr();
            begin..begin + value.get().len()
        };
        let (wants_usage, options) = match read.stream_options {
            None => (false, Options::Absent(open + 1)),
            Some(options) => stream_options(options, at(options))?,
        };
        let answer = read.max_completion_tokens.or(read.max_tokens).unwrap_or(ANSWER_TOKENS);
        Ok(Self {
            model_at: at(read.model),
            model,
            stream: read.stream.unwrap_or(false),
            wants_usage,
            options,
            prompt_tokens: prompt_tokens(&body),
            answer_tokens: answer.saturating_mul(read.n.unwrap_or(1).max(1)),
            body,
        })
    }

    /// As the bot wrote it.
    pub(super) fn body(&self) -> &Bytes {
        &self.body
    }

    /// What all of it will take, in tokens.
    pub(super) fn estimate(&self) -> u64 {
        self.prompt_tokens.saturating_add(self.answer_tokens)
    }

    /// What a provider receives that has another name for the model, and is always to say what a stream took.
    pub(super) fn body_for(&self, model: &str) -> Bytes {
        let mut edits: Vec<(Range<usize>, String)> = Vec::new();
        if model != self.model {
            edits.push((self.model_at.clone(), Value::from(model).to_string()));
        }
        match &self.options {
            _ if !self.stream => {}
            Options::Asked => {}
            Options::Replaced(at, options) => edits.push((at.clone(), options.clone())),
            // The object is not empty: there is a model in it.
            Options::Absent(at) => edits.push((*at..*at, r#""stream_options":{"include_usage":true},"#.to_owned())),
        }
        if edits.is_empty() {
            return self.body.clone();
        }
        edits.sort_by_key(|(at, _)| at.start);
        let mut written = Vec::with_capacity(self.body.len() + 64);
        let mut from = 0;
        for (at, text) in edits {
            written.extend_from_slice(&self.body[from..at.start]);
            written.extend_from_slice(text.as_bytes());
            from = at.end;
        }
        written.extend_from_slice(&self.body[from..]);
        written.into()
    }
}

/// Whether the bot wants the usage, and what becomes of its `stream_options`.
fn stream_options(options: &RawValue, at: Range<usize>) -> Result<(bool, Options)> {
    let options: Option<Map<String, Value>> = serde_json::from_str(options.get())
        .map_err(|_| Error::invalid("stream_options", "must be an object such as {\"include_usage\": true}"))?;
    let mut options = options.unwrap_or_default();
    if options.get("include_usage") == Some(&Value::Bool(true)) {
        return Ok((true, Options::Asked));
    }
    options.insert("include_usage".to_owned(), Value::Bool(true));
    Ok((false, Options::Replaced(at, Value::Object(options).to_string())))
}

/// Tokens of a text of so many bytes, roughly.
pub(super) fn tokens(bytes: u64) -> u64 {
    bytes.div_ceil(4)
}

/// Tokens of a whole request: its text, and its images by number, not by size.
fn prompt_tokens(body: &[u8]) -> u64 {
    let (mut images, mut image_bytes, mut from) = (0, 0, 0);
    while let Some(found) = memmem::find(&body[from..], b";base64,") {
        let begin = from + found;
        let end = memchr::memchr(b'"', &body[begin..]).map_or(body.len(), |length| begin + length);
        images += 1;
        image_bytes += end - begin;
        from = end;
    }
    tokens((body.len() - image_bytes) as u64) + images * IMAGE_TOKENS
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn read(text: &str) -> Result<ChatRequest> {
        ChatRequest::read(Bytes::copy_from_slice(text.as_bytes()))
    }

    #[test]
    fn nothing_is_touched_where_nothing_has_to_be() {
        let text =
            r#" {"model" : "m", "messages":[{"role":"user","content":"\u00e9 \"model\":\"x\""}], "seed": 1e3 } "#;
        let request = read(text).unwrap();
        assert_eq!(request.body_for("m"), text.as_bytes());
        assert_eq!(request.body_for("n"), text.replacen("\"m\"", "\"n\"", 1).as_bytes());
    }

    #[test]
    fn a_stream_is_always_asked_for_its_usage() {
        for (given, asked, wants) in [
            ("", r#"{"include_usage":true}"#, false),
            (r#","stream_options":null"#, r#"{"include_usage":true}"#, false),
            (r#","stream_options":{"include_usage":false}"#, r#"{"include_usage":true}"#, false),
            (r#","stream_options":{"other":[1]}"#, r#"{"include_usage":true,"other":[1]}"#, false),
            (r#","stream_options":{"include_usage":true}"#, r#"{"include_usage":true}"#, true),
        ] {
            let request = read(&format!(r#"{{"messages":[],"model":"m","stream":true{given}}}"#)).unwrap();
            let sent: Value = serde_json::from_slice(&request.body_for("n")).unwrap();
            let asked: Value = serde_json::from_str(asked).unwrap();
            assert_eq!(sent, json!({"messages": [], "model": "n", "stream": true, "stream_options": asked}), "{given}");
            assert_eq!(request.wants_usage, wants, "{given}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        for text in [
            "",
            "[]",
            r#"["m"]"#,
            "{",
            "{}",
            r#"{"model":1}"#,
            r#"{"model":""}"#,
            r#"{"model":"a\u0000b"}"#,
            r#"{"model":"a\nb"}"#,
            r#"{"model":"a","model":"b"}"#,
            r#"{"model":"a","stream":"yes"}"#,
            r#"{"model":"a","stream_options":[]}"#,
            r#"{"model":"a"} x"#,
        ] {
            assert!(matches!(read(text), Err(Error::Invalid { .. })), "{text}");
        }
    }

    #[test]
    fn an_image_counts_as_an_image() {
        let image = "A".repeat(1 << 20);
        let text = format!(r#"{{"model":"m","messages":[{{"url":"data:image/png;base64,{image}"}}]}}"#);
        assert!((IMAGE_TOKENS..IMAGE_TOKENS + 50).contains(&read(&text).unwrap().prompt_tokens));
    }

    proptest! {
        #[test]
        fn a_request_stays_what_it_is_but_for_what_is_changed(
            model in "[^\\p{Cc}]{1,20}", other in "[a-z\"\\\\]{1,10}", content in any::<String>(), stream in any::<bool>(),
        ) {
            let mut body = json!({"temperature": 0.5, "model": model, "messages": [{"role": "user", "content": content}], "stream": stream});
            let request = ChatRequest::read(body.to_string().into()).unwrap();
            let sent: Value = serde_json::from_slice(&request.body_for(&other)).unwrap();
            body["model"] = other.into();
            if stream {
                body["stream_options"] = json!({"include_usage": true});
            }
            prop_assert_eq!(sent, body);
        }
    }
}
