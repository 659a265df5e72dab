//! `/tenants/{tenant}/instance`, `/tenants/{tenant}/channels` and `/instances`. One file per endpoint.

mod add_channel;
mod change_channel;
mod change_config;
mod delete_channel;
mod events;
mod fleet_events;
mod get;
mod get_channel;
mod get_config;
mod list;
mod list_channels;
mod logs;
mod restart;
mod start;
mod stop;
mod test_channel;
pub(super) mod view;
mod watch;

use astrfleet_core::policy::Action;
use serde_json::json;
use utoipa_axum::{router::OpenApiRouter, routes};

use self::view::InstanceView;
use super::Operation;
use crate::{
    app::App,
    extract::{InTenant, may},
    problem::Problem,
};

/// The routes of this role.
pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(get::handler))
        .routes(routes!(events::handler))
        .routes(routes!(start::handler))
        .routes(routes!(stop::handler))
        .routes(routes!(restart::handler))
        .routes(routes!(get_config::handler, change_config::handler))
        .routes(routes!(logs::handler))
        .routes(routes!(list::handler))
        .routes(routes!(fleet_events::handler))
        .routes(routes!(list_channels::handler, add_channel::handler))
        .routes(routes!(get_channel::handler, change_channel::handler, delete_channel::handler))
        .routes(routes!(test_channel::handler))
}

/// Start, stop and restart are the same but for the word.
async fn operate(
    app: &App,
    of: &InTenant<may::InstanceOperate>,
    operation: Operation,
    word: &str,
) -> Result<InstanceView, Problem> {
    let instance = app.manager.operate(&of.tenant, operation).await?;
    let (target, detail) = (instance.id.clone(), json!({ "asked": word }));
    app.auth.audit(&of.caller, Some(&of.tenant.id), Action::InstanceOperate, target.as_str(), detail).await?;
    Ok(InstanceView::of(app, &of.tenant, instance).await?)
}
