//! How tenants begin, change and end. What is wanted of their bots is written down with it; bringing that about is the
//! manager's, and nobody waits for it here.

use std::{sync::Arc, time::Duration};

use astrfleet_core::{
    Error, Result,
    id::TenantId,
    instance::{Desired, Instance, Observed},
    ports::BusEvent,
    tenant::{Event, Status, Tenant},
    text,
};

use super::Service;
use crate::{config::seconds, stale::again_while_stale};

/// How often a tenant is tried to be changed that somebody else changes at the same moment.
const TRIES: usize = 5;
/// The longest time for which messages are kept, where it is not for good.
const RETENTION_DAYS_MAX: u32 = 36_500;
/// The longest name for people, in characters.
const NAME_MAX: usize = 100;

/// A tenant as it is to be.
pub struct NewTenant {
    /// A DNS label, unique.
    pub name: String,
    /// Of whoever answers for it; unique, in any case.
    pub email: String,
    /// For people; the name where nothing is given.
    pub display_name: Option<String>,
    /// A plan of the configuration; the default one where nothing is given.
    pub plan: Option<String>,
}

/// What is to be changed of a tenant.
#[derive(Default)]
pub struct TenantChange {
    /// For people.
    pub display_name: Option<String>,
    /// Of whoever answers for it.
    pub email: Option<String>,
    /// A plan of the configuration.
    pub plan: Option<String>,
    /// Days for which messages are kept; 0: as the plan says.
    pub retention_days: Option<u32>,
}

impl Service {
    /// Makes a tenant and its bot, which is wanted to run. Returns at once.
    ///
    /// # Errors
    /// [`Error::Invalid`]; [`Error::Conflict`] where its name or its address is taken.
    pub async fn create(&self, new: NewTenant) -> Result<(Tenant, Instance)> {
        let now = self.base.clock.now();
        let name = text::dns_label("name", &new.name)?;
        if TenantId::parse(&name).is_ok() {
            return Err(Error::invalid("name", "must not look like an id"));
        }
        let display_name = match &new.display_name {
            Some(given) => text::display_name("display_name", given, NAME_MAX)?,
            None => name.clone(),
        };
        let tenant = Tenant {
            id: self.base.ids.tenant(),
            name,
            display_name,
            email: text::email("email", &new.email)?,
            plan: self.known_plan(new.plan.unwrap_or_else(|| self.base.config.tenant.default_plan.clone()))?,
            status: Status::Active,
            erase_at: None,
            retention_days: None,
            created_at: now,
            updated_at: now,
            version: 1,
        };
        let instance = Instance {
            id: self.base.ids.instance(),
            tenant_id: tenant.id.clone(),
            desired: Desired::Running,
            observed: Observed::Pending,
            generation: 0,
            reason: "waits for its turn".to_owned(),
            since: now,
            version: String::new(),
            port: None,
            restarts: 0,
            secrets_version: 1,
            created_at: now,
            version_lock: 1,
        };
        let owner = match self.base.store.users().by_email(&tenant.email).await {
            Ok((user, _)) if !user.disabled => Some(user.id),
            Ok(_) | Err(Error::NotFound { .. }) => None,
            Err(error) => return Err(error),
        };
        self.base.store.tenants().insert(&tenant, &instance, owner.as_ref()).await?;
        if let Some(owner) = owner {
            self.base.bus.publish(BusEvent::MembershipChanged(owner));
        }
        self.changed(&tenant.id);
        self.instance_changed(&instance);
        Ok((tenant, instance))
    }

    /// Changes a tenant that is still as `tenant` says.
    ///
    /// # Errors
    /// [`Error::Invalid`]; [`Error::Stale`]; [`Error::Conflict`] where its new address is taken.
    pub async fn change(&self, tenant: Tenant, change: TenantChange) -> Result<Tenant> {
        let display_name = match &change.display_name {
            Some(given) => text::display_name("display_name", given, NAME_MAX)?,
            None => tenant.display_name.clone(),
        };
        let email = match &change.email {
            Some(given) => text::email("email", given)?,
            None => tenant.email.clone(),
        };
        let plan = match change.plan {
            Some(given) => self.known_plan(given)?,
            None => tenant.plan.clone(),
        };
        let retention_days = match change.retention_days {
            Some(0) => None,
            Some(days @ 1..=RETENTION_DAYS_MAX) => Some(days),
            Some(_) => {
                return Err(Error::invalid("retention_days", format!("must be 0 to {RETENTION_DAYS_MAX}")));
            }
            None => tenant.retention_days,
        };
        let updated_at = self.base.clock.now();
        let changed = Tenant { display_name, email, plan, retention_days, updated_at, ..tenant };
        let stored = self.base.store.tenants().update(&changed).await?;
        self.changed(&stored.id);
        Ok(stored)
    }

    /// Suspends, resumes or deletes a tenant, and wants its bot to be accordingly. Asking twice changes nothing.
    ///
    /// # Errors
    /// [`Error::Conflict`] for a tenant that is being erased.
    pub async fn happens(&self, id: &TenantId, event: Event) -> Result<Tenant> {
        let tenants = self.base.store.tenants();
        for _ in 0..TRIES {
            let tenant = tenants.get(id).await?;
            let now = self.base.clock.now();
            // Its bot's data may be gone already: from here on there is only one way.
            if tenant.erase_at.is_some_and(|end| end <= now) {
                return Err(Error::conflict("the grace period of this tenant is over: it is being erased"));
            }
            let after = tenant.after(event, now, self.grace());
            let stored = if after.status == tenant.status {
                tenant
            } else {
                match tenants.update(&after).await {
                    Err(Error::Stale { .. }) => continue,
                    outcome => outcome?,
                }
            };
            let desired = match stored.status {
                Status::Active => Desired::Running,
                Status::Suspended | Status::Deleting => Desired::Stopped,
            };
            self.want(id, desired).await?;
            self.changed(id);
            return Ok(stored);
        }
        Err(Error::conflict("this tenant is being changed by others: try again"))
    }

    /// Writes down what is wanted of a tenant's bot.
    pub(super) async fn want(&self, tenant: &TenantId, desired: Desired) -> Result<Instance> {
        let instances = self.base.store.instances(tenant);
        let wanted = again_while_stale(|| async {
            let instance = instances.get().await?;
            if instance.desired == desired || instance.desired == Desired::Deleted {
                return Ok(instance);
            }
            instances.update(&Instance { desired, ..instance }).await
        })
        .await;
        let wanted = wanted.map_err(|error| match error {
            Error::Stale { .. } => Error::conflict("this tenant's bot is being changed by others: try again"),
            other => other,
        })?;
        self.instance_changed(&wanted);
        Ok(wanted)
    }

    /// The tenant as it is stored now: for changes, which must not build on what is remembered.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn current(&self, tenant: &Arc<Tenant>) -> Result<Tenant> {
        self.base.store.tenants().get(&tenant.id).await
    }

    fn grace(&self) -> Duration {
        seconds(self.base.config.tenant.deletion_grace_s)
    }

    fn known_plan(&self, plan: String) -> Result<String> {
        let plans = &self.base.config.plans;
        if plans.contains_key(&plan) {
            return Ok(plan);
        }
        let known: Vec<&str> = plans.keys().map(String::as_str).collect();
        Err(Error::invalid("plan", format!("must be one of {}", known.join(", "))))
    }

    fn instance_changed(&self, instance: &Instance) {
        let (tenant, instance) = (instance.tenant_id.clone(), instance.id.clone());
        self.base.bus.publish(BusEvent::InstanceChanged { tenant, instance });
    }
}
