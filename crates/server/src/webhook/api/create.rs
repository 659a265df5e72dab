//! `POST /tenants/{tenant}/webhooks`: a tenant's system is told of what happens.

use astrfleet_core::{event::Kind, policy::Action};
use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
};
use serde::Deserialize;
use serde_json::json;

use super::{super::manage::NewWebhook, WebhookWithSecret};
use crate::{
    app::App,
    extract::{Body, InTenant, may},
    problem::Problem,
};

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct WebhookRequest {
    /// Where events are sent: https, and on the public internet.
    #[schema(example = "https://example.com/astrfleet", max_length = 2048)]
    url: String,
    /// Which kinds of events; all where none is given.
    #[serde(default)]
    events: Vec<Kind>,
    /// For people.
    #[serde(default)]
    #[schema(max_length = 200)]
    description: String,
    /// Whether anything is sent; yes where nothing is said.
    enabled: Option<bool>,
}

/// Create a webhook
///
/// It is sent each event that happens from now on, as a POST with the event as JSON, signed as Standard Webhooks has it
/// (`webhook-id`, `webhook-timestamp`, `webhook-signature`). Whatever is not answered with a 2xx within the time is sent
/// again: at once, after 5 s, 5 min, 30 min, 2 h, 5 h, 10 h and 10 h more. Each event comes at least once, possibly more
/// often: tell them apart by `webhook-id`. Those of one session come in order. Its secret is in this answer and nowhere
/// else: store it at once.
#[utoipa::path(
    post, path = "/api/v1/tenants/{tenant}/webhooks", tag = "webhooks", operation_id = "create_webhook",
    params(("tenant" = String, Path, description = "Id or name")),
    request_body = WebhookRequest,
    responses(
        (status = 201, body = WebhookWithSecret), (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 403, body = Problem), (status = 404, body = Problem),
        (status = 409, body = Problem, description = "The tenant has too many webhooks"),
    ),
    security(("access_token" = [])),
)]
pub(super) async fn handler(
    State(app): State<App>,
    of: InTenant<may::WebhookManage>,
    Body(request): Body<WebhookRequest>,
) -> Result<impl IntoResponse, Problem> {
    let WebhookRequest { url, events, description, enabled } = request;
    let new = NewWebhook { url, events, description, enabled: enabled.unwrap_or(true) };
    let (webhook, secret) = app.webhook.create(&of.tenant.id, new).await?;
    let detail = json!({ "created": webhook.url, "events": webhook.events, "enabled": webhook.enabled });
    app.auth.audit(&of.caller, Some(&of.tenant.id), Action::WebhookManage, webhook.id.as_str(), detail).await?;
    let location = format!("/api/v1/tenants/{}/webhooks/{}", of.tenant.name, webhook.id);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(WebhookWithSecret::new(webhook, &secret))))
}
