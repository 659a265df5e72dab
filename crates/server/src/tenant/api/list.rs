//! `GET /tenants`

use astrfleet_core::{page::Page, tenant::Tenant};
use axum::{Json, extract::State};

use crate::{
    app::App,
    extract::{OnPlatform, PageParams, PageQuery, may},
    problem::Problem,
};

/// List tenants
///
/// The newest last.
#[utoipa::path(
    get, path = "/api/v1/tenants", tag = "tenants", operation_id = "list_tenants",
    params(PageParams),
    responses(
        (status = 200, body = Page<Tenant>), (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 403, body = Problem),
    ),
    security(("access_token" = [])),
)]
pub(super) async fn handler(
    State(app): State<App>,
    _: OnPlatform<may::TenantList>,
    PageQuery(page): PageQuery,
) -> Result<Json<Page<Tenant>>, Problem> {
    Ok(Json(app.store.tenants().list(&page).await?))
}
