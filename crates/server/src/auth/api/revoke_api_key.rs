//! `DELETE /tenants/{tenant}/api-keys/{key}`: a key is taken back.

use astrfleet_core::{id::ApiKeyId, policy::Action};
use axum::{
    extract::{Path, State},
    http::StatusCode,
};
use serde_json::json;

use crate::{
    app::App,
    extract::{InTenant, may},
    problem::Problem,
};

/// Revoke an API key
///
/// It is worth nothing from here on. Revoking it again changes nothing.
#[utoipa::path(
    delete, path = "/api/v1/tenants/{tenant}/api-keys/{key}", tag = "api-keys", operation_id = "revoke_api_key",
    params(("tenant" = String, Path, description = "Id or name"), ("key" = String, Path, description = "`key_…`")),
    responses(
        (status = 204, description = "Revoked"), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem),
    ),
    security(("access_token" = [])),
)]
pub(super) async fn handler(
    State(app): State<App>,
    of: InTenant<may::ApiKeyManage>,
    path: Path<(String, String)>,
) -> Result<StatusCode, Problem> {
    let Path((_, key)) = path;
    let key = ApiKeyId::parse(&key)?;
    app.auth.revoke_api_key(&of.tenant.id, &key).await?;
    let detail = json!({"revoked": true});
    app.auth.audit(&of.caller, Some(&of.tenant.id), Action::ApiKeyManage, key.as_str(), detail).await?;
    Ok(StatusCode::NO_CONTENT)
}
