//! `DELETE /tenants/{tenant}/invitations/{invitation}`

use astrfleet_core::{id::InvitationId, policy::Action};
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

/// Take an invitation back
///
/// Its token is worth nothing from here on. Whoever took it up before stays a member.
#[utoipa::path(
    delete, path = "/api/v1/tenants/{tenant}/invitations/{invitation}", tag = "members", operation_id = "delete_invitation",
    params(("tenant" = String, Path, description = "Id or name"), ("invitation" = String, Path, description = "`inv_…`")),
    responses(
        (status = 204, description = "Taken back"), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem),
    ),
    security(("access_token" = [])),
)]
pub(super) async fn handler(
    State(app): State<App>,
    of: InTenant<may::InvitationManage>,
    path: Path<(String, String)>,
) -> Result<StatusCode, Problem> {
    let Path((_, invitation)) = path;
    let invitation = InvitationId::parse(&invitation)?;
    app.store.invitations(&of.tenant.id).delete(&invitation).await?;
    let (tenant, detail) = (Some(&of.tenant.id), json!({"taken_back": true}));
    app.auth.audit(&of.caller, tenant, Action::InvitationManage, invitation.as_str(), detail).await?;
    Ok(StatusCode::NO_CONTENT)
}
