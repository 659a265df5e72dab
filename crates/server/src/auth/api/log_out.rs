//! `POST /auth/logout`: this login ends.

use astrfleet_core::{Error, policy::Caller};
use axum::{extract::State, http::StatusCode};

use crate::{app::App, extract::Authenticated, problem::Problem};

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
pub(super) async fn handler(
    State(app): State<App>,
    Authenticated(caller): Authenticated,
) -> Result<StatusCode, Problem> {
    match caller {
        Caller::User { login: Some(login), .. } => app.auth.end_login(&login).await?,
        // The local administrator's credential is no login: there is nothing to end.
        Caller::User { login: None, .. } => {}
        Caller::Key { .. } => {
            let reason = "an API key does not log out: a tenant admin can revoke it".to_owned();
            return Err(Error::Forbidden { reason }.into());
        }
    }
    Ok(StatusCode::NO_CONTENT)
}
