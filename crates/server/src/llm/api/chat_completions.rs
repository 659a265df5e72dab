//! `POST /llm/v1/chat/completions`

use axum::{
    extract::{Request, State},
    response::Response,
};

use crate::{app::App, llm::error::OpenAiError};

/// Ask a model
///
/// OpenAI's request and answer, streamed or not.
#[utoipa::path(
    post, path = "/llm/v1/chat/completions", tag = "models", operation_id = "chat_completions",
    request_body = Value,
    responses(
        (status = 200, description = "A completion, or a stream of its pieces", body = Value),
        (status = 400, description = "The request cannot be read", body = Value),
        (status = 401, description = "No virtual key of a bot", body = Value),
        (status = 402, description = "The plan's tokens are used up", body = Value),
        (status = 413, description = "The request is too large", body = Value),
        (status = 424, description = "No provider answered: asking again does not help", body = Value),
        (status = 429, description = "Too many calls at the same moment", body = Value),
    ),
    security(("virtual_key" = [])),
)]
pub(in crate::llm) async fn handler(State(app): State<App>, request: Request) -> Result<Response, OpenAiError> {
    let (parts, body) = request.into_parts();
    app.llm.complete(&parts.headers, body).await
}
