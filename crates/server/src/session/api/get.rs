//! `GET /api/v1/tenants/{tenant}/sessions/{session}`: one conversation.

use astrfleet_core::session::Session;
use axum::{
    Json,
    extract::{Path, State},
};

use super::{Shown, id};
use crate::{
    app::App,
    extract::{InTenant, etag, may},
    problem::Problem,
};

/// Shows a session.
#[utoipa::path(
    get, path = "/api/v1/tenants/{tenant}/sessions/{session}", tag = "sessions", operation_id = "session_get",
    params(
        ("tenant" = String, Path, description = "Id or name"),
        ("session" = String, Path, description = "`ses_…`"),
    ),
    responses(
        (status = 200, body = Session, description = "With its `ETag`"),
        (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem),
        (status = 429, body = Problem),
    ),
    security(("access_token" = []), ("api_key" = [])),
)]
#[tracing::instrument(skip_all, name = "session_get")]
pub(super) async fn handler(
    State(app): State<App>,
    caller: InTenant<may::SessionRead>,
    Path((_tenant, session)): Path<(String, String)>,
) -> Result<Shown, Problem> {
    let session = app.store.sessions(&caller.tenant.id).get(&id(&session)?).await?;
    Ok((etag(session.version), Json(session)))
}
