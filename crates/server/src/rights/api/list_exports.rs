//! `GET /tenants/{tenant}/exports`

use astrfleet_core::{export::Export, page::Page};
use axum::{Json, extract::State};

use crate::{
    app::App,
    extract::{InTenant, may},
    problem::Problem,
    rights::export,
};

/// List exports
///
/// The newest first; all that are kept fit on one page.
#[utoipa::path(
    get, path = "/api/v1/tenants/{tenant}/exports", tag = "exports", operation_id = "export_list",
    params(("tenant" = String, Path, description = "Id or name")),
    responses(
        (status = 200, body = Page<Export>), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem),
    ),
    security(("access_token" = [])),
)]
pub(super) async fn handler(
    State(app): State<App>,
    of: InTenant<may::TenantExport>,
) -> Result<Json<Page<Export>>, Problem> {
    let items = app.store.exports(&of.tenant.id).list(export::KEPT_MAX).await?;
    Ok(Json(Page { items, next_cursor: None }))
}
