//! `POST /tenants/{tenant}/api-keys`: a key for a program of the tenant.

use astrfleet_core::{
    Error,
    api_key::{ApiKey, Scope},
    policy::{Action, Caller},
    time::Timestamp,
};
use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
};
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    app::App,
    auth::NewApiKey,
    extract::{Body, InTenant, may},
    problem::Problem,
};

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ApiKeyRequest {
    /// For people: what it is for.
    #[schema(example = "web shop")]
    name: String,
    /// What it is to be good for; at least one.
    scopes: Vec<Scope>,
    /// When it is to expire; never where it is not given.
    expires_at: Option<Timestamp>,
}

#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct CreatedApiKey {
    #[serde(flatten)]
    key: ApiKey,
    /// To be sent as `Authorization: Bearer …` or `X-API-Key`. Shown this once.
    #[schema(example = "astr_…")]
    secret: String,
}

/// Create an API key
///
/// Its secret is in this answer and nowhere else: store it at once.
#[utoipa::path(
    post, path = "/api/v1/tenants/{tenant}/api-keys", tag = "api-keys", operation_id = "create_api_key",
    params(("tenant" = String, Path, description = "Id or name")),
    request_body = ApiKeyRequest,
    responses(
        (status = 201, body = CreatedApiKey), (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 403, body = Problem), (status = 404, body = Problem),
        (status = 409, body = Problem, description = "The tenant has too many keys"),
    ),
    security(("access_token" = [])),
)]
pub(super) async fn handler(
    State(app): State<App>,
    of: InTenant<may::ApiKeyManage>,
    Body(request): Body<ApiKeyRequest>,
) -> Result<impl IntoResponse, Problem> {
    let Caller::User { id: by, .. } = &of.caller else {
        return Err(Error::Forbidden { reason: "an API key makes no API keys: log in".to_owned() }.into());
    };
    let ApiKeyRequest { name, scopes, expires_at } = request;
    let tenant = &of.tenant;
    let (key, secret) = app.auth.create_api_key(&tenant.id, by, NewApiKey { name, scopes, expires_at }).await?;
    let detail = json!({"created": key.name, "prefix": key.prefix, "scopes": key.scopes, "expires_at": key.expires_at});
    app.auth.audit(&of.caller, Some(&tenant.id), Action::ApiKeyManage, key.id.as_str(), detail).await?;
    let location = format!("/api/v1/tenants/{}/api-keys/{}", tenant.name, key.id);
    let answer = CreatedApiKey { key, secret: secret.expose_secret().to_owned() };
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(answer)))
}
