//! `POST /api/v1/tenants/{tenant}/sessions/{session}/take-over`: a person answers from now on.

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

/// Takes a session over from the bot.
///
/// From now on the bot keeps silent in it: what end users say is stored and held, an answer that it is working on is not
/// sent any more, nor stored (its message is `done` without a reply, and a stream of it ends so), and messages that are
/// posted to a session of an IM channel go out through the bot as a person's.
#[utoipa::path(
    post, path = "/api/v1/tenants/{tenant}/sessions/{session}/take-over", tag = "sessions",
    operation_id = "session_take_over",
    params(
        ("tenant" = String, Path, description = "Id or name"),
        ("session" = String, Path, description = "`ses_…`"),
    ),
    responses(
        (status = 200, body = Session, description = "A person answers"),
        (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem),
        (status = 409, body = Problem, description = "Its state does not allow this"),
        (status = 412, body = Problem), (status = 429, body = Problem),
    ),
    security(("access_token" = []), ("api_key" = [])),
)]
#[tracing::instrument(skip_all, name = "session_take_over")]
pub(super) async fn handler(
    State(app): State<App>,
    caller: InTenant<may::SessionWrite>,
    Path((_tenant, session)): Path<(String, String)>,
) -> Result<Shown, Problem> {
    let tenant = &caller.tenant.id;
    let session = happen(&app, tenant, &id(&session)?, Event::TakenOver).await?;
    let detail = json!({"did": "take_over", "channel": session.channel});
    app.auth.audit(&caller.caller, Some(tenant), Action::SessionWrite, session.id.as_str(), detail).await?;
    Ok((etag(session.version), Json(session)))
}
