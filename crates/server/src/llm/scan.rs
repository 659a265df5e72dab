//! Reads what a stream took as its bytes pass: the usage chunk, and roughly how much text. Nothing is parsed but the chunk
//! that has a usage, and nothing is copied but a line that came in pieces.
//!
//! Protocol: <https://platform.openai.com/docs/api-reference/chat-streaming>, server-sent events, one JSON object a
//! `data:` line.

use std::{mem, ops::Range};

use astrfleet_core::message::TokenUsage;
use bytes::Bytes;
use memchr::{memchr, memchr2, memmem};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::Value;

/// A line that is longer than this when its end is not in sight is no usage chunk: it passes uninspected.
const LINE_MAX: usize = 16 << 10;

/// Of one stream.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own; no two of them make a state")]
pub(super) struct Scanner {
    /// The bot did not ask for the usage chunk: it is taken out.
    hide_usage: bool,
    /// The beginning of a line whose end has not come.
    held: Vec<u8>,
    /// The rest of an overlong line passes.
    skipping: bool,
    /// The empty line after what was taken out goes too.
    swallow: bool,
    /// What the provider said.
    pub(super) usage: Option<TokenUsage>,
    /// Bytes of text that have passed.
    pub(super) text_bytes: u64,
    /// An event has passed, and not only a comment that keeps the connection.
    pub(super) began: bool,
    /// `[DONE]` has passed.
    pub(super) done: bool,
    /// The provider told of an error in the middle of its stream.
    pub(super) error: bool,
}

/// The usage of an answer, whole or streamed.
#[derive(Debug, Deserialize)]
pub(super) struct Usage {
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
}

impl Usage {
    /// None where it says nothing that we know.
    pub(super) fn tokens(self) -> Option<TokenUsage> {
        if self.prompt_tokens.is_none() && self.completion_tokens.is_none() {
            return None;
        }
        Some(TokenUsage {
            prompt_tokens: self.prompt_tokens.unwrap_or(0),
            completion_tokens: self.completion_tokens.unwrap_or(0),
        })
    }
}

#[derive(Deserialize)]
struct Chunk {
    usage: Option<Usage>,
    #[serde(default)]
    choices: Vec<IgnoredAny>,
}

impl Scanner {
    pub(super) fn new(hide_usage: bool) -> Self {
        Self { hide_usage, ..Self::default() }
    }

    /// Takes the next bytes of the stream, and gives what is passed on now: mostly the same ones, sometimes none.
    pub(super) fn feed(&mut self, frame: Bytes) -> Bytes {
        let data = if self.held.is_empty() {
            frame.clone()
        } else {
            let mut joined = mem::take(&mut self.held);
            joined.extend_from_slice(&frame);
            Bytes::from(joined)
        };
        let mut at = 0;
        if self.skipping {
            let Some(end) = memchr(b'\n', &data) else {
                self.text_bytes += data.len() as u64;
                return frame;
            };
            self.skipping = false;
            at = end + 1;
        }
        let mut hidden: Vec<Range<usize>> = Vec::new();
        while let Some(length) = memchr(b'\n', &data[at..]) {
            let line = at..at + length + 1;
            at = line.end;
            if self.inspect(&data[line.clone()]) {
                hidden.push(line);
            }
        }
        let rest = &data[at..];
        let mut passed = data.len();
        if rest.len() > LINE_MAX {
            (self.skipping, self.began) = (true, true);
            self.text_bytes += rest.len() as u64;
        } else if !rest.is_empty() {
            self.held = rest.to_vec();
            passed = at;
        }
        if !self.hide_usage {
            return frame;
        }
        without(&data.slice(..passed), &hidden)
    }

    /// What is left at the stream's end: a last line without its end.
    pub(super) fn finish(&mut self) -> Bytes {
        let line = mem::take(&mut self.held);
        let hidden = self.inspect(&line);
        if hidden || !self.hide_usage { Bytes::new() } else { line.into() }
    }

