//! `GET /tenants/{tenant}/webhooks/{webhook}`

use astrfleet_core::{id::WebhookId, webhook::Webhook};
use axum::{
    Json,
    extract::{Path, State},
    response::IntoResponse,
};

use crate::{
    app::App,
    extract::{InTenant, etag, may},
    problem::Problem,
};

/// Show a webhook
#[utoipa::path(
    get, path = "/api/v1/tenants/{tenant}/webhooks/{webhook}", tag = "webhooks", operation_id = "get_webhook",
    params(("tenant" = String, Path, description = "Id or name"), ("webhook" = String, Path, description = "`whk_…`")),
    responses(
        (status = 200, body = Webhook, description = "With its `ETag`"), (status = 401, body = Problem),
        (status = 403, body = Problem), (status = 404, body = Problem),
    ),
    security(("access_token" = [])),
)]
pub(super) async fn handler(
    State(app): State<App>,
    of: InTenant<may::WebhookManage>,
    path: Path<(String, String)>,
) -> Result<impl IntoResponse, Problem> {
    let Path((_, webhook)) = path;
    let webhook = app.store.webhooks(&of.tenant.id).get(&WebhookId::parse(&webhook)?).await?;
    Ok((etag(webhook.version), Json(webhook)))
}
