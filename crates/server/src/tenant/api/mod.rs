//! One endpoint a file.

mod accept_invitation;
mod change;
mod create;
mod create_invitation;
mod delete;
mod delete_invitation;
mod export_usage;
mod get;
mod limits;
mod list;
mod list_invitations;
mod list_members;
mod put_member;
mod remove_member;
mod resume;
mod suspend;
mod usage;

use astrfleet_core::{
    Error,
    id::TenantId,
    policy::{Action, Caller, Role, Standing, may_grant},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::app::App;

/// The routes of this folder.
pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list::handler, create::handler))
        .routes(routes!(get::handler, change::handler, delete::handler))
        .routes(routes!(suspend::handler))
        .routes(routes!(resume::handler))
        .routes(routes!(list_members::handler))
        .routes(routes!(put_member::handler, remove_member::handler))
        .routes(routes!(list_invitations::handler, create_invitation::handler))
        .routes(routes!(delete_invitation::handler))
        .routes(routes!(accept_invitation::handler))
        .routes(routes!(limits::handler))
        .routes(routes!(usage::handler))
        .routes(routes!(export_usage::handler))
}

/// Writes the beginnings and ends of tenants into the platform's log too: a tenant's own log is erased with it.
async fn audit_both(
    app: &App,
    caller: &Caller,
    tenant: &TenantId,
    action: Action,
    detail: serde_json::Value,
) -> astrfleet_core::Result<()> {
    app.auth.audit(caller, Some(tenant), action, tenant.as_str(), detail.clone()).await?;
    app.auth.audit(caller, None, action, tenant.as_str(), detail).await
}

/// Refuses whoever would give or take more than they have.
fn must_grant(standing: &Standing, roles: [Option<Role>; 2]) -> astrfleet_core::Result<()> {
    match roles.into_iter().flatten().find(|role| !may_grant(standing, *role)) {
        Some(role) => Err(Error::Forbidden {
            reason: format!("giving or taking the role {role:?} takes that role").to_lowercase(),
        }),
        None => Ok(()),
    }
}
