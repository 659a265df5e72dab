//! What tenants and end users may ask of what is stored about them: whom not to hear from, what was said, all of it as an
//! archive, and that it goes away, after a time or at once.
//!
//! Routes and loops belong to the role `tenant`; one endpoint a file in `api`.

mod alone;
mod api;
mod blocklist;
mod erase;
mod export;
pub(crate) mod links;
mod retain;
mod search;

use utoipa_axum::router::OpenApiRouter;

use crate::{app::App, loops::Loop};
pub use blocklist::Blocked;
pub(crate) use erase::erase_tenant;
pub(crate) use export::Wake as ExportWake;

/// The routes of this folder.
pub(crate) fn routes() -> OpenApiRouter<App> {
    api::routes()
}

/// The loops of this folder.
pub(crate) fn loops(app: &App) -> Vec<Loop> {
    vec![search::index(app), retain::retain(app), export::export(app)]
}
