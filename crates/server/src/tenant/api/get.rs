//! `GET /tenants/{tenant}`

use astrfleet_core::tenant::Tenant;
use axum::{Json, extract::State, response::IntoResponse};

use crate::{
    app::App,
    extract::{InTenant, etag, may},
    problem::Problem,
};

/// Show a tenant
///
/// With an `ETag` for changing it.
#[utoipa::path(
    get, path = "/api/v1/tenants/{tenant}", tag = "tenants", operation_id = "get_tenant",
    params(("tenant" = String, Path, description = "Id or name")),
    responses(
        (status = 200, body = Tenant), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem),
    ),
    security(("access_token" = [])),
)]
pub(super) async fn handler(
    State(app): State<App>,
    of: InTenant<may::TenantRead>,
) -> Result<impl IntoResponse, Problem> {
    let tenant = app.tenant.current(&of.tenant).await?;
    Ok((etag(tenant.version), Json(tenant)))
}
