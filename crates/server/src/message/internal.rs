//! `GET /internal/v1/live/{tenant}/{message}`: the stream of a message whose queue is here, for a process at which a reader
//! hangs. `POST …/stop`: the end of an answer, for one at which somebody asked for it. Neither asks a third process.

use astrfleet_core::{
    Error,
    id::{MessageId, TenantId},
};
use axum::{
    Json,
    body::Body,
    extract::{Path, State},
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use futures_util::StreamExt;
use serde_json::{Value, json};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{api::position, remote::lines};
use crate::{app::App, internal::FromFleet, problem::Problem};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(live)).routes(routes!(stop))
}

/// The stream of a message, after `Last-Event-ID`.
#[utoipa::path(
    get, path = "/internal/v1/live/{tenant}/{message}", tag = "internal", operation_id = "live",
    params(
        ("tenant" = String, Path, description = "`ten_…`"),
        ("message" = String, Path, description = "`msg_…`"),
        ("Last-Event-ID" = Option<String>, Header, description = "`id` of the last event that the reader has"),
    ),
    responses(
        (status = 200, description = "One event a line", body = String, content_type = "application/x-ndjson"),
        (status = 400, body = Problem), (status = 404, body = Problem, description = "Its queue is not here"),
    ),
)]
async fn live(
    State(app): State<App>,
    _: FromFleet,
    Path((tenant, message)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let (tenant, message) = (TenantId::parse(&tenant)?, MessageId::parse(&message)?);
    let position = position(&headers)?;
    let said = app.message.stream_here(&tenant, &message).await?.ok_or(Error::NotFound { what: "message" })?;
    let body = Body::from_stream(lines(said.follow(position)).map(Ok::<_, std::convert::Infallible>));
    Ok(([("content-type", "application/x-ndjson")], body).into_response())
}

/// Stops a message.
#[utoipa::path(
    post, path = "/internal/v1/live/{tenant}/{message}/stop", tag = "internal", operation_id = "live_stop",
    params(
        ("tenant" = String, Path, description = "`ten_…`"),
        ("message" = String, Path, description = "`msg_…`"),
    ),
    responses(
        (status = 200, description = "It is at its end, or will soon be"),
        (status = 404, body = Problem, description = "Its queue is not here"),
    ),
)]
async fn stop(
    State(app): State<App>,
    _: FromFleet,
    Path((tenant, message)): Path<(String, String)>,
) -> Result<Json<Value>, Problem> {
    let (tenant, message) = (TenantId::parse(&tenant)?, MessageId::parse(&message)?);
    let message = app.store.messages(&tenant).get(&message).await?;
    if !app.message.stop_here(&message).await? {
        return Err(Error::NotFound { what: "message" }.into());
    }
    Ok(Json(json!({})))
}
