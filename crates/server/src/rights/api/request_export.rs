//! `POST /tenants/{tenant}/exports`

use astrfleet_core::{export::Export, policy::Action};
use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
};
use serde_json::json;

use crate::{
    app::App,
    extract::{InTenant, may},
    problem::Problem,
    rights::export,
};

/// Ask for an export
///
/// Of everything that is stored of the tenant, as one archive (tar under Zstandard). Answers at once; the archive is
/// made after that, and kept for some days. Secrets are not in it, nor is the bot's own data.
#[utoipa::path(
    post, path = "/api/v1/tenants/{tenant}/exports", tag = "exports", operation_id = "export_request",
    params(("tenant" = String, Path, description = "Id or name")),
    responses(
        (status = 202, body = Export, description = "`Location` says where to look"), (status = 401, body = Problem),
        (status = 403, body = Problem), (status = 404, body = Problem),
        (status = 409, body = Problem, description = "One is being made, or too many are kept"),
    ),
    security(("access_token" = [])),
)]
pub(super) async fn handler(
    State(app): State<App>,
    of: InTenant<may::TenantExport>,
) -> Result<impl IntoResponse, Problem> {
    let tenant = &of.tenant.id;
    let export = export::request(&app, tenant, of.caller.actor()).await?;
    app.auth.audit(&of.caller, Some(tenant), Action::TenantExport, export.id.as_str(), json!({"asked": true})).await?;
    let location = format!("/api/v1/tenants/{tenant}/exports/{}", export.id);
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, location)], Json(export)))
}
