//! Which bot's bridge asks. Its token names the bot and proves it, and leads to that bot's tenant and to no other: no
//! request says itself whose it is.

use std::sync::Arc;

use astrfleet_core::{
    Error, Result,
    id::{InstanceId, TenantId},
    ports::{BusEvent, Limit, Verdict},
    tenant::Tenant,
    time::Timestamp,
};
use axum::{extract::FromRequestParts, http::request::Parts};
use futures_util::StreamExt;
use moka::sync::Cache;

use crate::{
    app::{App, Base},
    changes::Changes,
    config::seconds,
    context,
    extract::{credential, peer, take_anonymous},
    problem::Problem,
};

/// Bots that are remembered.
const REMEMBERED_MAX: u64 = 50_000;

/// The bot that asks.
#[derive(Clone, Debug)]
pub struct AskingBot {
    /// Which.
    pub instance: InstanceId,
    /// The only tenant whose things this request may reach.
    pub tenant: Arc<Tenant>,
}

/// What is remembered of a bot.
#[derive(Clone)]
struct Known {
    tenant: TenantId,
    secrets_version: u32,
    read_at: Timestamp,
}

/// All that are known.
pub(super) struct Bots {
    base: Arc<Base>,
    known: Cache<InstanceId, Known>,
    changes: Arc<Changes>,
}

impl Bots {
    pub(super) fn new(base: &Arc<Base>) -> Self {
        let ttl = seconds(base.config.auth.cache_ttl_s);
        let known = Cache::builder().max_capacity(REMEMBERED_MAX).time_to_live(ttl).build();
        Self { base: Arc::clone(base), known, changes: Arc::new(Changes::new(ttl)) }
    }

    /// The bot of a token, and its tenant's id.
    async fn of(&self, token: &str) -> Result<(InstanceId, TenantId)> {
        let (id, version) = self.base.secrets.read_bridge_token(token).ok_or_else(refused)?;
        let remembered = self.known.get(&id).filter(|known| !self.changes.since(known.tenant.as_str(), known.read_at));
        let known = match remembered {
            Some(known) => known,
            None => self.look_up(&id).await?,
        };
        if known.secrets_version != version {
            return Err(refused());
        }
        Ok((id, known.tenant))
    }

    async fn look_up(&self, id: &InstanceId) -> Result<Known> {
        let read_at = self.base.clock.now();
        let found = match self.base.store.system("a bot asks through its bridge").instance(id).await {
            Err(Error::NotFound { .. }) => return Err(refused()),
            found => found?,
        };
        let known = Known { tenant: found.tenant_id, secrets_version: found.secrets_version, read_at };
        self.known.insert(id.clone(), known.clone());
        Ok(known)
    }

    /// Hears of changes until the process ends.
    pub(super) fn listen(&self) {
        let mut events = self.base.bus_events();
        let (base, changes) = (Arc::clone(&self.base), Arc::clone(&self.changes));
        self.base.tasks.spawn(async move {
            while let Some(event) = events.next().await {
                match event {
                    BusEvent::InstanceChanged { tenant, .. } | BusEvent::TenantChanged(tenant) => {
                        changes.note(tenant.as_str(), base.clock.now());
                    }
                    BusEvent::Missed => changes.note_all(base.clock.now()),
                    _ => {}
                }
            }
        });
    }
}

fn refused() -> Error {
    Error::Unauthenticated { reason: "this is no bridge token of a bot that runs here" }
}

impl FromRequestParts<App> for AskingBot {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let peer = peer(&parts.extensions);
        let Some(token) = credential(&parts.headers) else {
            take_anonymous(app, peer)?;
            return Err(refused().into());
        };
        let (instance, tenant) = match app.bridge.bots.of(token).await {
            // Whoever tries tokens out gets no further than whoever has none.
            Err(error @ Error::Unauthenticated { .. }) => {
                take_anonymous(app, peer)?;
                return Err(error.into());
            }
            found => found?,
        };
        context::note(|known| {
            known.tenant = Some(tenant.clone());
            known.actor = Some(instance.to_string());
        });
        let limit = Limit { amount: app.config.bridge.calls_per_minute, per: seconds(60) };
        if let Verdict::Refused { retry_after } = app.limiter.take(&format!("bridge {tenant}"), limit) {
            return Err(Error::TooMany { what: "calls of this bot's bridge", retry_after }.into());
        }
        Ok(Self { instance, tenant: app.tenant.resolve(tenant.as_str()).await? })
    }
}
