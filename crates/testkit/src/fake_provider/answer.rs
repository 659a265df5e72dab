//! The bytes of one answer in `OpenAI`'s documented protocol, as a list of steps that the server plays: the chunks of a
//! stream (`chat.completion.chunk`, a usage chunk when asked for, `[DONE]`) or one `chat.completion`.
//! Nothing here sends, waits or counts.
//! Source: <https://platform.openai.com/docs/api-reference/chat-streaming>.

use bytes::Bytes;
use serde_json::{Value, json};

use super::behaviour::{Behaviour, HeadersOnly, is_title_request, last_user_text, text_of};

/// One thing to do while answering.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Send(Bytes),
    WaitMs(u64),
    Stall,
    Die,
}

/// What a request asks for, read once.
pub(super) struct Asked {
    pub(super) stream: bool,
    include_usage: bool,
    model: String,
    tool_answer: Option<String>,
    title: bool,
    text: String,
    prompt_tokens: usize,
}

impl Asked {
    /// Reads a request's body, or says what is wrong with it as `OpenAI` would.
    pub(super) fn read(body: &Value) -> Result<Self, &'static str> {
        let Some(model) = body["model"].as_str() else { return Err("you must provide a model parameter") };
        let Some(messages) = body["messages"].as_array().filter(|messages| !messages.is_empty()) else {
            return Err("Missing required parameter: 'messages'.");
        };
        let last = &messages[messages.len() - 1];
        let words =
            messages.iter().map(|message| text_of(&message["content"]).split_whitespace().count()).sum::<usize>();
        Ok(Self {
            stream: body["stream"] == true,
            include_usage: body["stream_options"]["include_usage"] == true,
            model: model.to_owned(),
            tool_answer: (last["role"] == "tool").then(|| text_of(&last["content"])),
            title: is_title_request(body),
            text: last_user_text(body),
            prompt_tokens: words.max(1),
        })
    }

    /// Whether it is `AstrBot`'s request for a title.
    pub(super) fn is_title(&self) -> bool {
        self.title
    }

    /// The behaviour for this request: a title is always answered at once and plainly.
    pub(super) fn behaviour(&self, base: Behaviour) -> Behaviour {
        if self.title {
            return Behaviour::say("A title");
        }
        base.directed_by(&self.text)
    }
}

/// The pieces of the answer's text, as they are streamed.
fn pieces(asked: &Asked, behaviour: &Behaviour) -> Vec<String> {
    let text = match (&behaviour.say, &asked.tool_answer) {
        (Some(say), _) => say.clone(),
        (None, Some(tool)) => format!("echo: {} (the tool said: {tool})", asked.text),
        (None, None) => format!("echo: {}", asked.text),
    };
    let mut pieces: Vec<String> = text.split_inclusive(' ').map(str::to_owned).collect();
    if let Some(bytes) = behaviour.huge_bytes {
        pieces.insert(0, "x".repeat(bytes));
    }
    let Some(wanted) = behaviour.chunks.map(|chunks| chunks.max(1)) else { return pieces };
    if pieces.len() > wanted {
        let tail = pieces.split_off(wanted - 1).concat();
        pieces.push(tail);
    }
    for number in pieces.len()..wanted {
        pieces.push(format!(" {number}"));
    }
    pieces
}

/// The whole answer, step by step. `number` makes ids and times differ between requests.
pub(super) fn steps(asked: &Asked, behaviour: &Behaviour, number: u64) -> Vec<Step> {
    if let Some(instead) = behaviour.headers_only {
        return headers_only(asked, instead);
    }
    let calls_tool = behaviour.tool.as_deref().filter(|_| asked.tool_answer.is_none());
    match (asked.stream, calls_tool) {
        (true, None) => streamed_text(asked, behaviour, number),
        (true, Some(tool)) => streamed_tool_call(asked, behaviour, tool, number),
        (false, None) => {
            let pieces = pieces(asked, behaviour);
            let message = json!({"role": "assistant", "content": pieces.concat(), "refusal": null});
            whole(asked, behaviour, number, &message, "stop", pieces.len())
        }
        (false, Some(tool)) => {
            let message = json!({"role": "assistant", "content": null, "refusal": null,
                "tool_calls": [{"id": call_id(number), "type": "function",
                    "function": {"name": tool, "arguments": arguments(behaviour)}}]});
            whole(asked, behaviour, number, &message, "tool_calls", 1)
        }
    }
}

fn headers_only(asked: &Asked, instead: HeadersOnly) -> Vec<Step> {
    let error = error_body(502, "the fake provider was told to fail late");
    let error = if asked.stream { format!("data: {error}\n\n") } else { error.to_string() };
    match instead {
        HeadersOnly::Silence => vec![Step::Stall],
        HeadersOnly::Death => vec![Step::Send(Bytes::from_static(b": soon\n\n")), Step::Die],
        HeadersOnly::End => Vec::new(),
        HeadersOnly::Error => vec![Step::Send(error.into())],
    }
}

