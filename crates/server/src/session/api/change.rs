//! `PATCH /api/v1/tenants/{tenant}/sessions/{session}`: what the tenant keeps with a conversation.

use astrfleet_core::{ports::BusEvent, session::Session};
use axum::{
    Json,
    extract::{Path, State},
};
use serde::Deserialize;
use serde_json::Value;

use super::{Shown, check_metadata, id};
use crate::{
    app::App,
    extract::{Body, IfMatch, InTenant, etag, may},
    problem::Problem,
};

/// What is to be changed.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SessionChange {
    /// Replaces what was there: an object of at most 4 KiB.
    #[schema(value_type = Object)]
    metadata: Value,
}

/// Changes a session's metadata.
#[utoipa::path(
    patch, path = "/api/v1/tenants/{tenant}/sessions/{session}", tag = "sessions", operation_id = "session_change",
    params(
        ("tenant" = String, Path, description = "Id or name"),
        ("session" = String, Path, description = "`ses_…`"),
        ("If-Match" = Option<String>, Header, description = "The `ETag` that you have seen"),
    ),
    request_body = SessionChange,
    responses(
        (status = 200, body = Session, description = "With its new `ETag`"),
        (status = 400, body = Problem), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem), (status = 412, body = Problem), (status = 429, body = Problem),
    ),
    security(("access_token" = []), ("api_key" = [])),
)]
#[tracing::instrument(skip_all, name = "session_change")]
pub(super) async fn handler(
    State(app): State<App>,
    caller: InTenant<may::SessionWrite>,
    Path((_tenant, session)): Path<(String, String)>,
    seen: IfMatch,
    Body(body): Body<SessionChange>,
) -> Result<Shown, Problem> {
    check_metadata(&body.metadata)?;
    let sessions = app.store.sessions(&caller.tenant.id);
    let session = sessions.get(&id(&session)?).await?;
    seen.check("session", session.version)?;
    let changed = sessions.update(&Session { metadata: body.metadata, ..session }).await?;
    app.bus.publish(BusEvent::SessionChanged(changed.tenant_id.clone(), changed.id.clone()));
    Ok((etag(changed.version), Json(changed)))
}
