//! `DELETE /tenants/{tenant}`

use astrfleet_core::{
    policy::Action,
    tenant::{Event, Tenant},
};
use axum::{Json, extract::State, http::StatusCode, response::IntoResponse};
use serde_json::json;

use crate::{
    app::App,
    extract::{IfMatch, InTenant, etag, may},
    problem::Problem,
};

/// Delete a tenant
///
/// Stops its bot now; it is erased with all of its data at `erase_at`. Until then it can be resumed.
#[utoipa::path(
    delete, path = "/api/v1/tenants/{tenant}", tag = "tenants", operation_id = "delete_tenant",
    params(
        ("tenant" = String, Path, description = "Id or name"),
        ("If-Match" = Option<String>, Header, description = "The `ETag` that was seen"),
    ),
    responses(
        (status = 202, body = Tenant), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem), (status = 409, body = Problem, description = "It is being erased already"),
        (status = 412, body = Problem),
    ),
    security(("access_token" = [])),
)]
pub(super) async fn handler(
    State(app): State<App>,
    of: InTenant<may::TenantDelete>,
    seen: IfMatch,
) -> Result<impl IntoResponse, Problem> {
    seen.check("tenant", app.tenant.current(&of.tenant).await?.version)?;
    let tenant = app.tenant.happens(&of.tenant.id, Event::Deleted).await?;
    let detail = json!({"status": tenant.status, "erase_at": tenant.erase_at});
    super::audit_both(&app, &of.caller, &tenant.id, Action::TenantDelete, detail).await?;
    Ok((StatusCode::ACCEPTED, etag(tenant.version), Json(tenant)))
}
