//! `POST /users`: a user with a password.

use astrfleet_core::{policy::Action, user::User};
use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
};
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::json;

use crate::{
    app::App,
    auth::NewUser,
    extract::{Body, OnPlatform, may},
    problem::Problem,
};

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct UserRequest {
    /// Unique, in any case.
    #[schema(example = "ada@example.com")]
    email: String,
    /// 12 to 256 characters.
    #[schema(value_type = String, format = Password)]
    password: SecretString,
    /// For people; the address where it is not given.
    display_name: Option<String>,
    /// Whether the user administers the platform.
    #[serde(default)]
    platform_admin: bool,
}

/// Create a user
///
/// With a password that somebody else chose: they should change it. To let people choose their own, invite them.
#[utoipa::path(
    post, path = "/api/v1/users", tag = "users", operation_id = "create_user",
    request_body = UserRequest,
    responses(
        (status = 201, body = User), (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 403, body = Problem), (status = 409, body = Problem, description = "The address is taken"),
    ),
    security(("access_token" = [])),
)]
pub(super) async fn handler(
    State(app): State<App>,
    by: OnPlatform<may::UserManage>,
    Body(request): Body<UserRequest>,
) -> Result<impl IntoResponse, Problem> {
    let UserRequest { email, password, display_name, platform_admin } = request;
    let user = app.auth.create_user(NewUser { email, password, display_name, platform_admin }).await?;
    let detail = json!({"created": user.email, "platform_admin": platform_admin});
    app.auth.audit(&by.caller, None, Action::UserManage, user.id.as_str(), detail).await?;
    let location = format!("/api/v1/users/{}", user.id);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(user)))
}
