//! Role `tenant`: tenants, their plans, members and invitations.
//!
//! `service` finds tenants, `life` makes, changes and ends them, `erase` is the loop that ends what is over; one endpoint
//! a file in `api`. Bots are the manager's: here only what is wanted of them is written down.

mod api;
mod erase;
mod invitations;
mod life;
mod service;

use utoipa_axum::router::OpenApiRouter;

use crate::{app::App, loops::Loop, rights};
pub use life::{NewTenant, TenantChange};
pub use service::Service;

/// The routes of this role.
pub fn routes() -> OpenApiRouter<App> {
    api::routes().merge(rights::routes())
}

/// The loops of this role.
pub fn loops(app: &App) -> Vec<Loop> {
    let mut loops = rights::loops(app);
    loops.push(erase::erase_due(app));
    loops
}