    /// Reads one line. Returns whether it is taken out.
    fn inspect(&mut self, line: &[u8]) -> bool {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let swallow = mem::take(&mut self.swallow);
        if line.is_empty() {
            return swallow;
        }
        let Some(data) = line.strip_prefix(b"data:") else { return false };
        let data = data.trim_ascii();
        self.began = true;
        if data == b"[DONE]" {
            self.done = true;
            return false;
        }
        self.error |= tells_of_an_error(data);
        self.text_bytes += text_bytes(data);
        if !has_usage(data) {
            return false;
        }
        let Ok(chunk) = serde_json::from_slice::<Chunk>(data) else { return false };
        let Some(usage) = chunk.usage.and_then(Usage::tokens) else { return false };
        self.usage = Some(usage);
        // A usage beside a piece of the answer stays there: bots do not mind.
        self.swallow = self.hide_usage && chunk.choices.is_empty();
        self.swallow
    }
}

fn without(data: &Bytes, hidden: &[Range<usize>]) -> Bytes {
    let Some(first) = hidden.first() else { return data.clone() };
    if hidden.len() == 1 && first.end == data.len() {
        return data.slice(..first.start);
    }
    let mut kept = Vec::with_capacity(data.len());
    let mut from = 0;
    for range in hidden {
        kept.extend_from_slice(&data[from..range.start]);
        from = range.end;
    }
    kept.extend_from_slice(&data[from..]);
    kept.into()
}

/// What an answer, or a piece of one, says beside the answer.
#[derive(Deserialize)]
struct Beside {
    error: Option<Value>,
}

/// Whether it is an error, though its status was 200.
pub(super) fn tells_of_an_error(data: &[u8]) -> bool {
    // Nothing is parsed where the name is not in it: within a text its quotes would be escaped.
    if memmem::find(data, b"\"error\"").is_none() {
        return false;
    }
    match serde_json::from_slice::<Beside>(data).map(|beside| beside.error) {
        Ok(Some(Value::Object(error))) => !error.is_empty(),
        Ok(Some(Value::String(error))) => !error.is_empty(),
        _ => false,
    }
}

/// Whether `"usage":{` stands in it. Within a text its quotes would be escaped.
fn has_usage(data: &[u8]) -> bool {
    const NAME: &[u8] = b"\"usage\"";
    memmem::find(data, NAME).is_some_and(|at| {
        let value = data[at + NAME.len()..].trim_ascii_start();
        value.strip_prefix(b":").is_some_and(|value| value.trim_ascii_start().starts_with(b"{"))
    })
}

/// Bytes of what the model wrote: `content`, `reasoning_content`, and `arguments` of tools.
fn text_bytes(data: &[u8]) -> u64 {
    strings_after(data, b"content\"") + strings_after(data, b"\"arguments\"")
}

fn strings_after(data: &[u8], name: &[u8]) -> u64 {
    let (mut total, mut rest) = (0, data);
    while let Some(at) = memmem::find(rest, name) {
        rest = &rest[at + name.len()..];
        let Some(value) = rest.trim_ascii_start().strip_prefix(b":") else { continue };
        let Some(text) = value.trim_ascii_start().strip_prefix(b"\"") else { continue };
        let length = string_length(text);
        total += length as u64;
        rest = &text[length..];
    }
    total
}

