//! `POST /tenants/{tenant}/end-users/{end_user}/erase`

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};

use crate::{
    app::App,
    extract::{InTenant, may},
    problem::Problem,
    rights::erase::{self, ErasedEndUser},
};

/// Erase an end user
///
/// Everything that they said and were told, with its files, on every channel: their sessions, and what they wrote in groups.
/// Exports that were made before are deleted, since they have it too. What the bot itself remembers is not in reach, nor
/// what the model gateway does where `llm.cache` is on; an entry of the blocklist stays, without its reason. The answer has
/// a signed statement, which also stands in the audit log. What takes long goes on by itself, and what broke off goes on
/// when it is asked for again: `run` says how often it was begun, and the numbers are those of the last time.
#[utoipa::path(
    post, path = "/api/v1/tenants/{tenant}/end-users/{end_user}/erase", tag = "sessions", operation_id = "end_user_erase",
    params(
        ("tenant" = String, Path, description = "Id or name"),
        ("end_user" = String, Path, description = "Your own name of them, as in their sessions; of an IM channel, its own id of them"),
    ),
    responses(
        (status = 200, body = ErasedEndUser),
        (status = 202, description = "It goes on: the statement will stand in the audit log"),
        (status = 400, body = Problem), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem),
    ),
    security(("access_token" = [])),
)]
pub(super) async fn handler(
    State(app): State<App>,
    of: InTenant<may::EndUserErase>,
    Path((_tenant, end_user)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let erased = erase::erase_end_user(&app, of, end_user).await?;
    Ok(erased.map_or_else(|| StatusCode::ACCEPTED.into_response(), |erased| Json(erased).into_response()))
}
