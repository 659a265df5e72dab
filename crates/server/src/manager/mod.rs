//! Role `manager`: brings every bot from what is seen to what is wanted.
//!
//! `decide` says what to do next about one bot, `keeper` does it, one task a bot; this file knows where all of them are.

mod api;
mod decide;
mod keeper;

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock, PoisonError, RwLock},
    time::Duration,
};

use astrfleet_core::{
    Error, Result,
    id::{InstanceId, TenantId},
    instance::{Desired, Event, Instance, Observed},
    page::PageRequest,
    ports::{BotAccess, BusEvent, FoundBot},
};
use futures_util::{StreamExt, future::join_all};
use tokio::sync::{Mutex, Notify, Semaphore};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    app::{App, Base},
    config::seconds,
    loops::Loop,
    metrics::StateLabel,
    problem::chain,
    tenant,
};

/// The reason of a bot whose data is gone.
pub const ERASED: &str = "erased";
/// Tries to write down the end of a bot that somebody else changes at the same moment.
const WRITE_ATTEMPTS: usize = 5;

/// Where a tenant's bot is.
#[derive(Clone, Debug)]
pub enum Route {
    /// It answers here.
    Ready {
        /// How to talk to it.
        access: BotAccess,
        /// The start it belongs to.
        generation: i64,
    },
    /// It does not answer now.
    NotReady {
        /// Its state.
        observed: Observed,
        /// Why, in words for people.
        reason: String,
    },
}

/// What is known of one bot.
struct Known {
    instance: Instance,
    route: Route,
    wake: Arc<Notify>,
    kept: bool,
}

/// Keeps bots, and knows where they are.
pub struct Service {
    base: Arc<Base>,
    tenants: Arc<tenant::Service>,
    llm_base_url: OnceLock<String>,
    bots: RwLock<HashMap<TenantId, Known>>,
    changed: Notify,
    /// Bots that may run.
    places: Arc<Semaphore>,
    /// Bots that may start at the same time.
    turns: Arc<Semaphore>,
    /// Ports that are some bot's.
    ports: Mutex<HashMap<u16, InstanceId>>,
}

impl Service {
    /// Knows of no bot yet.
    #[must_use]
    pub fn new(base: Arc<Base>, tenants: Arc<tenant::Service>) -> Self {
        let config = &base.config.manager;
        Self {
            places: Arc::new(Semaphore::new(config.max_instances as usize)),
            turns: Arc::new(Semaphore::new(config.concurrent_starts.max(1))),
            base,
            tenants,
            llm_base_url: OnceLock::new(),
            bots: RwLock::default(),
            changed: Notify::new(),
            ports: Mutex::default(),
        }
    }

    /// Says where bots find the model gateway, with `/v1` at its end. Known only once the listener has its port; the
    /// first call counts.
    pub fn set_llm_base_url(&self, url: String) {
        self.llm_base_url.set(url).ok();
    }

    fn llm_base_url(&self) -> Result<String> {
        self.llm_base_url.get().cloned().ok_or_else(|| Error::internal("the address of the model gateway was not set"))
    }

    /// Where the bot of `tenant` is: from memory.
    pub fn route(&self, tenant: &TenantId) -> Route {
        let bots = self.bots.read().unwrap_or_else(PoisonError::into_inner);
        bots.get(tenant).map_or_else(
            || Route::NotReady { observed: Observed::Pending, reason: "it is being looked for".to_owned() },
            |known| known.route.clone(),
        )
    }

    /// Waits until the bot of `tenant` is ready, or will not become so, or `limit` is over.
    ///
    /// # Errors
    /// [`Error::Unavailable`] that says in which state it is and why.
    pub async fn wait_ready(&self, tenant: &TenantId, limit: Duration) -> Result<(BotAccess, i64)> {
        let wait = async {
            loop {
                let changed = self.changed.notified();
                match self.route(tenant) {
                    Route::Ready { access, generation } => return Ok((access, generation)),
                    Route::NotReady {
                        observed: observed @ (Observed::Failed | Observed::Suspended | Observed::Deleting),
                        reason,
                    } => {
                        return Err(not_ready(observed, &reason));
                    }
                    Route::NotReady { .. } => changed.await,
                }
            }
        };
        match tokio::time::timeout(limit, wait).await {
            Ok(outcome) => outcome,
            Err(_) => match self.route(tenant) {
                Route::Ready { access, generation } => Ok((access, generation)),
                Route::NotReady { observed, reason } => Err(not_ready(observed, &reason)),
            },
        }
    }

