//! `GET /internal/v1/replica`: which process this is.

use std::collections::BTreeSet;

use axum::{Json, extract::State};
use serde::Serialize;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{FromFleet, Replica};
use crate::{app::App, problem::Problem, role::Role};

/// Which process answers.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct Introduction {
    #[serde(flatten)]
    replica: Replica,
    /// What it does.
    #[schema(value_type = Vec<String>)]
    roles: BTreeSet<Role>,
    /// Of the program.
    version: &'static str,
}

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(handler))
}

/// Which process this is
#[utoipa::path(
    get, path = "/internal/v1/replica", tag = "internal", operation_id = "replica",
    responses((status = 200, body = Introduction), (status = 404, body = Problem)),
)]
async fn handler(State(app): State<App>, _: FromFleet) -> Json<Introduction> {
    Json(Introduction { replica: app.me.clone(), roles: app.roles.clone(), version: env!("CARGO_PKG_VERSION") })
}
