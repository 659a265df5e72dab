//! `POST /tenants/{tenant}/resume`

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

/// Resume a tenant
///
/// Serves it again, also out of the grace period of its deletion.
#[utoipa::path(
    post, path = "/api/v1/tenants/{tenant}/resume", tag = "tenants", operation_id = "resume_tenant",
    params(("tenant" = String, Path, description = "Id or name")),
    responses(
        (status = 200, body = Tenant), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem), (status = 409, body = Problem, description = "It is being erased already"),
    ),
    security(("access_token" = [])),
)]
pub(super) async fn handler(
    State(app): State<App>,
    of: InTenant<may::TenantResume>,
) -> Result<impl IntoResponse, Problem> {
    let tenant = app.tenant.happens(&of.tenant.id, Event::Resumed).await?;
    let detail = json!({"status": tenant.status, "erase_at": tenant.erase_at});
    super::audit_both(&app, &of.caller, &tenant.id, Action::TenantResume, detail).await?;
    Ok((StatusCode::OK, etag(tenant.version), Json(tenant)))
}
