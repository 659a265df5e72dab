//! `POST /api/v1/tenants/{tenant}/sessions/{session}/messages`: an end user says something.

use astrfleet_core::{Error, id::AttachmentId, message::Exchange};
use axum::{
    Json,
    extract::{Path, Query, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Deserialize;

use super::{Answered, ids, sse};
use crate::{
    app::App,
    config::seconds,
    context,
    extract::{Body, InTenant, may},
    message::accept::{TakenIn, Words},
    problem::Problem,
};

const DEFAULT_WAIT_S: u64 = 60;
const MAX_WAIT_S: u64 = 300;

/// What is said.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewMessage {
    /// 1 byte to 32 KiB; may be empty where something is attached.
    #[serde(default)]
    text: String,
    /// At most 10, uploaded before.
    #[serde(default)]
    attachments: Vec<AttachmentId>,
}

#[derive(Deserialize)]
pub(super) struct Waiting {
    wait: Option<String>,
}

/// Sends a message.
///
/// With `Accept: text/event-stream` the answer comes as it is given: events `accepted`, `state`, `delta`, `attachment`,
/// and at the end `done`, `failed` or `interrupted`. Otherwise the finished exchange is answered, or 202 and the
/// message's address when it takes longer than `wait` seconds. Either way the message is durable first and is answered
/// even if you hang up. With an `Idempotency-Key`, sending it again gives the same exchange: streamed from its
/// beginning, or from `Last-Event-ID`.
#[utoipa::path(
    post, path = "/api/v1/tenants/{tenant}/sessions/{session}/messages", tag = "messages", operation_id = "message_send",
    params(
        ("tenant" = String, Path, description = "Id or name"),
        ("session" = String, Path, description = "`ses_…`"),
        ("wait" = Option<u64>, Query, maximum = 300, description = "Seconds to wait for the answer, 0 to 300; without it 60"),
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 255 visible ASCII characters"),
        ("Last-Event-ID" = Option<String>, Header, description = "`id` of the last event that you have"),
    ),
    request_body = NewMessage,
    responses(
        (status = 200, description = "The exchange at its end, or its stream", content(
            (Answered = "application/json"), (String = "text/event-stream"),
        )),
        (status = 202, body = Answered, description = "Not answered yet: `Location` says where to look"),
        (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 402, body = Problem, description = "The plan's messages of today are used up"),
        (status = 403, body = Problem), (status = 404, body = Problem),
        (status = 409, body = Problem, description = "The session is closed"),
        (status = 422, body = Problem, description = "The `Idempotency-Key` was used for something else"),
        (status = 429, body = Problem, description = "Too many messages wait for this bot"),
        (status = 503, body = Problem),
    ),
    security(("access_token" = []), ("api_key" = [])),
)]
#[tracing::instrument(skip_all, name = "message_send")]
pub(super) async fn handler(
    State(app): State<App>,
    caller: InTenant<may::MessageWrite>,
    Path((_tenant, session)): Path<(String, String)>,
    Query(waiting): Query<Waiting>,
    headers: HeaderMap,
    Body(body): Body<NewMessage>,
) -> Result<Response, Problem> {
    let (session, _) = ids(&session, None)?;
    let limit = wait(waiting.wait.as_deref())?;
    let position = sse::position(&headers)?;
    let key = headers
        .get("idempotency-key")
        // What is not text is refused as a key that is not visible ASCII.
        .map(|key| key.to_str().unwrap_or_default().to_owned());
    let words = Words { text: body.text, attachments: body.attachments };
    let tenant = caller.tenant;
    let taken = app.message.accept(tenant.clone(), session.clone(), words, key).await?;
    let id = taken.id().clone();
    context::note(|known| known.message = Some(id.clone()));
    let location = format!("/api/v1/tenants/{}/sessions/{session}/messages/{id}", tenant.id);
    if sse::wanted(&headers) {
        let stream = sse::response(app.message.stream(&tenant.id, &id, position).await?);
        return Ok(([(header::LOCATION, location)], stream).into_response());
    }
    let exchange = match taken {
        // Whoever does not wait is told what was stored: there is nothing to look up.
        TakenIn::Waits(message) if limit == 0 => Exchange { message: *message, reply: None },
        _ => app.message.wait(&tenant.id, &id, seconds(limit)).await?,
    };
    let status = if exchange.message.state.is_final() { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, [(header::LOCATION, location)], Json(Answered::from(exchange))).into_response())
}

fn wait(text: Option<&str>) -> Result<u64, Error> {
    text.map_or(Some(DEFAULT_WAIT_S), |text| text.parse().ok())
        .filter(|seconds| *seconds <= MAX_WAIT_S)
        .ok_or_else(|| Error::invalid("wait", format!("must be 0 to {MAX_WAIT_S} seconds")))
}
