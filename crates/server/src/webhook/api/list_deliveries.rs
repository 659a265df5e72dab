//! `GET /tenants/{tenant}/webhooks/{webhook}/deliveries`

use astrfleet_core::{
    Error,
    id::WebhookId,
    page::Page,
    webhook::{Delivery, State as DeliveryState},
};
use axum::{
    Json,
    extract::{Path, Query, State},
};
use serde::Deserialize;

use crate::{
    app::App,
    extract::{InTenant, PageParams, PageQuery, may},
    problem::Problem,
};

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Filter {
    /// `pending`, `succeeded` or `failed` alone.
    state: Option<String>,
}

/// List what a webhook was told
///
/// The newest first. What has come to its end is kept for `webhooks.retention_s`.
#[utoipa::path(
    get, path = "/api/v1/tenants/{tenant}/webhooks/{webhook}/deliveries", tag = "webhooks",
    operation_id = "list_deliveries",
    params(
        ("tenant" = String, Path, description = "Id or name"), ("webhook" = String, Path, description = "`whk_…`"),
        PageParams, Filter,
    ),
    responses(
        (status = 200, body = Page<Delivery>), (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 403, body = Problem), (status = 404, body = Problem),
    ),
    security(("access_token" = [])),
)]
pub(super) async fn handler(
    State(app): State<App>,
    of: InTenant<may::WebhookManage>,
    path: Path<(String, String)>,
    PageQuery(page): PageQuery,
    Query(filter): Query<Filter>,
) -> Result<Json<Page<Delivery>>, Problem> {
    let Path((_, webhook)) = path;
    let webhook = WebhookId::parse(&webhook)?;
    let state = match filter.state.as_deref() {
        None => None,
        Some("pending") => Some(DeliveryState::Pending),
        Some("succeeded") => Some(DeliveryState::Succeeded),
        Some("failed") => Some(DeliveryState::Failed),
        Some(_) => return Err(Error::invalid("state", "must be pending, succeeded or failed").into()),
    };
    app.store.webhooks(&of.tenant.id).get(&webhook).await?;
    Ok(Json(app.store.deliveries(&of.tenant.id, &webhook).list(state, &page).await?))
}
