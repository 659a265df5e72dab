//! `POST /tenants/{tenant}/webhooks/{webhook}/deliveries/{delivery}/replay`

use astrfleet_core::{
    id::{DeliveryId, WebhookId},
    policy::Action,
    webhook::Delivery,
};
use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
    response::IntoResponse,
};
use serde_json::json;

use crate::{
    app::App,
    extract::{InTenant, may},
    problem::Problem,
};

/// Do a delivery again
///
/// One that has come to its end, whether it succeeded or not: as another delivery of the same event, with the same
/// `webhook-id`, at once and beside whatever waits.
#[utoipa::path(
    post, path = "/api/v1/tenants/{tenant}/webhooks/{webhook}/deliveries/{delivery}/replay", tag = "webhooks",
    operation_id = "replay_delivery",
    params(
        ("tenant" = String, Path, description = "Id or name"), ("webhook" = String, Path, description = "`whk_…`"),
        ("delivery" = String, Path, description = "`dlv_…`"),
    ),
    responses(
        (status = 202, body = Delivery, description = "It will be tried"), (status = 401, body = Problem),
        (status = 403, body = Problem), (status = 404, body = Problem),
        (status = 409, body = Problem, description = "It waits still, its event is gone, or the webhook is switched off"),
    ),
    security(("access_token" = [])),
)]
pub(super) async fn handler(
    State(app): State<App>,
    of: InTenant<may::WebhookManage>,
    path: Path<(String, String, String)>,
) -> Result<impl IntoResponse, Problem> {
    let Path((_, webhook, delivery)) = path;
    let (webhook, delivery) = (WebhookId::parse(&webhook)?, DeliveryId::parse(&delivery)?);
    let again = app.webhook.replay(&of.tenant.id, &webhook, &delivery).await?;
    let detail = json!({ "replayed": delivery });
    app.auth.audit(&of.caller, Some(&of.tenant.id), Action::WebhookManage, webhook.as_str(), detail).await?;
    Ok((StatusCode::ACCEPTED, Json(again)))
}
