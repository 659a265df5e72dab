//! Where tenants and their bots are kept.

use async_trait::async_trait;

use crate::{
    audit::NewEntry,
    error::Result,
    id::{TenantId, UserId},
    instance::Instance,
    page::{Page, PageRequest},
    tenant::Tenant,
    time::Timestamp,
};

/// Tenants.
#[async_trait]
pub trait Tenants: Send + Sync {
    /// Stores a new one together with its bot, and its owner where there is one already.
    ///
    /// # Errors
    /// [`crate::Error::Conflict`] where its name or its address is taken.
    async fn insert(&self, tenant: &Tenant, instance: &Instance, owner: Option<&UserId>) -> Result<()>;
    /// # Errors
    /// [`crate::Error::NotFound`].
    async fn get(&self, id: &TenantId) -> Result<Tenant>;
    /// # Errors
    /// [`crate::Error::NotFound`].
    async fn by_name(&self, name: &str) -> Result<Tenant>;
    /// The newest last.
    async fn list(&self, page: &PageRequest) -> Result<Page<Tenant>>;
    /// Stores a changed one if its `version` is still the stored one, which then grows by one. Returns it as stored.
    ///
    /// # Errors
    /// [`crate::Error::Stale`]; [`crate::Error::Conflict`] where its new name or address is taken.
    async fn update(&self, tenant: &Tenant) -> Result<Tenant>;
    /// At most `limit` tenants in deletion whose grace period is over at `now`.
    async fn due_for_erasure(&self, now: Timestamp, limit: u32) -> Result<Vec<Tenant>>;
    /// Erases a tenant and every row of its own in all tables, and writes the entry that `proof` makes of what was erased
    /// into the platform's audit log, in one transaction. Returns whether there was anything to erase.
    async fn erase(&self, id: &TenantId, proof: &Proof<'_>) -> Result<bool>;
}

/// How many rows of each table were erased.
pub type Erased = std::collections::BTreeMap<String, u64>;

/// Makes an entry of an audit log of what was erased. May be asked more than once.
pub type Proof<'a> = dyn Fn(&Erased) -> Result<NewEntry> + Send + Sync + 'a;

/// The bot of one tenant.
#[async_trait]
pub trait Instances: Send + Sync {
    /// # Errors
    /// [`crate::Error::NotFound`].
    async fn get(&self) -> Result<Instance>;
    /// Stores a changed one if its `version_lock` is still the stored one, which then grows by one. Returns it as stored.
    ///
    /// # Errors
    /// [`crate::Error::Stale`].
    async fn update(&self, instance: &Instance) -> Result<Instance>;
}
