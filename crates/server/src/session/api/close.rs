//! `POST /api/v1/tenants/{tenant}/sessions/{session}/close`: a conversation is over.

use astrfleet_core::session::{CloseReason, Event, Session};
use axum::{
    Json,
    extract::{Path, State},
};

use super::{Shown, id};
use crate::{
    app::App,
    extract::{InTenant, etag, may},
    problem::Problem,
    session::happen,
};

/// Closes a session. What was accepted before is still answered; asking twice is the same as once.
#[utoipa::path(
    post, path = "/api/v1/tenants/{tenant}/sessions/{session}/close", tag = "sessions", operation_id = "session_close",
    params(
        ("tenant" = String, Path, description = "Id or name"),
        ("session" = String, Path, description = "`ses_…`"),
    ),
    responses(
        (status = 200, body = Session, description = "Closed"),
        (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem),
        (status = 412, body = Problem), (status = 429, body = Problem),
    ),
    security(("access_token" = []), ("api_key" = [])),
)]
#[tracing::instrument(skip_all, name = "session_close")]
pub(super) async fn handler(
    State(app): State<App>,
    caller: InTenant<may::SessionWrite>,
    Path((_tenant, session)): Path<(String, String)>,
) -> Result<Shown, Problem> {
    let closed = happen(&app, &caller.tenant.id, &id(&session)?, Event::Closed(CloseReason::Closed)).await?;
    Ok((etag(closed.version), Json(closed)))
}
