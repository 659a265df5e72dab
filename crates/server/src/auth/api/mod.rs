//! One endpoint a file.

mod audit_log;
mod change_password;
mod create_api_key;
mod create_user;
mod get_api_key;
mod jwks;
mod list_api_keys;
mod list_users;
mod log_in;
mod log_out;
mod me;
mod patch_user;
mod platform_audit_log;
mod refresh;
mod revoke_api_key;

use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{app::App, auth::Login};

/// What somebody gets who logs in.
#[derive(serde::Serialize, utoipa::ToSchema)]
pub(super) struct LoginAnswer {
    /// To be sent as `Authorization: Bearer …`.
    access_token: String,
    /// For `POST /api/v1/auth/refresh`; good for one use.
    refresh_token: String,
    /// How many seconds the access token is good for.
    #[schema(example = 900)]
    expires_in: u64,
}

impl From<Login> for LoginAnswer {
    fn from(login: Login) -> Self {
        use secrecy::ExposeSecret;
        Self {
            access_token: login.access_token.expose_secret().to_owned(),
            refresh_token: login.refresh_token.expose_secret().to_owned(),
            expires_in: login.expires_in_s,
        }
    }
}

/// The routes of this folder.
pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(log_in::handler))
        .routes(routes!(refresh::handler))
        .routes(routes!(log_out::handler))
        .routes(routes!(me::handler))
        .routes(routes!(change_password::handler))
        .routes(routes!(jwks::handler))
        .routes(routes!(list_users::handler, create_user::handler))
        .routes(routes!(patch_user::handler))
        .routes(routes!(list_api_keys::handler, create_api_key::handler))
        .routes(routes!(get_api_key::handler, revoke_api_key::handler))
        .routes(routes!(audit_log::handler))
        .routes(routes!(platform_audit_log::handler))
}
