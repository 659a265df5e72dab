//! `GET /tenants/{tenant}/audit-log`: who did what with a tenant.

use astrfleet_core::{audit::Entry, page::Page};
use axum::{Json, extract::State};

use crate::{
    app::App,
    extract::{InTenant, PageParams, PageQuery, may},
    problem::Problem,
};

/// Show a tenant's audit log
///
/// The newest first. Each entry carries the hash of the one before it: none can be changed or taken out unnoticed.
#[utoipa::path(
    get, path = "/api/v1/tenants/{tenant}/audit-log", tag = "audit", operation_id = "list_audit_log",
    params(("tenant" = String, Path, description = "Id or name"), PageParams),
    responses(
        (status = 200, body = Page<Entry>), (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 403, body = Problem), (status = 404, body = Problem),
    ),
    security(("access_token" = [])),
)]
pub(super) async fn handler(
    State(app): State<App>,
    of: InTenant<may::AuditRead>,
    PageQuery(page): PageQuery,
) -> Result<Json<Page<Entry>>, Problem> {
    Ok(Json(app.auth.audit_log(Some(&of.tenant.id), &page).await?))
}
