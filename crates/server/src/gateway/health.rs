//! `/health`: alive, whatever else is not. `/ready`: may be sent requests.

use axum::{Json, extract::State};
use serde::Serialize;

use crate::{app::App, problem::Problem};

/// How it is.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Health {
    /// `ok`
    pub status: &'static str,
    /// Of the program.
    pub version: &'static str,
}

const OK: Health = Health { status: "ok", version: env!("CARGO_PKG_VERSION") };

/// Whether the process is alive
///
/// Depends on nothing else: a database that is away is no reason to restart us.
#[utoipa::path(get, path = "/health", tag = "health", operation_id = "health", responses((status = 200, body = Health)))]
pub(super) async fn health() -> Json<Health> {
    Json(OK)
}

/// Whether requests should be sent here
///
/// Answers 503 as soon as a stop was asked for, and while the database does not answer.
#[utoipa::path(
    get, path = "/ready", tag = "health", operation_id = "ready",
    responses((status = 200, body = Health), (status = 503, body = Problem)),
)]
pub(super) async fn ready(State(app): State<App>) -> Result<Json<Health>, Problem> {
    if app.gateway.is_draining() {
        return Err(Problem::new("unavailable", "a stop was asked for: send requests elsewhere"));
    }
    app.store.system("readiness").ping().await?;
    Ok(Json(OK))
}
