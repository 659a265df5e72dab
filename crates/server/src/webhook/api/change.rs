//! `PATCH /tenants/{tenant}/webhooks/{webhook}`

use astrfleet_core::{event::Kind, id::WebhookId, policy::Action, webhook::Webhook};
use axum::{
    Json,
    extract::{Path, State},
    response::IntoResponse,
};
use serde::Deserialize;
use serde_json::json;

use super::super::manage::WebhookChange;
use crate::{
    app::App,
    extract::{Body, IfMatch, InTenant, etag, may},
    problem::Problem,
};

/// What is to be different; what is missing stays.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct WebhookPatch {
    /// Where events are sent: https, and on the public internet.
    #[schema(max_length = 2048)]
    url: Option<String>,
    /// Which kinds of events; all where the list is empty.
    events: Option<Vec<Kind>>,
    /// For people.
    #[schema(max_length = 200)]
    description: Option<String>,
    /// Whether anything is sent. Switched off, what waits is given up; switched on, it begins with what happens then.
    enabled: Option<bool>,
}

/// Change a webhook
#[utoipa::path(
    patch, path = "/api/v1/tenants/{tenant}/webhooks/{webhook}", tag = "webhooks", operation_id = "change_webhook",
    params(
        ("tenant" = String, Path, description = "Id or name"),
        ("webhook" = String, Path, description = "`whk_…`"),
        ("If-Match" = Option<String>, Header, description = "The `ETag` that you have seen"),
    ),
    request_body = WebhookPatch,
    responses(
        (status = 200, body = Webhook, description = "With its new `ETag`"), (status = 400, body = Problem),
        (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem),
        (status = 412, body = Problem),
    ),
    security(("access_token" = [])),
)]
pub(super) async fn handler(
    State(app): State<App>,
    of: InTenant<may::WebhookManage>,
    path: Path<(String, String)>,
    seen: IfMatch,
    Body(wanted): Body<WebhookPatch>,
) -> Result<impl IntoResponse, Problem> {
    let Path((_, webhook)) = path;
    let webhook = app.store.webhooks(&of.tenant.id).get(&WebhookId::parse(&webhook)?).await?;
    seen.check("webhook", webhook.version)?;
    let WebhookPatch { url, events, description, enabled } = wanted;
    let changed = app.webhook.change(webhook, WebhookChange { url, events, description, enabled }).await?;
    let detail = json!({ "url": changed.url, "events": changed.events, "enabled": changed.enabled });
    app.auth.audit(&of.caller, Some(&of.tenant.id), Action::WebhookManage, changed.id.as_str(), detail).await?;
    Ok((etag(changed.version), Json(changed)))
}
