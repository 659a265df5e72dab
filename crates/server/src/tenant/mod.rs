//! Role `tenant`: tenants, their plans, members and invitations.

use std::sync::Arc;

use astrfleet_core::{Result, id::TenantId, plan::Plan, tenant::Tenant};
use utoipa_axum::router::OpenApiRouter;

use crate::{
    app::{App, Base},
    loops::Loop,
};

/// Finds tenants.
pub struct Service {
    base: Arc<Base>,
}

impl Service {
    /// With nothing in its memory.
    #[must_use]
    pub fn new(base: Arc<Base>) -> Self {
        Self { base }
    }

    /// The tenant of this id or name. Remembered for a few seconds; changes come at once over the bus.
    ///
    /// # Errors
    /// [`astrfleet_core::Error::NotFound`].
    pub async fn resolve(&self, id_or_name: &str) -> Result<Arc<Tenant>> {
        let tenants = self.base.store.tenants();
        let found = match TenantId::parse(id_or_name) {
            Ok(id) => tenants.get(&id).await?,
            Err(_) => tenants.by_name(id_or_name).await?,
        };
        Ok(Arc::new(found))
    }

    /// The plan of a tenant; the default one where the configuration does not know its plan any more.
    ///
    /// # Errors
    /// [`astrfleet_core::Error::Internal`] where there is no default plan either.
    pub fn plan(&self, tenant: &Tenant) -> Result<&Plan> {
        let config = &self.base.config;
        config
            .plans
            .get(&tenant.plan)
            .or_else(|| config.plans.get(&config.tenant.default_plan))
            .ok_or_else(|| astrfleet_core::Error::internal("the default plan is not configured"))
    }
}

/// The routes of this role.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
}

/// The loops of this role.
pub fn loops(_: &App) -> Vec<Loop> {
    Vec::new()
}
