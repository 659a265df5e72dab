//! `GET /tenants/{tenant}/api-keys/{key}`

use astrfleet_core::{api_key::ApiKey, id::ApiKeyId};
use axum::{
    Json,
    extract::{Path, State},
};

use crate::{
    app::App,
    extract::{InTenant, may},
    problem::Problem,
};

/// Show an API key
///
/// Without its secret, which was shown when it was made.
#[utoipa::path(
    get, path = "/api/v1/tenants/{tenant}/api-keys/{key}", tag = "api-keys", operation_id = "get_api_key",
    params(("tenant" = String, Path, description = "Id or name"), ("key" = String, Path, description = "`key_…`")),
    responses(
        (status = 200, body = ApiKey), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem),
    ),
    security(("access_token" = [])),
)]
pub(super) async fn handler(
    State(app): State<App>,
    of: InTenant<may::ApiKeyManage>,
    path: Path<(String, String)>,
) -> Result<Json<ApiKey>, Problem> {
    let Path((_, key)) = path;
    Ok(Json(app.store.api_keys(&of.tenant.id).get(&ApiKeyId::parse(&key)?).await?))
}
