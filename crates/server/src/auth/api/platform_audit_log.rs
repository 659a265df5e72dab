//! `GET /audit-log`: who did what with the platform.

use astrfleet_core::{audit::Entry, page::Page};
use axum::{Json, extract::State};

use crate::{
    app::App,
    extract::{OnPlatform, PageParams, PageQuery, may},
    problem::Problem,
};

/// Show the platform's audit log
///
/// The newest first: users, and the beginnings and ends of tenants.
#[utoipa::path(
    get, path = "/api/v1/audit-log", tag = "audit", operation_id = "list_platform_audit_log",
    params(PageParams),
    responses(
        (status = 200, body = Page<Entry>), (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 403, body = Problem),
    ),
    security(("access_token" = [])),
)]
pub(super) async fn handler(
    State(app): State<App>,
    _: OnPlatform<may::PlatformAuditRead>,
    PageQuery(page): PageQuery,
) -> Result<Json<Page<Entry>>, Problem> {
    Ok(Json(app.auth.audit_log(None, &page).await?))
}
