//! `POST /invitations/accept`: somebody becomes a member.

use astrfleet_core::{Error, member::Membership, policy::Action, user::User};
use axum::{Json, extract::State, http::HeaderMap};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    app::App,
    extract::{Anonymous, Body, credential},
    problem::Problem,
    tenant::invitations::{self, Guest},
};

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Acceptance {
    /// The invitation's token.
    #[schema(value_type = String)]
    token: SecretString,
    /// 12 to 256 characters: for whoever has no user yet. Without it, be logged in.
    #[schema(value_type = Option<String>, format = Password)]
    password: Option<SecretString>,
    /// For people.
    display_name: Option<String>,
}

#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct Accepted {
    /// Who it was.
    user: User,
    /// Where, and what they may do there.
    membership: Membership,
}

/// Accept an invitation
///
/// Either logged in as the user whom it is for, or with a password, which makes that user.
#[utoipa::path(
    post, path = "/api/v1/invitations/accept", tag = "members", operation_id = "accept_invitation",
    request_body = Acceptance,
    responses(
        (status = 200, body = Accepted), (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 403, body = Problem, description = "It is for another address"),
        (status = 404, body = Problem, description = "No such invitation"),
        (status = 409, body = Problem, description = "Taken up, expired, or the user exists: log in first"),
    ),
    security((), ("access_token" = [])),
)]
pub(super) async fn handler(
    State(app): State<App>,
    Anonymous(peer): Anonymous,
    headers: HeaderMap,
    Body(request): Body<Acceptance>,
) -> Result<Json<Accepted>, Problem> {
    let guest = match (credential(&headers), request.password) {
        (Some(credential), _) => Guest::Known(app.auth.authenticate(credential, peer).await?),
        (None, Some(password)) => Guest::New { password, display_name: request.display_name },
        (None, None) => {
            return Err(Error::invalid("password", "is needed where nobody is logged in").into());
        }
    };
    let (tenant, user, membership) = invitations::accept(&app, &request.token, guest).await?;
    let detail = json!({"accepted": membership.role});
    let (actor, action) = (user.id.as_str(), Action::InvitationManage);
    app.auth.audit_as(actor, Some(&tenant), action, actor, detail).await?;
    Ok(Json(Accepted { user, membership }))
}
