//! `GET /api/v1/tenants/{tenant}/sessions/{session}/events`: everything that happens in one conversation.

use astrfleet_core::{event::Event, id::SessionId};
use axum::{
    extract::{Path, Request, State},
    response::Response,
};

use super::position::Position;
use crate::{
    app::App,
    context,
    extract::{InTenant, may},
    problem::Problem,
};

/// Follow what happens in a session
///
/// Like the stream of the whole tenant, with the events of one conversation alone.
#[utoipa::path(
    get, path = "/api/v1/tenants/{tenant}/sessions/{session}/events", tag = "events", operation_id = "watch_session",
    params(
        ("tenant" = String, Path, description = "Id or name"),
        ("session" = String, Path, description = "`ses_…`"),
        ("Last-Event-ID" = Option<String>, Header, description = "Goes on after this event"),
        Position,
    ),
    responses(
        (status = 200, content_type = "text/event-stream", body = Event),
        (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 403, body = Problem, description = "Not allowed to, or the tenant is suspended"),
        (status = 404, body = Problem),
        (status = 429, body = Problem, description = "Too many streams are open"),
    ),
    security(("access_token" = []), ("api_key" = [])),
)]
pub(super) async fn handler(
    State(app): State<App>,
    of: InTenant<may::EventRead>,
    Path((_tenant, session)): Path<(String, String)>,
    request: Request,
) -> Result<Response, Problem> {
    let session = SessionId::parse(&session)?;
    context::note(|known| known.session = Some(session.clone()));
    super::follow(app, of, Some(session), request).await
}
