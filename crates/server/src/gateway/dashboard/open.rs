//! `POST /tenants/{tenant}/instance/open`: a link to the bot's own dashboard.

use astrfleet_core::{
    Error,
    policy::{Action, Caller},
};
use axum::{Json, extract::State};
use serde::Serialize;
use serde_json::json;

use super::tickets::{LIFETIME, Ticket};
use crate::{
    app::App,
    extract::{InTenant, may},
    problem::Problem,
};

#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct DashboardLink {
    /// For one use, by whoever opens it first.
    #[schema(example = "http://acme.localhost:8000/_astrfleet/open?ticket=…")]
    url: String,
    /// Until then.
    expires_in_s: u64,
}

/// A link to the bot's own dashboard
///
/// For one use, within a minute. It leads to the bot's own host, where it becomes a cookie for that host alone.
#[utoipa::path(
    post, path = "/api/v1/tenants/{tenant}/instance/open", tag = "instance", operation_id = "open_instance",
    params(("tenant" = String, Path, description = "Id or name")),
    responses(
        (status = 200, body = DashboardLink), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem), (status = 429, body = Problem),
    ),
    security(("access_token" = [])),
)]
pub(crate) async fn handler(
    State(app): State<App>,
    caller: InTenant<may::InstanceOpen>,
) -> Result<Json<DashboardLink>, Problem> {
    let InTenant { tenant, caller, .. } = caller;
    tenant.must_be_served()?;
    let Caller::User { id, login, .. } = &caller else {
        return Err(Error::Forbidden { reason: "this is for people: log in".to_owned() }.into());
    };
    app.auth.audit(&caller, Some(&tenant.id), Action::InstanceOpen, tenant.id.as_str(), json!({})).await?;
    let ticket = Ticket { tenant: tenant.id.clone(), user: id.clone(), login: login.clone() };
    let secret = app.gateway.dashboards.tickets.issue(&*app.rng, ticket, app.clock.now());
    Ok(Json(DashboardLink {
        url: format!("{}/_astrfleet/open?ticket={secret}", app.gateway.dashboard_url(&tenant.name)),
        expires_in_s: LIFETIME.as_secs(),
    }))
}
