//! `PATCH /users/{user}`: a user's name, password, rights, or end.

use astrfleet_core::{id::UserId, policy::Action, user::User};
use axum::{
    Json,
    extract::{Path, State},
    response::IntoResponse,
};
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::json;

use crate::{
    app::App,
    auth::UserChange,
    extract::{Body, IfMatch, OnPlatform, etag, may},
    problem::Problem,
};

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct UserPatch {
    /// For people.
    display_name: Option<String>,
    /// May not log in; ends all logins.
    disabled: Option<bool>,
    /// Whether the user administers the platform.
    platform_admin: Option<bool>,
    /// Another password, 12 to 256 characters; ends all logins.
    #[schema(value_type = Option<String>, format = Password)]
    password: Option<SecretString>,
}

/// Change a user
///
/// Disabling a user, or giving them another password, ends all their logins at once.
#[utoipa::path(
    patch, path = "/api/v1/users/{user}", tag = "users", operation_id = "change_user",
    params(("user" = String, Path, description = "`usr_…`"), ("If-Match" = Option<String>, Header, description = "The `ETag` that was seen")),
    request_body = UserPatch,
    responses(
        (status = 200, body = User), (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 403, body = Problem), (status = 404, body = Problem),
        (status = 409, body = Problem, description = "Nobody can lock themselves out"), (status = 412, body = Problem),
    ),
    security(("access_token" = [])),
)]
pub(super) async fn handler(
    State(app): State<App>,
    by: OnPlatform<may::UserManage>,
    Path(user): Path<String>,
    seen: IfMatch,
    Body(patch): Body<UserPatch>,
) -> Result<impl IntoResponse, Problem> {
    let user = app.auth.user(&UserId::parse(&user)?).await?;
    seen.check("user", user.version)?;
    let UserPatch { display_name, disabled, platform_admin, password } = patch;
    let detail = json!({
        "display_name": display_name, "disabled": disabled, "platform_admin": platform_admin,
        "password": password.is_some(),
    });
    let change = UserChange { display_name, disabled, platform_admin, password };
    let user = app.auth.change_user(by.caller.actor(), user, change).await?;
    app.auth.audit(&by.caller, None, Action::UserManage, user.id.as_str(), detail).await?;
    Ok((etag(user.version), Json(user)))
}
