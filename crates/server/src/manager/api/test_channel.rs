//! `POST /tenants/{tenant}/channels/{channel}/test`

use astrfleet_core::policy::Action;
use axum::{
    Json,
    extract::{Path, State},
};
use serde::Serialize;
use serde_json::json;

use crate::{
    app::App,
    extract::{InTenant, may},
    problem::Problem,
};

/// What came of a test.
#[derive(Serialize, utoipa::ToSchema)]
pub(in crate::manager) struct ChannelTest {
    /// Whether the channel works.
    ok: bool,
    /// What was seen, for people.
    detail: String,
}

/// Test a channel
///
/// Has the bot connect to the IM platform anew, and watches it for a moment.
#[utoipa::path(
    post, path = "/api/v1/tenants/{tenant}/channels/{channel}/test", tag = "channels", operation_id = "test_channel",
    params(("tenant" = String, Path, description = "Id or name"), ("channel" = String, Path, description = "Its id")),
    responses(
        (status = 200, body = ChannelTest), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem), (status = 409, body = Problem, description = "The bot is not ready"),
        (status = 503, body = Problem),
    ),
    security(("access_token" = [])),
)]
pub(in crate::manager) async fn handler(
    State(app): State<App>,
    of: InTenant<may::ChannelManage>,
    Path(path): Path<(String, String)>,
) -> Result<Json<ChannelTest>, Problem> {
    let (ok, detail) = app.manager.client(&of.tenant)?.test_channel(&path.1).await?;
    app.manager.forget_channels(&of.tenant);
    let noted = json!({"did": "test", "ok": ok});
    app.auth.audit(&of.caller, Some(&of.tenant.id), Action::ChannelManage, &path.1, noted).await?;
    Ok(Json(ChannelTest { ok, detail }))
}
