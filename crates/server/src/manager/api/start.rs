//! `POST /tenants/{tenant}/instance/start`

use axum::{Json, extract::State, http::StatusCode};

use super::view::InstanceView;
use crate::{
    app::App,
    extract::{InTenant, may},
    manager::Operation,
    problem::Problem,
};

/// Start the tenant's bot
///
/// It is started in the background: the answer says what is wanted of it, and `…/instance/events` tells each step.
/// Also tries again what was given up. Asking twice changes nothing.
#[utoipa::path(
    post, path = "/api/v1/tenants/{tenant}/instance/start", tag = "instance", operation_id = "start_instance",
    params(("tenant" = String, Path, description = "Id or name")),
    responses(
        (status = 202, body = InstanceView), (status = 401, body = Problem),
        (status = 403, body = Problem, description = "The role is too low, or the tenant is suspended"),
        (status = 404, body = Problem), (status = 409, body = Problem, description = "It is being erased"),
    ),
    security(("access_token" = []), ("api_key" = [])),
)]
pub(in crate::manager) async fn handler(
    State(app): State<App>,
    of: InTenant<may::InstanceOperate>,
) -> Result<(StatusCode, Json<InstanceView>), Problem> {
    let instance = super::operate(&app, &of, Operation::Start, "start").await?;
    Ok((StatusCode::ACCEPTED, Json(instance)))
}
