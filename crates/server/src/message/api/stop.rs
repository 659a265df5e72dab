//! `POST /api/v1/tenants/{tenant}/sessions/{session}/messages/{message}/stop`: no more of this answer.

use astrfleet_core::Error;
use axum::{
    Json,
    extract::{Path, State},
};

use super::{Answered, ids};
use crate::{
    app::App,
    extract::{InTenant, may},
    problem::Problem,
};

/// Stops a message.
///
/// What was answered so far becomes the answer, and the message is `done`. Where there was nothing yet, the message is
/// `failed` with the code `stopped`. One that is at its end stays as it is: asking twice is the same as once.
#[utoipa::path(
    post, path = "/api/v1/tenants/{tenant}/sessions/{session}/messages/{message}/stop", tag = "messages",
    operation_id = "message_stop",
    params(
        ("tenant" = String, Path, description = "Id or name"),
        ("session" = String, Path, description = "`ses_…`"),
        ("message" = String, Path, description = "`msg_…`"),
    ),
    responses(
        (status = 200, body = Answered, description = "The exchange as it is now"),
        (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem),
        (status = 429, body = Problem), (status = 503, body = Problem),
    ),
    security(("access_token" = []), ("api_key" = [])),
)]
#[tracing::instrument(skip_all, name = "message_stop")]
pub(super) async fn handler(
    State(app): State<App>,
    caller: InTenant<may::MessageWrite>,
    Path((_tenant, session, message)): Path<(String, String, String)>,
) -> Result<Json<Answered>, Problem> {
    let (session, message) = ids(&session, Some(&message))?;
    let message = message.ok_or(Error::NotFound { what: "message" })?;
    let exchange = app.message.find(&caller.tenant.id, &session, &message).await?;
    Ok(Json(app.message.stop(&exchange.message).await?.into()))
}
