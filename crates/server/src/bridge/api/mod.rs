//! `/bridge/v1`: what the bridges in bots ask. One file per endpoint.

mod inbound;
mod outbound;
mod sent;

use utoipa_axum::{router::OpenApiRouter, routes};

use crate::app::App;

/// The routes of this folder.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(inbound::handler))
        .routes(routes!(outbound::handler))
        .routes(routes!(sent::handler))
}
