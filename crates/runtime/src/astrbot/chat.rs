//! Asking a bot. What it streams is told in our words by [`super::answer`]; here is how it is asked and how its stream
//! is read: in pieces, within limits, until it ends.

use std::{collections::VecDeque, pin::Pin};

use astrfleet_core::{
    chat::{ChatEvent, ChatRequest},
    error::{Error, Result},
    ports::ChatStream,
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use reqwest::{Method, header::CONTENT_TYPE};
use serde_json::{Value, json};

use super::{
    answer::Answer,
    client::{Failure, WHAT, escaped},
    connection::Connection,
    jwt::username,
    sse::EventParser,
};

/// Of one event. The largest useful one is the whole text with the model's thoughts; results of tools may be larger.
const EVENT_BYTES_MAX: usize = 4 << 20;

/// Asks, and gives the answer as it comes.
pub(super) async fn ask(bot: &Connection, request: ChatRequest) -> Result<ChatStream> {
    let limits = &bot.shared.limits;
    let asking =
        bot.request_as(&request.end_user, Method::POST, "chat")?.timeout(limits.chat).json(&body(&request)).send();
    let answer = tokio::time::timeout(limits.answer, asking)
        .await
        .map_err(|_| Error::unavailable(WHAT, "it did not begin to answer in time"))?
        .map_err(Failure::from)?;
    let streams = answer
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.starts_with("text/event-stream"));
    if !answer.status().is_success() || !streams {
        bot.data(answer).await?;
        return Err(Error::unavailable(WHAT, "it answered a question with something else than a stream"));
    }
    let reading = Reading {
        bytes: Box::pin(answer.bytes_stream()),
        parser: EventParser::new(EVENT_BYTES_MAX),
        answer: Answer::new(&bot.shared.failure_text, limits.text_bytes_max),
        ready: VecDeque::new(),
        ended: false,
    };
    Ok(stream::unfold(reading, async |mut reading| reading.next().await.map(|event| (event, reading))).boxed())
}

/// Stops the answer that is being given in a session; where none is, nothing is done.
pub(super) async fn stop(bot: &Connection, end_user: &str, session: &str) -> Result<()> {
    let path = format!("chat/sessions/{}/stop", escaped(session));
    match bot.call_as(end_user, Method::POST, &path, None).await {
        Ok(_) => Ok(()),
        // It knows no such session: nothing is being said in it.
        Err(Failure::Refused(words)) if words.contains("not found") => Ok(()),
        Err(failure) => Err(failure.into()),
    }
}

fn body(request: &ChatRequest) -> Value {
    let text = (!request.text.is_empty()).then(|| json!({"type": "plain", "text": request.text}));
    let files = request.attachments.iter().map(|file| json!({"type": file.kind, "attachment_id": file.id}));
    json!({
        "username": username(&request.end_user),
        "session_id": request.session,
        "message": text.into_iter().chain(files).collect::<Vec<_>>(),
        // Widgets of its own web page, which nobody else can draw.
        "flags": {"enable_inline_genui": false},
    })
}

struct Reading {
    bytes: Pin<Box<dyn Stream<Item = reqwest::Result<Bytes>> + Send>>,
    parser: EventParser,
    answer: Answer,
    ready: VecDeque<Result<ChatEvent>>,
    ended: bool,
}

impl Reading {
    async fn next(&mut self) -> Option<Result<ChatEvent>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                self.ended |= event.is_err();
                return Some(event);
            }
            if self.ended {
                return None;
            }
            match self.bytes.next().await {
                Some(Ok(bytes)) => {
                    let Self { parser, answer, ready, .. } = self;
                    parser.feed(&bytes, |data| answer.hear(data, ready));
                }
                Some(Err(error)) => {
                    self.answer.end(&mut self.ready);
                    self.ready.push_back(Err(Failure::from(error).into()));
                }
                None => {
                    self.answer.end(&mut self.ready);
                    self.ended = true;
                }
            }
        }
    }
}