fn streamed_text(asked: &Asked, behaviour: &Behaviour, number: u64) -> Vec<Step> {
    let chunks = Chunks::new(asked, number);
    let pieces = pieces(asked, behaviour);
    let mut steps = vec![chunks.send(r#"{"role":"assistant","content":"","refusal":null}"#, None)];
    for sent in 0..=pieces.len() {
        if behaviour.stall_after.is_some_and(|after| after == sent && sent > 0) {
            steps.push(Step::Stall);
        }
        if behaviour.malformed_after == Some(sent) {
            steps.push(Step::Send(Bytes::from_static(b"data: {\"id\":\"chatcmpl-broken\",\"choices\":[{\n\n")));
        }
        if behaviour.die_after == Some(sent) {
            steps.push(Step::Die);
            return steps;
        }
        let Some(piece) = pieces.get(sent) else { break };
        if behaviour.slow_ms > 0 {
            steps.push(Step::WaitMs(behaviour.slow_ms));
        }
        steps.push(chunks.send(&format!(r#"{{"content":{}}}"#, Value::from(piece.as_str())), None));
    }
    if !behaviour.cut {
        steps.extend(chunks.end("stop", asked, pieces.len()));
    }
    steps
}

fn streamed_tool_call(asked: &Asked, behaviour: &Behaviour, tool: &str, number: u64) -> Vec<Step> {
    let chunks = Chunks::new(asked, number);
    let opening = json!({"role": "assistant", "content": null, "tool_calls": [{"index": 0, "id": call_id(number),
        "type": "function", "function": {"name": tool, "arguments": ""}}]});
    let filling = json!({"tool_calls": [{"index": 0, "function": {"arguments": arguments(behaviour)}}]});
    let mut steps = vec![chunks.send(&opening.to_string(), None), chunks.send(&filling.to_string(), None)];
    steps.extend(chunks.end("tool_calls", asked, 1));
    steps
}

fn whole(asked: &Asked, behaviour: &Behaviour, number: u64, message: &Value, reason: &str, tokens: usize) -> Vec<Step> {
    let body = json!({"id": completion_id(number), "object": "chat.completion", "created": created(number),
        "model": asked.model, "system_fingerprint": "fp_fake", "usage": usage(asked, tokens),
        "choices": [{"index": 0, "message": message, "logprobs": null, "finish_reason": reason}]});
    let mut body = Bytes::from(body.to_string());
    let mut steps = Vec::new();
    if behaviour.stall_after.is_some_and(|after| after > 0) {
        steps.push(Step::Stall);
    }
    if behaviour.die_after.is_some() || behaviour.malformed_after.is_some() {
        body.truncate(body.len() / 2);
    }
    steps.push(Step::Send(body));
    if behaviour.die_after.is_some() {
        steps.push(Step::Die);
    }
    steps
}

/// The parts that all chunks of one stream share.
struct Chunks {
    head: String,
    tail: &'static str,
    include_usage: bool,
}

impl Chunks {
    fn new(asked: &Asked, number: u64) -> Self {
        let head = format!(
            r#"data: {{"id":"{}","object":"chat.completion.chunk","created":{},"model":{},"system_fingerprint":"fp_fake","#,
            completion_id(number),
            created(number),
            Value::from(asked.model.as_str()),
        );
        let tail = if asked.include_usage { ",\"usage\":null}\n\n" } else { "}\n\n" };
        Self { head, tail, include_usage: asked.include_usage }
    }

    fn send(&self, delta: &str, reason: Option<&str>) -> Step {
        let reason = Value::from(reason);
        let Self { head, tail, .. } = self;
        let choice = format!(r#"{{"index":0,"delta":{delta},"logprobs":null,"finish_reason":{reason}}}"#);
        Step::Send(format!("{head}\"choices\":[{choice}]{tail}").into())
    }

    fn end(&self, reason: &str, asked: &Asked, tokens: usize) -> Vec<Step> {
        let mut steps = vec![self.send("{}", Some(reason))];
        if self.include_usage {
            let usage = usage(asked, tokens);
            steps.push(Step::Send(format!("{}\"choices\":[],\"usage\":{usage}}}\n\n", self.head).into()));
        }
        steps.push(Step::Send(Bytes::from_static(b"data: [DONE]\n\n")));
        steps
    }
}

/// One token a word asked, one token a chunk answered: easy to foretell in a test.
fn usage(asked: &Asked, completion_tokens: usize) -> Value {
    json!({"prompt_tokens": asked.prompt_tokens, "completion_tokens": completion_tokens,
        "total_tokens": asked.prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": 0}, "completion_tokens_details": {"reasoning_tokens": 0}})
}

fn arguments(behaviour: &Behaviour) -> &str {
    behaviour.tool_arguments.as_deref().unwrap_or("{}")
}

fn completion_id(number: u64) -> String {
    format!("chatcmpl-fake{number:08}")
}

fn call_id(number: u64) -> String {
    format!("call_fake{number:08}")
}

/// A time that moves with the requests: the clock is not read here.
fn created(number: u64) -> u64 {
    1_795_000_000 + number
}

/// An error in `OpenAI`'s shape.
pub(super) fn error_body(status: u16, message: &str) -> Value {
    let (kind, code) = match status {
        401 => ("invalid_request_error", Some("invalid_api_key")),
        402 => ("insufficient_quota", Some("insufficient_quota")),
        404 => ("invalid_request_error", Some("model_not_found")),
        429 => ("requests", Some("rate_limit_exceeded")),
        500.. => ("server_error", None),
        _ => ("invalid_request_error", None),
    };
    json!({"error": {"message": message, "type": kind, "param": null, "code": code}})
}
