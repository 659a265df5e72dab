//! `DELETE /tenants/{tenant}/members/{user}`

use astrfleet_core::{id::UserId, policy::Action, ports::BusEvent};
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

/// Remove a member
///
/// Counts at once. The last owner stays.
#[utoipa::path(
    delete, path = "/api/v1/tenants/{tenant}/members/{user}", tag = "members", operation_id = "remove_member",
    params(("tenant" = String, Path, description = "Id or name"), ("user" = String, Path, description = "`usr_…`")),
    responses(
        (status = 204, description = "Removed"), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem), (status = 409, body = Problem, description = "The last owner stays"),
    ),
    security(("access_token" = [])),
)]
pub(super) async fn handler(
    State(app): State<App>,
    of: InTenant<may::MemberManage>,
    path: Path<(String, String)>,
) -> Result<StatusCode, Problem> {
    let Path((_, user)) = path;
    let user = UserId::parse(&user)?;
    let members = app.store.members(&of.tenant.id);
    let role = members.get(&user).await?.role;
    super::must_grant(&of.standing, [Some(role), None])?;
    members.remove(&user).await?;
    app.auth.publish(BusEvent::MembershipChanged(user.clone()));
    let detail = json!({"removed": role});
    app.auth.audit(&of.caller, Some(&of.tenant.id), Action::MemberManage, user.as_str(), detail).await?;
    Ok(StatusCode::NO_CONTENT)
}
