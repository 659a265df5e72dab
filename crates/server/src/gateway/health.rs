//! `/health`: alive, whatever else is not. `/ready`: may be sent requests.

use std::{collections::BTreeMap, time::Duration};

use axum::{
    Json,
    extract::State,
    http::{HeaderValue, StatusCode},
    response::{IntoResponse, Response},
};
use serde::Serialize;

use super::STANDS_BY;
use crate::{app::App, loops::LoopState, problem::chain, role::Role};

/// Whoever asks has given up by then.
const STORE_LIMIT: Duration = Duration::from_secs(3);

/// How it is.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Health {
    /// `ok`
    pub status: &'static str,
    /// Of the program.
    pub version: &'static str,
}

/// Whether requests should be sent here, and if not, why.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Readiness {
    /// `ok` or `unavailable`
    pub status: &'static str,
    /// Of the program.
    pub version: &'static str,
    /// What it takes: `ok`, or what is the matter.
    pub parts: BTreeMap<&'static str, String>,
}

/// Whether the process is alive
///
/// Depends on nothing else: a database that is away is no reason to restart us.
#[utoipa::path(get, path = "/health", tag = "health", operation_id = "health", responses((status = 200, body = Health)))]
pub(super) async fn health() -> Json<Health> {
    Json(Health { status: "ok", version: env!("CARGO_PKG_VERSION") })
}

/// Whether requests should be sent here
///
/// Answers 503 as soon as a stop was asked for, while the database does not answer, and when a loop has died.
#[utoipa::path(
    get, path = "/ready", tag = "health", operation_id = "ready",
    responses((status = 200, body = Readiness), (status = 503, body = Readiness)),
)]
pub(super) async fn ready(State(app): State<App>) -> Response {
    let stopping = app.gateway.is_draining() || app.stop.is_cancelled();
    let mut parts = BTreeMap::from([
        ("gateway", if stopping { "a stop was asked for: send requests elsewhere".to_owned() } else { ok() }),
        ("store", store(&app).await),
        ("loops", loops(&app)),
    ]);
    if app.roles.contains(&Role::Gateway) && !app.gateway.remote.is_known() {
        parts.insert("roles", "those of other processes are being looked for".to_owned());
    }
    let is_ready = parts.values().all(|part| *part == "ok");
    let (code, status) =
        if is_ready { (StatusCode::OK, "ok") } else { (StatusCode::SERVICE_UNAVAILABLE, "unavailable") };
    let mut answer = (code, Json(Readiness { status, version: env!("CARGO_PKG_VERSION"), parts })).into_response();
    if app.roles.contains(&Role::Manager) && !app.manager.keeps_bots() {
        answer.headers_mut().insert(STANDS_BY, HeaderValue::from_static("manager"));
    }
    answer
}

async fn store(app: &App) -> String {
    match tokio::time::timeout(STORE_LIMIT, app.store.system("readiness").ping()).await {
        Ok(Ok(())) => ok(),
        Ok(Err(error)) => {
            tracing::warn!(error_code = "unavailable", error = chain(&error), "the store does not answer");
            error.to_string()
        }
        Err(_) => format!("it did not answer within {} s", STORE_LIMIT.as_secs()),
    }
}

fn loops(app: &App) -> String {
    let dead: Vec<&str> =
        app.loops.all().into_iter().filter(|(_, state)| *state == LoopState::Dead).map(|(name, _)| name).collect();
    if dead.is_empty() { ok() } else { format!("these died, restart the process: {}", dead.join(", ")) }
}

fn ok() -> String {
    "ok".to_owned()
}
