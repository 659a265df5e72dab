//! `POST /llm/v1/chat/completions`

use std::convert::Infallible;

use astrfleet_core::Error;
use axum::{
    Json,
    extract::State,
    response::{
        IntoResponse, Response,
        sse::{Event, Sse},
    },
};
use bytes::Bytes;
use futures_util::stream;
use http::HeaderMap;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    app::App,
    llm::{demo, error::OpenAiError},
};

/// What is read of a request; everything else is passed on as it is.
#[derive(Deserialize)]
struct Asked {
    #[serde(default)]
    stream: bool,
    #[serde(default)]
    stream_options: StreamOptions,
    #[serde(default)]
    messages: Vec<Value>,
}

#[derive(Default, Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

/// Ask a model
///
/// OpenAI's request and answer, streamed or not.
#[utoipa::path(
    post, path = "/llm/v1/chat/completions", tag = "models", operation_id = "chat_completions",
    request_body = Value,
    responses((status = 200, body = Value), (status = 400, body = Value), (status = 401, body = Value), (status = 402, body = Value)),
    security(("virtual_key" = [])),
)]
pub(in crate::llm) async fn handler(
    State(app): State<App>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, OpenAiError> {
    app.llm.bot_of(&headers).await?;
    let asked: Asked = serde_json::from_slice(&body).map_err(|error| Error::invalid("body", error.to_string()))?;
    let answer = demo::answer(&asked.messages);
    let prompt: u64 = asked.messages.iter().map(|message| demo::tokens(&message.to_string())).sum();
    let written = demo::tokens(&answer);
    let usage = json!({"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written});
    let id = format!("chatcmpl-{}", app.ids.request());
    let created = app.clock.now().seconds();
    if !asked.stream {
        let message = json!({"role": "assistant", "content": answer});
        return Ok(Json(json!({
            "id": id, "object": "chat.completion", "created": created, "model": demo::MODEL, "usage": usage,
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        }))
        .into_response());
    }
    let chunk = |choices: Value| json!({"id": id, "object": "chat.completion.chunk", "created": created, "model": demo::MODEL, "choices": choices});
    let mut chunks: Vec<String> = vec![
        chunk(json!([{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": null}])).to_string(),
    ];
    for word in answer.split_inclusive(' ') {
        chunks.push(chunk(json!([{"index": 0, "delta": {"content": word}, "finish_reason": null}])).to_string());
    }
    chunks.push(chunk(json!([{"index": 0, "delta": {}, "finish_reason": "stop"}])).to_string());
    if asked.stream_options.include_usage {
        let mut last = chunk(json!([]));
        last["usage"] = usage;
        chunks.push(last.to_string());
    }
    chunks.push("[DONE]".to_owned());
    let events = stream::iter(chunks.into_iter().map(|data| Ok::<_, Infallible>(Event::default().data(data))));
    Ok(Sse::new(events).into_response())
}
