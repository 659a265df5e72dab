//! `POST /auth/logout`: this login ends.

use axum::{extract::State, http::StatusCode};

use crate::{app::App, extract::Person, problem::Problem};

/// Log out
///
/// Ends this login: its access and refresh tokens are worth nothing from here on. Others of the same user go on.
#[utoipa::path(
    post, path = "/api/v1/auth/logout", tag = "auth", operation_id = "log_out",
    responses(
        (status = 204, description = "The login is ended"),
        (status = 401, body = Problem),
        (status = 403, body = Problem, description = "An API key does not log out: revoke it instead"),
    ),
    security(("access_token" = [])),
)]
pub(super) async fn handler(State(app): State<App>, person: Person) -> Result<StatusCode, Problem> {
    // The local administrator's credential is no login: there is nothing to end.
    if let Some(login) = person.login {
        app.auth.end_login(&login).await?;
    }
    Ok(StatusCode::NO_CONTENT)
}
