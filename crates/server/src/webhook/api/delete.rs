//! `DELETE /tenants/{tenant}/webhooks/{webhook}`

use astrfleet_core::{id::WebhookId, policy::Action};
use axum::{
    extract::{Path, State},
    http::StatusCode,
};
use serde_json::json;

use crate::{
    app::App,
    extract::{InTenant, may},
    problem::Problem,
};

/// Delete a webhook
///
/// With the log of its deliveries. What waits is not sent any more.
#[utoipa::path(
    delete, path = "/api/v1/tenants/{tenant}/webhooks/{webhook}", tag = "webhooks", operation_id = "delete_webhook",
    params(("tenant" = String, Path, description = "Id or name"), ("webhook" = String, Path, description = "`whk_…`")),
    responses(
        (status = 204, description = "Deleted"), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem),
    ),
    security(("access_token" = [])),
)]
pub(super) async fn handler(
    State(app): State<App>,
    of: InTenant<may::WebhookManage>,
    path: Path<(String, String)>,
) -> Result<StatusCode, Problem> {
    let Path((_, webhook)) = path;
    let webhook = WebhookId::parse(&webhook)?;
    app.store.webhooks(&of.tenant.id).delete(&webhook).await?;
    let detail = json!({ "deleted": true });
    app.auth.audit(&of.caller, Some(&of.tenant.id), Action::WebhookManage, webhook.as_str(), detail).await?;
    Ok(StatusCode::NO_CONTENT)
}
