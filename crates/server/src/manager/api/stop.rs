//! `POST /tenants/{tenant}/instance/stop`

use axum::{Json, extract::State, http::StatusCode};

use super::view::InstanceView;
use crate::{
    app::App,
    extract::{InTenant, may},
    manager::Operation,
    problem::Problem,
};

/// Stop the tenant's bot
///
/// Its data is kept. Asking twice changes nothing.
#[utoipa::path(
    post, path = "/api/v1/tenants/{tenant}/instance/stop", tag = "instance", operation_id = "stop_instance",
    params(("tenant" = String, Path, description = "Id or name")),
    responses(
        (status = 202, body = InstanceView), (status = 401, body = Problem),
        (status = 403, body = Problem),
        (status = 404, body = Problem), (status = 409, body = Problem, description = "It is being erased"),
    ),
    security(("access_token" = []), ("api_key" = [])),
)]
pub(in crate::manager) async fn handler(
    State(app): State<App>,
    of: InTenant<may::InstanceOperate>,
) -> Result<(StatusCode, Json<InstanceView>), Problem> {
    let instance = super::operate(&app, &of, Operation::Stop, "stop").await?;
    Ok((StatusCode::ACCEPTED, Json(instance)))
}
