//! `PUT /auth/password`: another password of one's own.

use astrfleet_core::policy::Action;
use axum::{Json, extract::State};
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::json;

use super::LoginAnswer;
use crate::{
    app::App,
    extract::{Body, Peer, Person},
    problem::Problem,
};

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PasswordChange {
    /// The one that is good now.
    #[schema(value_type = String, format = Password)]
    old_password: SecretString,
    /// 12 to 256 characters.
    #[schema(value_type = String, format = Password)]
    new_password: SecretString,
}

/// Change my password
///
/// Ends all logins of this user; the answer has the tokens of a new one.
#[utoipa::path(
    put, path = "/api/v1/auth/password", tag = "auth", operation_id = "change_password",
    request_body = PasswordChange,
    responses(
        (status = 200, body = LoginAnswer, description = "Changed; the tokens of a new login"),
        (status = 400, body = Problem, description = "The old password is wrong, or the new one is no good"),
        (status = 401, body = Problem),
        (status = 403, body = Problem, description = "An API key has no password"),
        (status = 429, body = Problem, description = "Too many failures: wait for `retry_after_s`"),
    ),
    security(("access_token" = [])),
)]
pub(super) async fn handler(
    State(app): State<App>,
    person: Person,
    Peer(peer): Peer,
    Body(request): Body<PasswordChange>,
) -> Result<Json<LoginAnswer>, Problem> {
    let login = app.auth.change_password(&person.id, request.old_password, request.new_password, peer).await?;
    let detail = json!({"changed": ["password"]});
    app.auth.audit(&person.caller, None, Action::UserManage, person.id.as_str(), detail).await?;
    Ok(Json(login.into()))
}
