//! Whose virtual key it is: the bot, its tenant, their budgets. Remembered by the key's hash for a few seconds; a change of the
//! bot or its tenant counts at once, where the bus tells of it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use astrfleet_core::{
    Error, Result,
    budget::Account,
    id::{InstanceId, TenantId},
    ports::BusEvent,
    quota::Amount,
    time::Timestamp,
};
use aws_lc_rs::digest;
use futures_util::StreamExt as _;
use http::HeaderMap;

use super::admission::{Gates, KeyBudget};
use crate::{
    app::Base,
    config::seconds,
    context,
    extract::credential,
    quota::{Purse, Purses},
    tenant,
};

/// Bots remembered; beyond it, all are looked up again.
const REMEMBERED_MAX: usize = 10_000;

/// A bot that may ask.
#[derive(Debug)]
pub(super) struct Bot {
    pub(super) id: InstanceId,
    pub(super) tenant: TenantId,
    /// What its tenant's plan allows a month.
    pub(super) amount: Amount,
    pub(super) purse: Arc<Purse>,
    /// What the plan allows this key alone.
    pub(super) key: Option<KeyBudget>,
    pub(super) gates: Gates,
}

/// All that are known.
pub(super) struct Keys {
    base: Arc<Base>,
    tenants: Arc<tenant::Service>,
    purses: Arc<Purses>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    bots: HashMap<Hash, (Arc<Bot>, Timestamp)>,
    gates: HashMap<TenantId, Gates>,
    /// Grows when anything is forgotten: what was read before that is not remembered.
    forgotten: u64,
}

type Hash = [u8; 32];

impl Keys {
    pub(super) fn new(base: Arc<Base>, tenants: Arc<tenant::Service>) -> Self {
        let purses = Arc::new(Purses::new(Arc::clone(&base)));
        Self { base, tenants, purses, known: Mutex::default() }
    }

    /// What is leased of the tenants' tokens.
    pub(super) fn purses(&self) -> &Arc<Purses> {
        &self.purses
    }

    /// The bot that asks.
    ///
    /// # Errors
    /// [`Error::Unauthenticated`]; [`Error::Forbidden`] where its tenant is not served.
    pub(super) async fn bot(&self, headers: &HeaderMap) -> Result<Arc<Bot>> {
        let key = credential(headers).ok_or_else(refused)?;
        let hash = hash(key);
        let now = self.base.clock.now();
        let (remembered, forgotten) = {
            let known = self.lock();
            (known.bots.get(&hash).cloned(), known.forgotten)
        };
        let ttl = seconds(self.base.config.auth.cache_ttl_s);
        let bot = match remembered {
            Some((bot, read_at)) if now.since(read_at) < ttl => bot,
            _ => {
                let bot = Arc::new(self.look_up(key).await?);
                self.remember(hash, &bot, now, forgotten);
                bot
            }
        };
        context::note(|known| {
            known.tenant = Some(bot.tenant.clone());
            known.actor = Some(bot.id.to_string());
        });
        Ok(bot)
    }

    async fn look_up(&self, key: &str) -> Result<Bot> {
        let (id, version) = self.base.secrets.read_llm_key(key).ok_or_else(refused)?;
        let found = match self.base.store.system("a bot calls its model").instance(&id).await {
            Err(Error::NotFound { .. }) => return Err(refused()),
            found => found?,
        };
        if found.secrets_version != version {
            return Err(refused());
        }
        let tenant = self.tenants.resolve(found.tenant_id.as_str()).await?;
        tenant.must_be_served()?;
        let plan = self.tenants.plan(&tenant)?;
        let key = plan.tokens_of_key().map(|amount| {
            let purse = self.purses.of(&tenant.id, Account::TokensOf(id.clone()));
            KeyBudget { amount, purse }
        });
        let purse = self.purses.of(&tenant.id, Account::Tokens);
        let gates = self.gates(&tenant.id);
        Ok(Bot { id, tenant: tenant.id.clone(), amount: plan.tokens(), purse, key, gates })
    }

    /// Never a second count for one tenant.
    fn gates(&self, tenant: &TenantId) -> Gates {
        let mut known = self.lock();
        if known.gates.len() >= REMEMBERED_MAX {
            known.gates.retain(|_, gates| gates.are_used());
        }
        known.gates.entry(tenant.clone()).or_default().clone()
    }

    fn remember(&self, hash: Hash, bot: &Arc<Bot>, now: Timestamp, forgotten: u64) {
        let mut known = self.lock();
        if known.forgotten != forgotten {
            return;
        }
        if known.bots.len() >= REMEMBERED_MAX {
            known.bots.clear();
        }
        known.bots.insert(hash, (Arc::clone(bot), now));
    }

    fn forget_all(&self) {
        let mut known = self.lock();
        known.forgotten += 1;
        known.bots.clear();
    }

    fn forget(&self, changed: &TenantId) {
        let mut known = self.lock();
        known.forgotten += 1;
        known.bots.retain(|_, (bot, _)| bot.tenant != *changed);
    }

    /// Hears of changes until the process ends.
    pub(super) fn listen(self: Arc<Self>) {
        let mut events = self.base.bus_events();
        self.base.tasks.clone().spawn(async move {
            while let Some(event) = events.next().await {
                match event {
                    BusEvent::InstanceChanged { tenant, .. } | BusEvent::TenantChanged(tenant) => self.forget(&tenant),
                    BusEvent::Missed => self.forget_all(),
                    _ => {}
                }
            }
        });
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn refused() -> Error {
    Error::Unauthenticated { reason: "this is no virtual key of a bot that runs here" }
}

fn hash(key: &str) -> Hash {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, key.as_bytes()).as_ref());
    hash
}
