//! `DELETE /tenants/{tenant}/exports/{export}`

use astrfleet_core::{id::ExportId, policy::Action};
use axum::{
    extract::{Path, State},
    http::StatusCode,
};
use serde_json::json;

use crate::{
    app::App,
    extract::{InTenant, may},
    problem::Problem,
    rights::export,
};

/// Delete an export
///
/// With its archive. One that is being made comes to nothing.
#[utoipa::path(
    delete, path = "/api/v1/tenants/{tenant}/exports/{export}", tag = "exports", operation_id = "export_delete",
    params(("tenant" = String, Path, description = "Id or name"), ("export" = String, Path, description = "`exp_…`")),
    responses(
        (status = 204, description = "Deleted"), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem),
    ),
    security(("access_token" = [])),
)]
pub(super) async fn handler(
    State(app): State<App>,
    of: InTenant<may::TenantExport>,
    Path((_tenant, export)): Path<(String, String)>,
) -> Result<StatusCode, Problem> {
    let (tenant, id) = (&of.tenant.id, ExportId::parse(&export)?);
    export::delete(&app, tenant, &id).await?;
    app.auth.audit(&of.caller, Some(tenant), Action::TenantExport, id.as_str(), json!({"deleted": true})).await?;
    Ok(StatusCode::NO_CONTENT)
}