/// Up to the quote that ends it.
fn string_length(text: &[u8]) -> usize {
    let mut at = 0;
    while let Some(found) = memchr2(b'"', b'\\', &text[at..]) {
        at += found;
        if text[at] == b'"' {
            return at;
        }
        at = text.len().min(at + 2);
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const USAGE: &str = "data: {\"id\":\"1\",\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":7,\"total_tokens\":12}}\n\n";

    fn piece(text: &str) -> String {
        format!("data: {}\n\n", json!({"choices": [{"index": 0, "delta": {"content": text}}], "usage": null}))
    }

    fn passed(scanner: &mut Scanner, pieces: &[&[u8]]) -> Vec<u8> {
        let mut out = Vec::new();
        for piece in pieces {
            out.extend_from_slice(&scanner.feed(Bytes::copy_from_slice(piece)));
        }
        out.extend_from_slice(&scanner.finish());
        out
    }

    #[test]
    fn the_usage_is_read_and_taken_out_where_nobody_asked_for_it() {
        let stream = format!("{}{USAGE}data: [DONE]\n\n", piece("hello"));
        let mut scanner = Scanner::new(true);
        let out = passed(&mut scanner, &[stream.as_bytes()]);
        assert_eq!(out, format!("{}data: [DONE]\n\n", piece("hello")).into_bytes());
        assert_eq!(scanner.usage, Some(TokenUsage { prompt_tokens: 5, completion_tokens: 7 }));
        assert!(scanner.done);
        assert_eq!(scanner.text_bytes, 5);
        let mut scanner = Scanner::new(false);
        assert_eq!(passed(&mut scanner, &[stream.as_bytes()]), stream.as_bytes());
    }

    #[test]
    fn a_text_that_looks_like_a_usage_is_a_text() {
        let stream = piece(r#","choices":[],"usage":{"prompt_tokens":1}}"#);
        let mut scanner = Scanner::new(true);
        assert_eq!(passed(&mut scanner, &[stream.as_bytes()]), stream.as_bytes());
        assert_eq!(scanner.usage, None);
    }

    #[test]
    fn a_whole_frame_passes_without_a_copy() {
        let frame = Bytes::from(piece("hello"));
        let mut scanner = Scanner::new(true);
        assert_eq!(scanner.feed(frame.clone()).as_ptr(), frame.as_ptr());
    }

    #[test]
    fn an_error_in_the_stream_is_noticed() {
        for (data, error) in [
            (json!({"error": {"message": "no"}}), true),
            (json!({"id": "1", "choices": [], "error": {"code": 502}}), true),
            (json!({"error": "overloaded"}), true),
            (json!({"error": null, "choices": []}), false),
            (json!({"choices": [{"delta": {"content": "\"error\":{}"}, "finish_reason": "error"}]}), false),
        ] {
            let mut scanner = Scanner::new(true);
            scanner.feed(format!("data: {data}\n\n").into());
            assert_eq!((scanner.began, scanner.error), (true, error), "{data}");
        }
    }

    #[test]
    fn a_comment_is_no_event() {
        let mut scanner = Scanner::new(true);
        scanner.feed(Bytes::from_static(b": keep-alive\n\ndata: {\"choices\""));
        assert!(!scanner.began);
        scanner.feed(Bytes::from_static(b":[]}\n"));
        assert!(scanner.began);
    }

    fn stream() -> impl Strategy<Value = (Vec<(String, bool)>, bool)> {
        let line = prop_oneof![
            6 => any::<String>().prop_map(|text| (piece(&text), false)),
            1 => Just((": keep-alive\n\n".to_owned(), false)),
            1 => Just((piece(&"x".repeat(3 * LINE_MAX)), false)),
            1 => Just(("event: message\r\ndata: {\"choices\":[{\"delta\":{}}]}\r\n\r\n".to_owned(), false)),
            1 => Just((USAGE.to_owned(), true)),
        ];
        (prop::collection::vec(line, 0..12), any::<bool>())
    }

    proptest! {
        #[test]
        fn what_comes_out_does_not_depend_on_where_the_stream_is_cut(
            (lines, ended) in stream(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..30), hide in any::<bool>(),
        ) {
            let mut whole: String = lines.iter().map(|(line, _)| line.as_str()).collect();
            let mut expected: String =
                lines.iter().filter(|(_, usage)| !(hide && *usage)).map(|(line, _)| line.as_str()).collect();
            let end = if ended { "data: [DONE]\n\n" } else { "data: [DONE]" };
            whole.push_str(end);
            expected.push_str(end);
            let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(whole.len())).collect();
            at.extend([0, whole.len()]);
            at.sort_unstable();
            let pieces: Vec<&[u8]> = at.windows(2).map(|pair| &whole.as_bytes()[pair[0]..pair[1]]).collect();
            let mut scanner = Scanner::new(hide);
            let out = passed(&mut scanner, &pieces);
            prop_assert_eq!(String::from_utf8(out).unwrap(), expected);
            prop_assert_eq!(scanner.usage.is_some(), lines.iter().any(|(_, usage)| *usage));
            prop_assert!(scanner.done);
        }
    }
}
