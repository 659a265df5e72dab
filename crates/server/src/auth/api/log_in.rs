//! `POST /auth/login`: a person comes in.

use axum::{Json, extract::State};
use secrecy::SecretString;
use serde::Deserialize;

use super::LoginAnswer;
use crate::{
    app::App,
    extract::{Anonymous, Body},
    problem::Problem,
};

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LoginRequest {
    /// In any case.
    #[schema(example = "ada@example.com")]
    email: String,
    /// 12 to 256 characters.
    #[schema(value_type = String, format = Password)]
    password: SecretString,
}

/// Log in
///
/// After too many failures of one address, or from one place, one has to wait.
#[utoipa::path(
    post, path = "/api/v1/auth/login", tag = "auth", operation_id = "log_in",
    request_body = LoginRequest,
    responses(
        (status = 200, body = LoginAnswer, description = "An access token, and a refresh token for the next one"),
        (status = 400, body = Problem),
        (status = 401, body = Problem, description = "The address or the password is wrong"),
        (status = 429, body = Problem, description = "Too many failures: wait for `retry_after_s`"),
    ),
)]
pub(super) async fn handler(
    State(app): State<App>,
    Anonymous(peer): Anonymous,
    Body(request): Body<LoginRequest>,
) -> Result<Json<LoginAnswer>, Problem> {
    let login = app.auth.log_in(&request.email, request.password, peer).await?;
    Ok(Json(login.into()))
}
