//! `GET /tenants/{tenant}/webhooks`

use astrfleet_core::{page::Page, webhook::Webhook};
use axum::{Json, extract::State};

use crate::{
    app::App,
    extract::{InTenant, PageParams, PageQuery, may},
    problem::Problem,
};

/// List webhooks
///
/// The newest last. Secrets are never shown again.
#[utoipa::path(
    get, path = "/api/v1/tenants/{tenant}/webhooks", tag = "webhooks", operation_id = "list_webhooks",
    params(("tenant" = String, Path, description = "Id or name"), PageParams),
    responses(
        (status = 200, body = Page<Webhook>), (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 403, body = Problem), (status = 404, body = Problem),
    ),
    security(("access_token" = [])),
)]
pub(super) async fn handler(
    State(app): State<App>,
    of: InTenant<may::WebhookManage>,
    PageQuery(page): PageQuery,
) -> Result<Json<Page<Webhook>>, Problem> {
    Ok(Json(app.store.webhooks(&of.tenant.id).list(&page).await?))
}