    /// Looks at a bot again at once: something was changed.
    pub fn wake(&self, tenant: &TenantId) {
        if let Some(known) = self.bots.read().unwrap_or_else(PoisonError::into_inner).get(tenant) {
            known.wake.notify_one();
        }
    }

    /// What it takes to talk to a bot.
    ///
    /// # Errors
    /// [`Error::Unavailable`] where it has no port.
    pub fn access(&self, instance: &Instance) -> Result<BotAccess> {
        let port = instance.port.ok_or_else(|| Error::unavailable("the bot", "it has no port"))?;
        Ok(BotAccess {
            instance: instance.id.clone(),
            base_url: format!("http://127.0.0.1:{port}"),
            jwt_secret: self.base.secrets.bot_jwt(&instance.id, instance.secrets_version)?,
        })
    }

    /// Finds the bots that an earlier run of the platform left running: those that are wanted are kept, all others
    /// stopped. Called once, before anything is started. Returns how many were kept.
    ///
    /// # Errors
    /// What the store or the runtime says.
    pub async fn adopt(&self) -> Result<usize> {
        let mut found: HashMap<InstanceId, FoundBot> =
            self.base.runtime.find().await?.into_iter().map(|bot| (bot.instance.clone(), bot)).collect();
        let mut adopted = 0;
        for instance in self.all_instances().await? {
            let running = found.remove(&instance.id);
            let wanted = instance.desired == Desired::Running;
            if let Some(bot) = running.filter(|bot| wanted && bot.generation == instance.generation) {
                let kept = Instance { port: Some(bot.port), ..instance };
                self.ports.lock().await.insert(bot.port, kept.id.clone());
                let starting = match kept.observed {
                    Observed::Provisioning | Observed::Pending => {
                        kept.after(Event::ProcessStarted, "found running", self.base.clock.now())?
                    }
                    _ => kept,
                };
                self.write(&starting).await?;
                adopted += 1;
                continue;
            }
            self.base.runtime.stop(&instance.id).await?;
            let ended = match instance.observed {
                Observed::Starting
                | Observed::Running
                | Observed::Degraded
                | Observed::Waking
                | Observed::Provisioning => {
                    instance.after(Event::Exited, "the platform was started again", self.base.clock.now())?
                }
                _ => instance,
            };
            self.write(&ended).await?;
        }
        // Bots of which nothing is stored any more.
        for stray in found.into_keys() {
            tracing::warn!(instance_id = %stray, "a bot runs that belongs to nobody: it is stopped");
            self.base.runtime.stop(&stray).await?;
        }
        Ok(adopted)
    }

    /// Stops all bots, for the end of the process: they are wanted as before, and the next start starts them again.
    pub async fn stop_all(&self, limit: Duration) {
        let tenants: Vec<TenantId> = self.bots.read().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect();
        let stop = |tenant: TenantId| async move {
            for _ in 0..WRITE_ATTEMPTS {
                match self.stop_for_the_end(&tenant).await {
                    Ok(()) | Err(Error::NotFound { .. }) => return,
                    Err(Error::Stale { .. }) => {}
                    Err(error) => {
                        tracing::warn!(tenant_id = %tenant, error = chain(&error), "a bot could not be stopped in order");
                        return;
                    }
                }
            }
        };
        if tokio::time::timeout(limit, join_all(tenants.into_iter().map(stop))).await.is_err() {
            tracing::warn!("not all bots were stopped in time: the next start finds them");
        }
    }

    async fn stop_for_the_end(&self, tenant: &TenantId) -> Result<()> {
        let instance = self.base.store.instances(tenant).get().await?;
        self.base.runtime.stop(&instance.id).await?;
        match instance.observed {
            Observed::Starting | Observed::Running | Observed::Degraded | Observed::Waking | Observed::Provisioning => {
                let ended = instance.after(Event::Exited, "the platform was stopped", self.base.clock.now())?;
                self.write(&ended).await.map(|_| ())
            }
            _ => Ok(()),
        }
    }

    /// Stores what changed and tells everybody.
    pub(crate) async fn write(&self, instance: &Instance) -> Result<Instance> {
        let written = self.base.store.instances(&instance.tenant_id).update(instance).await?;
        self.know(&written);
        self.base
            .bus
            .publish(BusEvent::InstanceChanged { tenant: written.tenant_id.clone(), instance: written.id.clone() });
        Ok(written)
    }

