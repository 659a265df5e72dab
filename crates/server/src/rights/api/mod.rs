//! One endpoint a file.

mod block;
mod delete_export;
mod download_export;
mod erase_end_user;
mod erasure;
mod get_export;
mod list_blocks;
mod list_exports;
mod request_export;
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
        .routes(routes!(list_exports::handler, request_export::handler))
        .routes(routes!(get_export::handler, delete_export::handler))
        .routes(routes!(download_export::handler))
        .routes(routes!(erase_end_user::handler))
        .routes(routes!(erasure::handler))
}
