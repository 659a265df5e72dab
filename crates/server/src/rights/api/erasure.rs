//! `GET /tenants/{tenant}/erasure`

use astrfleet_core::{Error, audit::Entry, id::TenantId, policy::Action};
use axum::{
    Json,
    extract::{Path, State},
};
use serde::Serialize;

use crate::{
    app::App,
    extract::{OnPlatform, may},
    problem::Problem,
};

#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct Erasure {
    /// What was deleted, when, and where the tenant's audit log ended, signed: a JWS, to be verified with
    /// `/.well-known/jwks.json`.
    statement: String,
    /// The entry of the platform's audit log, in whose chain of hashes it stands.
    entry: Entry,
}

/// Show the proof of an erasure
///
/// Of a tenant that is gone: by its id, since its name is gone too.
#[utoipa::path(
    get, path = "/api/v1/tenants/{tenant}/erasure", tag = "tenants", operation_id = "tenant_erasure",
    params(("tenant" = String, Path, description = "`ten_…`")),
    responses(
        (status = 200, body = Erasure), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem, description = "It was not erased"),
    ),
    security(("access_token" = [])),
)]
pub(super) async fn handler(
    State(app): State<App>,
    _by: OnPlatform<may::TenantErase>,
    Path(tenant): Path<String>,
) -> Result<Json<Erasure>, Problem> {
    let none = |_| Error::NotFound { what: "erasure" };
    let tenant = TenantId::parse(&tenant).map_err(none)?;
    let found = app.store.audit(None).find(Action::TenantErase.name(), tenant.as_str()).await;
    let entry = found.map_err(|error| if matches!(error, Error::NotFound { .. }) { none(error) } else { error })?;
    let statement = entry.detail["statement"].as_str().unwrap_or_default().to_owned();
    Ok(Json(Erasure { statement, entry }))
}
