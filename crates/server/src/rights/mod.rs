//! What tenants and end users may ask of what is stored about them: whom not to hear from, and what was said.
//!
//! Routes and loops belong to the role `tenant`; one endpoint a file in `api`.

mod api;
mod blocklist;
mod search;

use utoipa_axum::router::OpenApiRouter;

use crate::{app::App, loops::Loop};
pub use blocklist::Blocked;

/// The routes of this folder.
pub(crate) fn routes() -> OpenApiRouter<App> {
    api::routes()
}

/// The loops of this folder.
pub(crate) fn loops(app: &App) -> Vec<Loop> {
    vec![search::index(app)]
}
