//! `PATCH /tenants/{tenant}`

use astrfleet_core::{
    Error,
    policy::{Action, Standing},
    tenant::Tenant,
};
use axum::{Json, extract::State, response::IntoResponse};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    app::App,
    extract::{Body, IfMatch, InTenant, etag, may},
    problem::Problem,
    tenant::TenantChange,
};

#[derive(Deserialize, Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TenantPatch {
    /// For people.
    display_name: Option<String>,
    /// Of whoever answers for it; unique, in any case.
    email: Option<String>,
    /// A plan of the configuration. Platform administrators alone.
    plan: Option<String>,
    /// Days for which messages, their files and closed sessions are kept; what is older is deleted. No more than the plan
    /// has. 0: as the plan says.
    #[schema(maximum = 36500)]
    retention_days: Option<u32>,
}

/// Change a tenant
///
/// What is not given stays. Its name is its address: it does not change.
#[utoipa::path(
    patch, path = "/api/v1/tenants/{tenant}", tag = "tenants", operation_id = "change_tenant",
    params(
        ("tenant" = String, Path, description = "Id or name"),
        ("If-Match" = Option<String>, Header, description = "The `ETag` that was seen"),
    ),
    request_body = TenantPatch,
    responses(
        (status = 200, body = Tenant), (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 403, body = Problem), (status = 404, body = Problem),
        (status = 409, body = Problem, description = "The address is taken"), (status = 412, body = Problem),
    ),
    security(("access_token" = [])),
)]
pub(super) async fn handler(
    State(app): State<App>,
    of: InTenant<may::TenantUpdate>,
    seen: IfMatch,
    Body(patch): Body<TenantPatch>,
) -> Result<impl IntoResponse, Problem> {
    if patch.plan.is_some() && of.standing != Standing::Platform {
        return Err(Error::Forbidden { reason: "changing the plan takes a platform administrator".to_owned() }.into());
    }
    let tenant = app.tenant.current(&of.tenant).await?;
    seen.check("tenant", tenant.version)?;
    let detail = json!({"changed": &patch});
    let TenantPatch { display_name, email, plan, retention_days } = patch;
    let tenant = app.tenant.change(tenant, TenantChange { display_name, email, plan, retention_days }).await?;
    app.auth.audit(&of.caller, Some(&tenant.id), Action::TenantUpdate, tenant.id.as_str(), detail).await?;
    Ok((etag(tenant.version), Json(tenant)))
}
