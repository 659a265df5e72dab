//! Role `session`: conversations.

use utoipa_axum::router::OpenApiRouter;

use crate::{app::App, loops::Loop};

/// The routes of this role.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
}

/// The loops of this role.
pub fn loops(_: &App) -> Vec<Loop> {
    Vec::new()
}
