//! `POST /api/v1/tenants/{tenant}/sessions/{session}/hand-back`: the bot answers again.

use astrfleet_core::{
    policy::Action,
    session::{Event, Session},
};
use axum::{
    Json,
    extract::{Path, State},
};
use serde_json::json;

use super::{Shown, id};
use crate::{
    app::App,
    extract::{InTenant, etag, may},
    problem::Problem,
    session::happen,
};

/// Gives a session back to the bot.
///
/// It answers what comes from now on; what was said meanwhile stays as it is.
#[utoipa::path(
    post, path = "/api/v1/tenants/{tenant}/sessions/{session}/hand-back", tag = "sessions",
    operation_id = "session_hand_back",
    params(
        ("tenant" = String, Path, description = "Id or name"),
        ("session" = String, Path, description = "`ses_…`"),
    ),
    responses(
        (status = 200, body = Session, description = "The bot answers"),
        (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem),
        (status = 409, body = Problem, description = "Its state does not allow this"),
        (status = 412, body = Problem), (status = 429, body = Problem),
    ),
    security(("access_token" = []), ("api_key" = [])),
)]
#[tracing::instrument(skip_all, name = "session_hand_back")]
pub(super) async fn handler(
    State(app): State<App>,
    caller: InTenant<may::SessionWrite>,
    Path((_tenant, session)): Path<(String, String)>,
) -> Result<Shown, Problem> {
    let tenant = &caller.tenant.id;
    let session = happen(&app, tenant, &id(&session)?, Event::HandedBack).await?;
    let detail = json!({"did": "hand_back", "channel": session.channel});
    app.auth.audit(&caller.caller, Some(tenant), Action::SessionWrite, session.id.as_str(), detail).await?;
    Ok((etag(session.version), Json(session)))
}
