//! `POST /tenants/{tenant}/suspend`

use astrfleet_core::{
    policy::Action,
    tenant::{Event, Tenant},
};
use axum::{Json, extract::State, http::StatusCode, response::IntoResponse};
use serde_json::json;

use crate::{
    app::App,
    extract::{InTenant, etag, may},
    problem::Problem,
};

/// Suspend a tenant
///
/// Its bot is stopped and nothing is accepted for it; everything is kept. Asking twice changes nothing.
#[utoipa::path(
    post, path = "/api/v1/tenants/{tenant}/suspend", tag = "tenants", operation_id = "suspend_tenant",
    params(("tenant" = String, Path, description = "Id or name")),
    responses(
        (status = 200, body = Tenant), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem), (status = 409, body = Problem, description = "It is being erased already"),
    ),
    security(("access_token" = [])),
)]
pub(super) async fn handler(
    State(app): State<App>,
    of: InTenant<may::TenantSuspend>,
) -> Result<impl IntoResponse, Problem> {
    let tenant = app.tenant.happens(&of.tenant.id, Event::Suspended).await?;
    let detail = json!({"status": tenant.status, "erase_at": tenant.erase_at});
    super::audit_both(&app, &of.caller, &tenant.id, Action::TenantSuspend, detail).await?;
    Ok((StatusCode::OK, etag(tenant.version), Json(tenant)))
}
