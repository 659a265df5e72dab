//! Finds tenants: every request asks, so what was found is remembered for a few seconds. Changes come at once over the
//! bus.

use std::{sync::Arc, time::Duration};

use astrfleet_core::{Error, Result, id::TenantId, plan::Plan, ports::BusEvent, tenant::Tenant, time::Timestamp};
use futures_util::StreamExt;
use moka::sync::Cache;

use crate::{
    app::Base,
    changes::Changes,
    rights::{Blocked, ExportWake},
};

/// How long a tenant is believed to be as it was, where no change was heard of.
const REMEMBERED: Duration = Duration::from_secs(5);
/// Tenants that are remembered, each by its id and its name, at the most.
const REMEMBERED_MAX: u64 = 50_000;
/// The longest id or name.
const NAME_MAX: usize = 63;

/// Finds tenants.
pub struct Service {
    pub(crate) base: Arc<Base>,
    /// Whom tenants do not want to hear from.
    pub(crate) blocked: Blocked,
    /// Wakes whoever writes exports.
    pub(crate) export_wake: ExportWake,
    changes: Changes,
    found: Cache<Box<str>, (Arc<Tenant>, Timestamp)>,
}

impl Service {
    /// With nothing in its memory.
    #[must_use]
    pub fn new(base: Arc<Base>) -> Self {
        let found = Cache::builder().max_capacity(REMEMBERED_MAX).time_to_live(REMEMBERED).build();
        Self {
            base,
            blocked: Blocked::default(),
            export_wake: ExportWake::default(),
            changes: Changes::new(REMEMBERED),
            found,
        }
    }

    /// The tenant of this id or name. Remembered for a few seconds; changes come at once over the bus.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn resolve(&self, id_or_name: &str) -> Result<Arc<Tenant>> {
        if let Some(tenant) = self.resolve_cached(id_or_name) {
            return Ok(tenant);
        }
        if id_or_name.len() > NAME_MAX {
            return Err(Error::NotFound { what: "tenant" });
        }
        let now = self.base.clock.now();
        let tenants = self.base.store.tenants();
        let found = match TenantId::parse(id_or_name) {
            Ok(id) => tenants.get(&id).await?,
            Err(_) => tenants.by_name(id_or_name).await?,
        };
        let found = Arc::new(found);
        self.found.insert(id_or_name.into(), (Arc::clone(&found), now));
        Ok(found)
    }

    /// The same from memory alone; `None` says nothing: ask [`Service::resolve`].
    #[must_use]
    pub fn resolve_cached(&self, id_or_name: &str) -> Option<Arc<Tenant>> {
        let (tenant, read_at) = self.found.get(id_or_name)?;
        let fresh = self.base.clock.now().since(read_at) < REMEMBERED;
        (fresh && !self.changes.since(tenant.id.as_str(), read_at)).then_some(tenant)
    }

    /// The plan of a tenant; the default one where the configuration does not know its plan any more.
    ///
    /// # Errors
    /// [`Error::Internal`] where there is no default plan either.
    pub fn plan(&self, tenant: &Tenant) -> Result<&Plan> {
        let config = &self.base.config;
        config
            .plans
            .get(&tenant.plan)
            .or_else(|| config.plans.get(&config.tenant.default_plan))
            .ok_or_else(|| Error::internal("the default plan is not configured"))
    }

    /// Listens to what is changed, here and in other processes, until the process ends.
    pub fn listen(self: &Arc<Self>) {
        let (service, mut events) = (Arc::clone(self), self.base.bus_events());
        self.base.tasks.spawn(async move {
            while let Some(event) = events.next().await {
                match event {
                    BusEvent::TenantChanged(tenant) => service.forget(&tenant),
                    BusEvent::Missed => {
                        service.changes.note_all(service.base.clock.now());
                        service.blocked.forget_all(service.base.clock.now());
                    }
                    _ => {}
                }
            }
        });
    }

    /// Tells everybody that something of a tenant changed; it counts at once here.
    pub(crate) fn changed(&self, tenant: &TenantId) {
        self.forget(tenant);
        self.base.bus.publish(BusEvent::TenantChanged(tenant.clone()));
    }

    fn forget(&self, tenant: &TenantId) {
        self.changes.note(tenant.as_str(), self.base.clock.now());
        self.blocked.forget(tenant, self.base.clock.now());
    }
}
