//! `GET /api/v1/tenants/{tenant}/sessions/{session}/messages/{message}`: one message with its answer.

use astrfleet_core::Error;
use axum::{
    Json,
    extract::{Path, State},
    http::HeaderMap,
    response::{IntoResponse, Response},
};

use super::{Answered, ids, sse};
use crate::{
    app::App,
    extract::{InTenant, may},
    problem::Problem,
};

/// Shows a message with its answer, as far as it came.
///
/// With `Accept: text/event-stream`: its stream, from the beginning or from `Last-Event-ID`, to its end. The last event
/// is told again to whoever has it already.
#[utoipa::path(
    get, path = "/api/v1/tenants/{tenant}/sessions/{session}/messages/{message}", tag = "messages",
    operation_id = "message_get",
    params(
        ("tenant" = String, Path, description = "Id or name"),
        ("session" = String, Path, description = "`ses_…`"),
        ("message" = String, Path, description = "`msg_…`"),
        ("Last-Event-ID" = Option<String>, Header, description = "`id` of the last event that you have"),
    ),
    responses(
        (status = 200, description = "The exchange, or its stream", content(
            (Answered = "application/json"), (String = "text/event-stream"),
        )),
        (status = 400, body = Problem), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem), (status = 429, body = Problem),
    ),
    security(("access_token" = []), ("api_key" = [])),
)]
#[tracing::instrument(skip_all, name = "message_get")]
pub(super) async fn handler(
    State(app): State<App>,
    caller: InTenant<may::MessageRead>,
    Path((_tenant, session, message)): Path<(String, String, String)>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let (session, message) = ids(&session, Some(&message))?;
    let message = message.ok_or(Error::NotFound { what: "message" })?;
    let tenant = &caller.tenant.id;
    let exchange = app.message.find(tenant, &session, &message).await?;
    if sse::wanted(&headers) {
        let stream = app.message.stream(tenant, &message, sse::position(&headers)?).await?;
        return Ok(sse::response(stream));
    }
    Ok(Json(Answered::from(exchange)).into_response())
}
