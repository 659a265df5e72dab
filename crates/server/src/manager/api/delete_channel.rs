//! `DELETE /tenants/{tenant}/channels/{channel}`

use astrfleet_core::policy::Action;
use axum::{
    extract::{Path, State},
    http::StatusCode,
};
use serde_json::json;

use crate::{
    app::App,
    extract::{InTenant, may},
    problem::Problem,
};

/// Delete a channel
///
/// With its secrets.
#[utoipa::path(
    delete, path = "/api/v1/tenants/{tenant}/channels/{channel}", tag = "channels", operation_id = "delete_channel",
    params(("tenant" = String, Path, description = "Id or name"), ("channel" = String, Path, description = "Its id")),
    responses(
        (status = 204), (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem),
        (status = 409, body = Problem, description = "The bot is not ready"), (status = 503, body = Problem),
    ),
    security(("access_token" = [])),
)]
pub(in crate::manager) async fn handler(
    State(app): State<App>,
    of: InTenant<may::ChannelManage>,
    Path(path): Path<(String, String)>,
) -> Result<StatusCode, Problem> {
    app.manager.client(&of.tenant)?.delete_channel(&path.1).await?;
    app.manager.forget_channels(&of.tenant);
    let detail = json!({"did": "delete"});
    app.auth.audit(&of.caller, Some(&of.tenant.id), Action::ChannelManage, &path.1, detail).await?;
    Ok(StatusCode::NO_CONTENT)
}
