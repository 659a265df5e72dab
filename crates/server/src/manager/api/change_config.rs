//! `PATCH /tenants/{tenant}/instance/config`

use astrfleet_core::policy::Action;
use axum::{Json, extract::State, response::IntoResponse};
use serde_json::{Value, json};

use super::get_config::version;
use crate::{
    app::App,
    extract::{Body, IfMatch, InTenant, etag, may},
    problem::Problem,
};

/// Change the bot's configuration
///
/// A JSON merge patch (RFC 7386): only what it names is changed, `null` removes. Takes effect at once, without a
/// restart. A secret that is sent back as `"***"` stays as it is; what belongs to the platform cannot be changed.
#[utoipa::path(
    patch, path = "/api/v1/tenants/{tenant}/instance/config", tag = "instance", operation_id = "change_instance_config",
    params(
        ("tenant" = String, Path, description = "Id or name"),
        ("If-Match" = Option<String>, Header, description = "The `ETag` of what was read"),
    ),
    request_body = Object,
    responses(
        (status = 200, body = Object, headers(("ETag" = String, description = "For `If-Match` of the next change"))),
        (status = 400, body = Problem), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem), (status = 409, body = Problem, description = "The bot is not ready"),
        (status = 412, body = Problem, description = "It was changed since it was read"), (status = 503, body = Problem),
    ),
    security(("access_token" = []), ("api_key" = [])),
)]
pub(in crate::manager) async fn handler(
    State(app): State<App>,
    of: InTenant<may::InstanceConfigure>,
    if_match: IfMatch,
    Body(patch): Body<Value>,
) -> Result<impl IntoResponse, Problem> {
    let bot = app.manager.client(&of.tenant)?;
    if_match.check("configuration", version(&bot.config().await?))?;
    let config = bot.change_config(&patch).await?;
    // The names of what was changed, and no values: there may be secrets among them.
    let names: Vec<&String> = patch.as_object().into_iter().flat_map(serde_json::Map::keys).collect();
    let instance = app.store.instances(&of.tenant.id).get().await?;
    let detail = json!({ "changed": names });
    app.auth.audit(&of.caller, Some(&of.tenant.id), Action::InstanceConfigure, instance.id.as_str(), detail).await?;
    Ok((etag(version(&config)), Json(config)))
}
