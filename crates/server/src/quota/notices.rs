//! Tells a tenant once a period that a quota is four fifths used, used beyond the plan's amount, or used up: in its audit
//! log, and in a metric. Nobody waits for it, and what it fails to tell is told when the level is seen again.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use astrfleet_core::{
    Result,
    audit::NewEntry,
    id::TenantId,
    quota::{Amount, Kind, Level},
    time::Timestamp,
};
use serde_json::json;

use crate::{app::Base, metrics::QuotaLabels, problem::chain};

/// Tenants and quotas of which this process remembers what was told; beyond it, the store is asked again.
const REMEMBERED_MAX: usize = 50_000;

/// The last that a tenant was told of a quota.
type Told = HashMap<(TenantId, String), (Timestamp, Level)>;

/// Tells. Cheap to clone.
#[derive(Clone)]
pub struct Notices {
    base: Arc<Base>,
    told: Arc<Mutex<Told>>,
}

/// One quota in one period.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Whose.
    pub tenant: TenantId,
    /// Which, and of what: a key's tokens are told apart by the key.
    pub name: String,
    /// Which.
    pub kind: Kind,
    /// The beginning of the period.
    pub period: Timestamp,
    /// How much there is.
    pub amount: Amount,
    /// How much is used.
    pub used: u64,
}

impl Seen {
    /// A quota of a whole tenant, as it is now.
    #[must_use]
    pub fn now(tenant: &TenantId, kind: Kind, amount: Amount, used: u64, now: Timestamp) -> Self {
        let name = kind.name().to_owned();
        Self { tenant: tenant.clone(), name, kind, period: kind.period(now), amount, used }
    }
}

impl Notices {
    /// Nothing told yet.
    #[must_use]
    pub fn new(base: Arc<Base>) -> Self {
        Self { base, told: Arc::default() }
    }

    /// Looks at a quota, and tells if there is something to be told.
    pub fn look(&self, seen: Seen) {
        let level = seen.amount.level(seen.used);
        if level == Level::Fine || !self.is_news(&seen, level) {
            return;
        }
        let notices = self.clone();
        self.base.tasks.spawn(async move {
            if let Err(error) = notices.tell(&seen, level).await {
                tracing::info!(
                    tenant_id = %seen.tenant, quota = seen.name, error = chain(&error), "a notice of a quota waits"
                );
                notices.lock().remove(&(seen.tenant, seen.name));
            }
        });
    }

    fn is_news(&self, seen: &Seen, level: Level) -> bool {
        let mut told = self.lock();
        if told.len() >= REMEMBERED_MAX {
            told.clear();
        }
        let last = told.entry((seen.tenant.clone(), seen.name.clone())).or_insert((seen.period, Level::Fine));
        if last.0 != seen.period {
            *last = (seen.period, Level::Fine);
        }
        if level <= last.1 {
            return false;
        }
        last.1 = level;
        true
    }

    async fn tell(&self, seen: &Seen, level: Level) -> Result<()> {
        let entry = NewEntry {
            id: self.base.ids.audit(),
            tenant_id: Some(seen.tenant.clone()),
            at: self.base.clock.now(),
            actor: "system".to_owned(),
            action: format!("quota.{}", level.name()),
            target: seen.tenant.to_string(),
            detail: json!({
                "quota": seen.name,
                "limit": seen.amount.limit,
                "hard_limit": seen.amount.hard(),
                "used": seen.used,
                "period": seen.period,
            }),
            request_id: self.base.ids.request().to_string(),
        };
        let budgets = self.base.store.budgets(&seen.tenant);
        if !budgets.notice(&seen.name, seen.period, level, &entry).await? {
            return Ok(());
        }
        self.base
            .metrics
            .quota_notices
            .get_or_create(&QuotaLabels { quota: seen.kind.name(), level: level.name() })
            .inc();
        tracing::info!(
            tenant_id = %seen.tenant,
            quota = seen.name,
            level = level.name(),
            limit = seen.amount.limit,
            used = seen.used,
            "a tenant is told of its quota"
        );
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
