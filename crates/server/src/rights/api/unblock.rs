//! `DELETE /tenants/{tenant}/blocklist/{block}`

use astrfleet_core::{id::BlockId, policy::Action};
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

/// Hear an end user again
///
/// What was refused or dropped meanwhile does not come back.
#[utoipa::path(
    delete, path = "/api/v1/tenants/{tenant}/blocklist/{block}", tag = "blocklist", operation_id = "blocklist_remove",
    params(("tenant" = String, Path, description = "Id or name"), ("block" = String, Path, description = "`blk_…`")),
    responses(
        (status = 204, description = "Heard again"), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem),
    ),
    security(("access_token" = [])),
)]
pub(super) async fn handler(
    State(app): State<App>,
    of: InTenant<may::BlocklistManage>,
    Path((_tenant, block)): Path<(String, String)>,
) -> Result<StatusCode, Problem> {
    let removed = app.tenant.unblock(&of.tenant.id, &BlockId::parse(&block)?).await?;
    let detail = json!({"blocked": false, "channel": removed.channel});
    app.auth.audit(&of.caller, Some(&of.tenant.id), Action::BlocklistManage, removed.id.as_str(), detail).await?;
    Ok(StatusCode::NO_CONTENT)
}
