//! One endpoint a file.

mod block;
mod list_blocks;
mod search;
mod unblock;

use utoipa_axum::{router::OpenApiRouter, routes};

use crate::app::App;

/// The routes of this folder.
pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list_blocks::handler, block::handler))
        .routes(routes!(unblock::handler))
        .routes(routes!(search::handler))
}
