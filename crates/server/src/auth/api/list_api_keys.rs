//! `GET /tenants/{tenant}/api-keys`

use astrfleet_core::{api_key::ApiKey, page::Page};
use axum::{Json, extract::State};

use crate::{
    app::App,
    extract::{InTenant, PageParams, PageQuery, may},
    problem::Problem,
};

/// List API keys
///
/// The newest last, revoked ones too. Secrets are never shown again.
#[utoipa::path(
    get, path = "/api/v1/tenants/{tenant}/api-keys", tag = "api-keys", operation_id = "list_api_keys",
    params(("tenant" = String, Path, description = "Id or name"), PageParams),
    responses(
        (status = 200, body = Page<ApiKey>), (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 403, body = Problem), (status = 404, body = Problem),
    ),
    security(("access_token" = [])),
)]
pub(super) async fn handler(
    State(app): State<App>,
    of: InTenant<may::ApiKeyManage>,
    PageQuery(page): PageQuery,
) -> Result<Json<Page<ApiKey>>, Problem> {
    Ok(Json(app.store.api_keys(&of.tenant.id).list(&page).await?))
}
