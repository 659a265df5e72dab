//! `GET /.well-known/jwks.json`: keys for verifying our tokens.

use axum::{Json, extract::State, http::header, response::IntoResponse};

use crate::{app::App, auth::keys::Jwks};

/// Keys for verifying access tokens
///
/// Ed25519 (RFC 8037). Two while a rotation goes on. Tokens are of the issuer and for the audience `astrfleet`.
#[utoipa::path(
    get, path = "/.well-known/jwks.json", tag = "auth", operation_id = "get_jwks",
    responses((status = 200, body = Jwks, description = "The public keys")),
)]
pub(super) async fn handler(State(app): State<App>) -> impl IntoResponse {
    ([(header::CACHE_CONTROL, "public, max-age=300")], Json(app.auth.jwks()))
}
