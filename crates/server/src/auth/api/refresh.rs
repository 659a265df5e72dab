//! `POST /auth/refresh`: the next access token.

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
pub(super) struct RefreshRequest {
    /// The one of the answer before.
    #[schema(value_type = String)]
    refresh_token: SecretString,
}

/// Get the next access token
///
/// A refresh token is good for one use. A second use means that two hold it: the whole login is ended.
#[utoipa::path(
    post, path = "/api/v1/auth/refresh", tag = "auth", operation_id = "refresh",
    request_body = RefreshRequest,
    responses(
        (status = 200, body = LoginAnswer, description = "The next pair of tokens"),
        (status = 400, body = Problem),
        (status = 429, body = Problem),
        (status = 401, body = Problem, description = "The login is over: log in again"),
    ),
)]
pub(super) async fn handler(
    State(app): State<App>,
    _: Anonymous,
    Body(request): Body<RefreshRequest>,
) -> Result<Json<LoginAnswer>, Problem> {
    let login = app.auth.refresh(&request.refresh_token).await?;
    Ok(Json(login.into()))
}
