//! `POST /tenants/{tenant}/end-users/{end_user}/erase`

use astrfleet_core::policy::Action;
use axum::{
    Json,
    extract::{Path, State},
};
use serde_json::json;

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
/// what the model gateway does where `llm.cache` is on; an entry of the blocklist stays. The answer has a signed statement,
/// which also stands in the audit log.
#[utoipa::path(
    post, path = "/api/v1/tenants/{tenant}/end-users/{end_user}/erase", tag = "sessions", operation_id = "end_user_erase",
    params(
        ("tenant" = String, Path, description = "Id or name"),
        ("end_user" = String, Path, description = "Your own name of them, as in their sessions; of an IM channel, its own id of them"),
    ),
    responses(
        (status = 200, body = ErasedEndUser), (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 403, body = Problem), (status = 404, body = Problem),
    ),
    security(("access_token" = [])),
)]
pub(super) async fn handler(
    State(app): State<App>,
    of: InTenant<may::EndUserErase>,
    Path((_tenant, end_user)): Path<(String, String)>,
) -> Result<Json<ErasedEndUser>, Problem> {
    let erased = erase::erase_end_user(&app, &of.tenant, &end_user).await?;
    let (tenant, detail) = (&of.tenant.id, json!({"statement": erased.statement}));
    app.auth.audit(&of.caller, Some(tenant), Action::EndUserErase, tenant.as_str(), detail).await?;
    Ok(Json(erased))
}
