//! `POST /tenants`: a tenant with a bot of its own.

use astrfleet_core::{
    id::InstanceId,
    instance::{Desired, Observed},
    policy::Action,
    tenant::Tenant,
};
use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    app::App,
    extract::{Body, OnPlatform, etag, may},
    problem::Problem,
    tenant::NewTenant,
};

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TenantRequest {
    /// A DNS label, unique: also the host of its bot's dashboard.
    #[schema(example = "acme", pattern = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
    name: String,
    /// Of whoever answers for it; unique, in any case. A user with this address becomes its owner.
    #[schema(example = "ada@example.com")]
    email: String,
    /// For people; the name where it is not given.
    display_name: Option<String>,
    /// A plan of the configuration; the default one where it is not given.
    #[schema(example = "free")]
    plan: Option<String>,
}

#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct CreatedTenant {
    #[serde(flatten)]
    tenant: Tenant,
    /// Its bot, which is being made: `GET …/instance` shows how far it is, `…/instance/events` tells each step.
    instance: CreatedInstance,
}

#[derive(Serialize, utoipa::ToSchema)]
struct CreatedInstance {
    /// `bot_…`
    id: InstanceId,
    /// What is wanted.
    desired: Desired,
    /// What is seen.
    observed: Observed,
    /// Why it is in this state.
    reason: String,
}

/// Create a tenant
///
/// Answers at once; its bot is started after that.
#[utoipa::path(
    post, path = "/api/v1/tenants", tag = "tenants", operation_id = "create_tenant",
    request_body = TenantRequest,
    responses(
        (status = 201, body = CreatedTenant), (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 403, body = Problem), (status = 409, body = Problem, description = "The name or the address is taken"),
    ),
    security(("access_token" = [])),
)]
pub(super) async fn handler(
    State(app): State<App>,
    by: OnPlatform<may::TenantCreate>,
    Body(request): Body<TenantRequest>,
) -> Result<impl IntoResponse, Problem> {
    let TenantRequest { name, email, display_name, plan } = request;
    let (tenant, instance) = app.tenant.create(NewTenant { name, email, display_name, plan }).await?;
    let (target, action) = (tenant.id.as_str(), Action::TenantCreate);
    let detail = json!({"name": tenant.name, "email": tenant.email, "plan": tenant.plan});
    app.auth.audit(&by.caller, Some(&tenant.id), action, target, detail).await?;
    // The platform's own log outlives the tenant: it does not say who they are.
    app.auth.audit(&by.caller, None, action, target, json!({"plan": tenant.plan})).await?;
    let instance = CreatedInstance {
        id: instance.id,
        desired: instance.desired,
        observed: instance.observed,
        reason: instance.reason,
    };
    let location = format!("/api/v1/tenants/{}", tenant.name);
    let tag = etag(tenant.version);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], tag, Json(CreatedTenant { tenant, instance })))
}
