//! `PUT /tenants/{tenant}/members/{user}`: a member's role.

use astrfleet_core::{
    Error,
    id::UserId,
    member::Member,
    policy::{Action, Role, Standing},
    ports::BusEvent,
};
use axum::{
    Json,
    extract::{Path, State},
};
use serde::Deserialize;
use serde_json::json;

use crate::{
    app::App,
    extract::{Body, InTenant, may},
    problem::Problem,
};

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct MemberRequest {
    /// What they are to be allowed to do.
    role: Role,
}

/// Set a member's role
///
/// Nobody gives or takes more than they have themselves, and the last owner stays one. Members change the roles of members;
/// adding a user who is not one yet takes a platform administrator, or an invitation.
#[utoipa::path(
    put, path = "/api/v1/tenants/{tenant}/members/{user}", tag = "members", operation_id = "put_member",
    params(("tenant" = String, Path, description = "Id or name"), ("user" = String, Path, description = "`usr_…`")),
    request_body = MemberRequest,
    responses(
        (status = 200, body = Member), (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 403, body = Problem), (status = 404, body = Problem),
        (status = 409, body = Problem, description = "The last owner stays one"),
    ),
    security(("access_token" = [])),
)]
pub(super) async fn handler(
    State(app): State<App>,
    of: InTenant<may::MemberManage>,
    path: Path<(String, String)>,
    Body(request): Body<MemberRequest>,
) -> Result<Json<Member>, Problem> {
    let Path((_, user)) = path;
    let user = UserId::parse(&user)?;
    let members = app.store.members(&of.tenant.id);
    let before = match members.get(&user).await {
        Ok(member) => Some(member.role),
        Err(Error::NotFound { .. }) if of.standing == Standing::Platform => None,
        Err(error) => return Err(error.into()),
    };
    super::must_grant(&of.standing, [Some(request.role), before])?;
    members.put(&user, request.role, app.clock.now()).await?;
    app.auth.publish(BusEvent::MembershipChanged(user.clone()));
    let detail = json!({"role": request.role, "before": before});
    app.auth.audit(&of.caller, Some(&of.tenant.id), Action::MemberManage, user.as_str(), detail).await?;
    Ok(Json(members.get(&user).await?))
}
