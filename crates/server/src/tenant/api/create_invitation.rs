//! `POST /tenants/{tenant}/invitations`

use astrfleet_core::{
    Error,
    member::Invitation,
    policy::{Action, Caller, Role},
};
use axum::{Json, extract::State, http::StatusCode, response::IntoResponse};
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    app::App,
    extract::{Body, InTenant, may},
    problem::Problem,
    tenant::invitations,
};

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct InvitationRequest {
    /// Whom it is for.
    #[schema(example = "grace@example.com")]
    email: String,
    /// What they will be allowed to do.
    role: Role,
}

#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct CreatedInvitation {
    #[serde(flatten)]
    invitation: Invitation,
    /// For `POST /api/v1/invitations/accept`. Shown this once: bring it to whom it is for.
    token: String,
}

/// Invite somebody
///
/// Nobody gives more than they have themselves. The token is in this answer and nowhere else.
#[utoipa::path(
    post, path = "/api/v1/tenants/{tenant}/invitations", tag = "members", operation_id = "create_invitation",
    params(("tenant" = String, Path, description = "Id or name")),
    request_body = InvitationRequest,
    responses(
        (status = 201, body = CreatedInvitation), (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 403, body = Problem), (status = 404, body = Problem),
    ),
    security(("access_token" = [])),
)]
pub(super) async fn handler(
    State(app): State<App>,
    of: InTenant<may::InvitationManage>,
    Body(request): Body<InvitationRequest>,
) -> Result<impl IntoResponse, Problem> {
    let Caller::User { id: by, .. } = &of.caller else {
        return Err(Error::Forbidden { reason: "an API key invites nobody: log in".to_owned() }.into());
    };
    of.tenant.must_be_served()?;
    super::must_grant(&of.standing, [Some(request.role), None])?;
    let (invitation, token) = invitations::invite(&app, &of.tenant.id, by, &request.email, request.role).await?;
    let detail = json!({"invited": invitation.email, "role": invitation.role});
    app.auth.audit(&of.caller, Some(&of.tenant.id), Action::InvitationManage, invitation.id.as_str(), detail).await?;
    Ok((StatusCode::CREATED, Json(CreatedInvitation { invitation, token: token.expose_secret().to_owned() })))
}
