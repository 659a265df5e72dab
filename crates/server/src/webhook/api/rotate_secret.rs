//! `POST /tenants/{tenant}/webhooks/{webhook}/rotate-secret`

use astrfleet_core::{id::WebhookId, policy::Action};
use axum::{
    Json,
    extract::{Path, State},
};
use serde_json::json;

use super::WebhookWithSecret;
use crate::{
    app::App,
    extract::{InTenant, may},
    problem::Problem,
};

/// Make another secret
///
/// It signs from now on. Until `previous_secret_until` the one before it does too, each with a signature of its own, so
/// that a receiver can be changed in between. It is in this answer and nowhere else: store it at once.
#[utoipa::path(
    post, path = "/api/v1/tenants/{tenant}/webhooks/{webhook}/rotate-secret", tag = "webhooks",
    operation_id = "rotate_webhook_secret",
    params(("tenant" = String, Path, description = "Id or name"), ("webhook" = String, Path, description = "`whk_…`")),
    responses(
        (status = 200, body = WebhookWithSecret), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem),
    ),
    security(("access_token" = [])),
)]
pub(super) async fn handler(
    State(app): State<App>,
    of: InTenant<may::WebhookManage>,
    path: Path<(String, String)>,
) -> Result<Json<WebhookWithSecret>, Problem> {
    let Path((_, webhook)) = path;
    let (webhook, secret) = app.webhook.rotate(&of.tenant.id, &WebhookId::parse(&webhook)?).await?;
    let detail = json!({ "secret": "rotated", "both_until": webhook.previous_secret_until });
    app.auth.audit(&of.caller, Some(&of.tenant.id), Action::WebhookManage, webhook.id.as_str(), detail).await?;
    Ok(Json(WebhookWithSecret::new(webhook, &secret)))
}
