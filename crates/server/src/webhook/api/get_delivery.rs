//! `GET /tenants/{tenant}/webhooks/{webhook}/deliveries/{delivery}`

use astrfleet_core::{
    id::{DeliveryId, WebhookId},
    webhook::Delivery,
};
use axum::{
    Json,
    extract::{Path, State},
};

use crate::{
    app::App,
    extract::{InTenant, may},
    problem::Problem,
};

/// Show a delivery
#[utoipa::path(
    get, path = "/api/v1/tenants/{tenant}/webhooks/{webhook}/deliveries/{delivery}", tag = "webhooks",
    operation_id = "get_delivery",
    params(
        ("tenant" = String, Path, description = "Id or name"), ("webhook" = String, Path, description = "`whk_…`"),
        ("delivery" = String, Path, description = "`dlv_…`"),
    ),
    responses(
        (status = 200, body = Delivery), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem),
    ),
    security(("access_token" = [])),
)]
pub(super) async fn handler(
    State(app): State<App>,
    of: InTenant<may::WebhookManage>,
    path: Path<(String, String, String)>,
) -> Result<Json<Delivery>, Problem> {
    let Path((_, webhook, delivery)) = path;
    let deliveries = app.store.deliveries(&of.tenant.id, &WebhookId::parse(&webhook)?);
    Ok(Json(deliveries.get(&DeliveryId::parse(&delivery)?).await?))
}
