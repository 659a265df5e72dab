//! `GET /tenants/{tenant}/instance`

use axum::{Json, extract::State};

use super::view::InstanceView;
use crate::{
    app::App,
    extract::{InTenant, may},
    problem::Problem,
};

/// The tenant's bot
///
/// What is wanted of it, what is seen of it, and why.
#[utoipa::path(
    get, path = "/api/v1/tenants/{tenant}/instance", tag = "instance", operation_id = "get_instance",
    params(("tenant" = String, Path, description = "Id or name")),
    responses((status = 200, body = InstanceView), (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem)),
    security(("access_token" = []), ("api_key" = [])),
)]
pub(in crate::manager) async fn handler(
    State(app): State<App>,
    caller: InTenant<may::InstanceRead>,
) -> Result<Json<InstanceView>, Problem> {
    let instance = app.store.instances(&caller.tenant.id).get().await?;
    Ok(Json(InstanceView::of(&app, &caller.tenant, instance).await?))
}
