//! The store's suites together, what they begin with, and the proof that they left no statement out.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, Ordering},
    },
};

use astrfleet_core::{
    id::{Ids, TenantId, UserId},
    instance::{Desired, Instance, Observed},
    policy::Role,
    ports::{
        Store,
        testing::{CountingRng, FixedClock},
    },
    tenant::{Status, Tenant},
    time::Timestamp,
    user::User,
};
use tracing::{
    Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id},
};
use tracing_subscriber::{Layer, layer::Context};

/// The moment at which the suites begin.
pub const NOW: Timestamp = Timestamp::from_micros(1_795_402_721_000_042);

/// Runs every suite of the store.
pub async fn all(store: &dyn Store) {
    let make = Make::new();
    super::users::all(store, &make).await;
    super::refresh_tokens::all(store, &make).await;
    super::tenants::all(store, &make).await;
    super::members::all(store, &make).await;
    super::invitations::all(store, &make).await;
    super::api_keys::all(store, &make).await;
    super::audit::all(store, &make).await;
    super::idempotency::all(store, &make).await;
    super::instances::all(store, &make).await;
    super::sessions::all(store, &make).await;
    super::accepts::all(store, &make).await;
    super::messages::all(store, &make).await;
    super::events::all(store, &make).await;
    super::webhooks::all(store, &make).await;
    super::interleavings::all(store, &make).await;
    super::leases::all(store, &make).await;
    super::bridge::all(store, &make).await;
    super::attachments::all(store, &make).await;
    super::blocklist::all(store, &make).await;
    super::search::all(store, &make).await;
    super::retention::all(store, &make).await;
    super::exports::all(store, &make).await;
    super::usage::all(store, &make).await;
    super::budgets::all(store, &make).await;
    super::system::all(store, &make).await;
}

/// Makes things that differ from all that were made before.
pub struct Make {
    /// Makes identifiers, in order.
    pub ids: Ids,
}

impl Make {
    /// A fresh one: its ids are the same in every run.
    #[must_use]
    pub fn new() -> Self {
        Self::at(NOW)
    }

    /// One whose ids are those of a process that believes it to be this moment.
    #[must_use]
    pub fn at(moment: Timestamp) -> Self {
        Self { ids: Ids::new(Arc::new(FixedClock::at(moment.micros())), Arc::new(CountingRng::default())) }
    }

    /// One whose ids are later than all of the suites.
    #[must_use]
    pub fn after_the_suites() -> Self {
        static COUNT: AtomicI64 = AtomicI64::new(1);
        let later = COUNT.fetch_add(1, Ordering::Relaxed) * 1_000_000;
        Self::at(Timestamp::from_micros(NOW.micros() + later))
    }

    /// A user who is not stored yet.
    #[must_use]
    pub fn user(&self, name: &str) -> User {
        User {
            id: self.ids.user(),
            email: format!("{name}@users.example"),
            display_name: name.to_owned(),
            platform_admin: false,
            disabled: false,
            created_at: NOW,
            updated_at: NOW,
            version: 1,
        }
    }

    /// A tenant and its bot, which are not stored yet.
    #[must_use]
    pub fn tenant(&self, name: &str) -> (Tenant, Instance) {
        let tenant = Tenant {
            id: self.ids.tenant(),
            name: name.to_owned(),
            display_name: name.to_owned(),
            email: format!("{name}@tenants.example"),
            plan: "standard".to_owned(),
            status: Status::Active,
            erase_at: None,
            retention_days: None,
            created_at: NOW,
            updated_at: NOW,
            version: 1,
        };
        let instance = Instance {
            id: self.ids.instance(),
            tenant_id: tenant.id.clone(),
            desired: Desired::Running,
            observed: Observed::Provisioning,
            generation: 0,
            reason: String::new(),
            since: NOW,
            version: String::new(),
            port: None,
            restarts: 0,
            secrets_version: 1,
            created_at: NOW,
            version_lock: 1,
        };
        (tenant, instance)
    }

    /// A user who is stored.
    pub async fn stored_user(&self, store: &dyn Store, name: &str) -> UserId {
        let user = self.user(name);
        store.users().insert(&user, "hash").await.unwrap();
        user.id
    }

    /// A tenant that is stored, with its bot, and without anybody in it.
    pub async fn stored_tenant(&self, store: &dyn Store, name: &str) -> TenantId {
        let (tenant, instance) = self.tenant(name);
        store.tenants().insert(&tenant, &instance, None).await.unwrap();
        tenant.id
    }

    /// A tenant that is stored, and its owner.
    pub async fn stored_tenant_with_owner(&self, store: &dyn Store, name: &str) -> (TenantId, UserId) {
        let (tenant, owner) = (self.stored_tenant(store, name).await, self.stored_user(store, name).await);
        store.members(&tenant).put(&owner, Role::Owner, NOW).await.unwrap();
        (tenant, owner)
    }
}

impl Default for Make {
    fn default() -> Self {
        Self::new()
    }
}

/// Hears which statements run, from their spans.
#[derive(Clone, Default)]
pub struct Heard(Arc<Mutex<BTreeSet<String>>>);

impl Heard {
    /// The statements of the store that did not run.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        let heard = self.0.lock().unwrap();
        let names = astrfleet_store::statements().into_iter().map(|statement| statement.name);
        names.filter(|name| !heard.contains(*name)).collect()
    }
}

impl<S: Subscriber> Layer<S> for Heard {
    fn on_new_span(&self, attributes: &Attributes<'_>, _: &Id, _: Context<'_, S>) {
        attributes.record(&mut Name(self));
    }
}

struct Name<'a>(&'a Heard);

impl Visit for Name<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "db.statement" {
            self.0.0.lock().unwrap().insert(value.to_owned());
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}
}