    /// Remembers where a bot is.
    fn know(&self, instance: &Instance) {
        let route = match self.access(instance) {
            Ok(access) if instance.is_ready() => Route::Ready { access, generation: instance.generation },
            _ => Route::NotReady { observed: instance.observed, reason: instance.reason.clone() },
        };
        let mut bots = self.bots.write().unwrap_or_else(PoisonError::into_inner);
        let known = bots.entry(instance.tenant_id.clone()).or_insert_with(|| Known {
            instance: instance.clone(),
            route: route.clone(),
            wake: Arc::new(Notify::new()),
            kept: false,
        });
        let same = known.instance.observed == instance.observed && known.instance.generation == instance.generation;
        known.instance = instance.clone();
        known.route = route;
        drop(bots);
        if !same {
            self.count();
        }
        self.changed.notify_waiters();
    }

    fn forget(&self, tenant: &TenantId) {
        self.bots.write().unwrap_or_else(PoisonError::into_inner).remove(tenant);
        self.count();
        self.changed.notify_waiters();
    }

    fn count(&self) {
        let mut counts: HashMap<Observed, i64> = HashMap::new();
        for known in self.bots.read().unwrap_or_else(PoisonError::into_inner).values() {
            *counts.entry(known.instance.observed).or_default() += 1;
        }
        self.base.metrics.instances.clear();
        for (state, count) in counts {
            let state = format!("{state:?}").to_lowercase();
            self.base.metrics.instances.get_or_create(&StateLabel { state }).set(count);
        }
    }

    async fn all_instances(&self) -> Result<Vec<Instance>> {
        let system = self.base.store.system("the manager keeps the bots of all tenants");
        let (mut all, mut page) = (Vec::new(), PageRequest::first());
        loop {
            let found = system.instances(&page).await?;
            all.extend(found.items);
            match found.next_cursor {
                Some(cursor) => page.after = Some(cursor),
                None => return Ok(all),
            }
        }
    }

    /// Gives every bot a keeper, and passes on what changed. Returns how many keepers are new.
    async fn keep_all(self: &Arc<Self>) -> Result<u64> {
        let mut new = 0;
        for instance in self.all_instances().await? {
            let wake = {
                let mut bots = self.bots.write().unwrap_or_else(PoisonError::into_inner);
                let known = bots.entry(instance.tenant_id.clone()).or_insert_with(|| Known {
                    route: Route::NotReady { observed: instance.observed, reason: instance.reason.clone() },
                    instance: instance.clone(),
                    wake: Arc::new(Notify::new()),
                    kept: false,
                });
                if std::mem::replace(&mut known.kept, true) {
                    continue;
                }
                Arc::clone(&known.wake)
            };
            new += 1;
            let keeper = keeper::Keeper::new(Arc::clone(self), instance.tenant_id, wake);
            self.base.tasks.spawn(keeper.run());
        }
        Ok(new)
    }
}

fn not_ready(observed: Observed, reason: &str) -> Error {
    let state = format!("{observed:?}").to_lowercase();
    Error::unavailable(
        "the bot",
        if reason.is_empty() { format!("it is {state}") } else { format!("it is {state}: {reason}") },
    )
}

/// The routes of this role.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(api::get::handler)).routes(routes!(api::events::handler))
}

/// The loops of this role.
pub fn loops(app: &App) -> Vec<Loop> {
    let (service, wake) = (Arc::clone(&app.manager), Arc::new(Notify::new()));
    let (listener, woken, stop) = (Arc::clone(&service), Arc::clone(&wake), app.stop.clone());
    let mut events = app.bus.subscribe();
    app.tasks.spawn(async move {
        loop {
            let event = tokio::select! {
                () = stop.cancelled() => return,
                event = events.next() => event,
            };
            match event {
                Some(BusEvent::InstanceChanged { tenant, .. }) => {
                    let kept = listener.bots.read().unwrap_or_else(PoisonError::into_inner).contains_key(&tenant);
                    if !kept {
                        woken.notify_one();
                    }
                }
                Some(BusEvent::TenantChanged(tenant)) => {
                    listener.wake(&tenant);
                    woken.notify_one();
                }
                Some(_) => {}
                None => return,
            }
        }
    });
    let period = seconds(app.config.manager.liveness_period_s);
    vec![Loop::woken("manager.keep_all", period, wake, move || {
        let service = Arc::clone(&service);
        async move { service.keep_all().await }
    })]
}
