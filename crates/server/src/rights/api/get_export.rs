//! `GET /tenants/{tenant}/exports/{export}`

use astrfleet_core::{export::Export, id::ExportId};
use axum::{
    Json,
    extract::{Path, State},
};

use crate::{
    app::App,
    extract::{InTenant, may},
    problem::Problem,
};

/// Show an export
///
/// How far it is: `done` of `total` messages and files.
#[utoipa::path(
    get, path = "/api/v1/tenants/{tenant}/exports/{export}", tag = "exports", operation_id = "export_get",
    params(("tenant" = String, Path, description = "Id or name"), ("export" = String, Path, description = "`exp_…`")),
    responses(
        (status = 200, body = Export), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem),
    ),
    security(("access_token" = [])),
)]
pub(super) async fn handler(
    State(app): State<App>,
    of: InTenant<may::TenantExport>,
    Path((_tenant, export)): Path<(String, String)>,
) -> Result<Json<Export>, Problem> {
    Ok(Json(app.store.exports(&of.tenant.id).get(&ExportId::parse(&export)?).await?))
}
