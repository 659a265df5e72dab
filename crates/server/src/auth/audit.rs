//! Who did what: the audit log.

use astrfleet_core::{
    Result,
    audit::{Entry, NewEntry},
    id::TenantId,
    page::{Page, PageRequest},
    policy::{Action, Caller},
};

use super::Service;
use crate::context;

/// The actor of what nobody asked for: a loop's work.
pub const SYSTEM: &str = "system";

impl Service {
    /// Writes down what was done. To be called after it is done, and before saying so: an answer of success means that
    /// it stands in the log. Never a secret in `detail`.
    ///
    /// # Errors
    /// What the store says.
    pub async fn audit(
        &self,
        caller: &Caller,
        tenant: Option<&TenantId>,
        action: Action,
        target: &str,
        detail: serde_json::Value,
    ) -> Result<()> {
        self.audit_as(caller.actor(), tenant, action, target, detail).await
    }

    /// The same for whoever is no caller: [`SYSTEM`], or somebody who is just becoming a user.
    ///
    /// # Errors
    /// What the store says.
    pub async fn audit_as(
        &self,
        actor: &str,
        tenant: Option<&TenantId>,
        action: Action,
        target: &str,
        detail: serde_json::Value,
    ) -> Result<()> {
        let request_id = context::current().map(|context| context.request_id().to_owned()).unwrap_or_default();
        let entry = NewEntry {
            id: self.base.ids.audit(),
            tenant_id: tenant.cloned(),
            at: self.base.clock.now(),
            actor: actor.to_owned(),
            action: action.name().to_owned(),
            target: target.to_owned(),
            detail,
            request_id,
        };
        self.base.store.audit(tenant).append(&entry).await?;
        Ok(())
    }

    /// A page of a tenant's audit log, or of the platform's own.
    ///
    /// # Errors
    /// What the store says.
    pub async fn audit_log(&self, tenant: Option<&TenantId>, page: &PageRequest) -> Result<Page<Entry>> {
        self.base.store.audit(tenant).list(page).await
    }
}
