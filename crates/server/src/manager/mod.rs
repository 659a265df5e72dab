//! Role `manager`: brings every bot from what is seen to what is wanted.
//!
//! `decide` says what to do next about one bot, `keeper` does it, one task a bot; this file knows where all of them are.

mod api;
mod decide;
mod keeper;
mod lead;
mod learn;
mod operate;
mod permit;
mod spec;
mod stop;
mod take_over;
mod talk;

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::Duration,
};

use astrfleet_core::{
    Error, Result,
    id::TenantId,
    instance::{Desired, Instance, Observed},
    page::PageRequest,
    ports::{BotAccess, BusEvent},
};
use futures_util::StreamExt;
use tokio::sync::{Mutex, Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::task::TaskTracker;
use utoipa_axum::router::OpenApiRouter;

use crate::{
    app::{App, Base},
    config::{millis, seconds},
    loops::Loop,
    metrics::StateLabel,
    tenant,
};

pub use self::{
    api::view::InstanceView,
    learn::{internal_routes, learning},
    operate::Operation,
};

/// The reason of a bot whose data is gone.
pub const ERASED: &str = "erased";

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
    /// Of a bot that was found running, until its keeper has it.
    place: Option<OwnedSemaphorePermit>,
}

impl Known {
    fn new(instance: Instance, route: Route) -> Self {
        Self { instance, route, wake: Arc::new(Notify::new()), kept: false, place: None }
    }
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
    /// Held while a port is chosen and written down: none is given twice.
    choosing_port: Mutex<()>,
    keepers: TaskTracker,
    lead: lead::Lead,
    channels: talk::ChannelCache,
}

impl Service {
    /// Knows of no bot yet. `keeps` where this process has the role, for now without anybody beside it.
    #[must_use]
    pub fn new(base: Arc<Base>, tenants: Arc<tenant::Service>, keeps: bool) -> Self {
        let config = &base.config.manager;
        Self {
            places: Arc::new(Semaphore::new(config.max_instances as usize)),
            turns: Arc::new(Semaphore::new(config.concurrent_starts.max(1))),
            base,
            tenants,
            llm_base_url: OnceLock::new(),
            bots: RwLock::default(),
            changed: Notify::new(),
            choosing_port: Mutex::default(),
            keepers: TaskTracker::new(),
            lead: lead::Lead::new(keeps),
            channels: talk::channel_cache(),
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

    /// Where the bridges in bots ask: beside the model gateway.
    fn bridge_url(&self) -> Result<String> {
        let configured = self.base.config.bridge.url.trim_end_matches('/');
        if !configured.is_empty() {
            return Ok(configured.to_owned());
        }
        let llm = self.llm_base_url()?;
        Ok(format!("{}/bridge/v1", llm.strip_suffix("/llm/v1").unwrap_or(&llm)))
    }

    /// Where the bot of `tenant` is: from memory.
    pub fn route(&self, tenant: &TenantId) -> Route {
        self.known().get(tenant).map_or_else(
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
                    Route::NotReady { observed: observed @ (Observed::Failed | Observed::Deleting), reason } => {
                        return Err(not_ready(observed, &reason));
                    }
                    Route::NotReady { observed: observed @ Observed::Suspended, reason } => {
                        // Its keeper may not have seen yet that it is to run again.
                        if self.base.store.instances(tenant).get().await?.desired != Desired::Running {
                            return Err(not_ready(observed, &reason));
                        }
                        changed.await;
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

    /// Looks at a bot again at once: something was changed. Returns whether it has a keeper that hears it.
    pub fn wake(&self, tenant: &TenantId) -> bool {
        let bots = self.known();
        let Some(known) = bots.get(tenant).filter(|known| known.kept) else { return false };
        known.wake.notify_one();
        true
    }

    /// Lets every keeper look again.
    fn wake_all(&self) {
        self.known().values().filter(|known| known.kept).for_each(|known| known.wake.notify_one());
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

    /// Stores what changed and tells everybody.
    pub(crate) async fn write(&self, instance: &Instance) -> Result<Instance> {
        let written = self.base.store.instances(&instance.tenant_id).update(instance).await?;
        self.know(&written);
        self.base
            .bus
            .publish(BusEvent::InstanceChanged { tenant: written.tenant_id.clone(), instance: written.id.clone() });
        Ok(written)
    }

    /// Gives a bot that is about to start a number and a port that are nobody else's. Written down before its process
    /// begins: whatever an older process still says is not believed from here on.
    async fn renew(&self, instance: Instance) -> Result<(Instance, u16)> {
        let _alone = self.choosing_port.lock().await;
        let taken: Vec<u16> = self.known().values().filter_map(|known| known.instance.port).collect();
        let port = self.base.runtime.free_port(&taken).await?;
        let renewed = Instance {
            port: Some(port),
            generation: instance.generation + 1,
            version: self.base.runtime.astrbot_version().to_owned(),
            reason: String::new(),
            ..instance
        };
        Ok((self.write(&renewed).await?, port))
    }

    /// Remembers where a bot is, unless something newer is known of it.
    fn know(&self, instance: &Instance) {
        let route = match self.access(instance) {
            Ok(access) if instance.is_ready() => Route::Ready { access, generation: instance.generation },
            _ => Route::NotReady { observed: instance.observed, reason: instance.reason.clone() },
        };
        let mut bots = self.known_mut();
        match bots.get_mut(&instance.tenant_id) {
            Some(known) if known.instance.version_lock >= instance.version_lock => return,
            Some(known) => {
                known.instance = instance.clone();
                known.route = route;
            }
            None => {
                bots.insert(instance.tenant_id.clone(), Known::new(instance.clone(), route));
            }
        }
        drop(bots);
        self.count();
        self.changed.notify_waiters();
    }

    fn forget(&self, tenant: &TenantId) {
        self.known_mut().remove(tenant);
        self.count();
        self.changed.notify_waiters();
    }

    /// Its keeper is gone: the next run of `keep_all` makes another one.
    fn unkept(&self, tenant: &TenantId) {
        if let Some(known) = self.known_mut().get_mut(tenant) {
            known.kept = false;
        }
    }

    fn known(&self) -> RwLockReadGuard<'_, HashMap<TenantId, Known>> {
        self.bots.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn known_mut(&self) -> RwLockWriteGuard<'_, HashMap<TenantId, Known>> {
        self.bots.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self) {
        let mut counts: HashMap<Observed, i64> = HashMap::new();
        for known in self.known().values() {
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

    /// Gives every bot a keeper that has none. Returns how many keepers are new.
    async fn keep_all(self: &Arc<Self>) -> Result<u64> {
        if !self.keeps_bots() {
            return Ok(0);
        }
        let mut new = 0;
        for instance in self.all_instances().await? {
            self.know(&instance);
            let tenant = instance.tenant_id;
            let (wake, place) = match self.known_mut().get_mut(&tenant) {
                Some(known) if !known.kept => {
                    known.kept = true;
                    (Arc::clone(&known.wake), known.place.take())
                }
                _ => continue,
            };
            new += 1;
            self.keepers.spawn(keeper::Keeper::new(Arc::clone(self), tenant, wake, place).run());
        }
        Ok(new)
    }
}

fn not_ready(observed: Observed, reason: &str) -> Error {
    Error::unavailable("the bot", in_words(observed, reason))
}

fn in_words(observed: Observed, reason: &str) -> String {
    let state = format!("{observed:?}").to_lowercase();
    if reason.is_empty() { format!("it is {state}") } else { format!("it is {state}: {reason}") }
}

/// The routes of this role.
pub fn routes() -> OpenApiRouter<App> {
    api::routes()
}

/// The loops of this role.
pub fn loops(app: &App) -> Vec<Loop> {
    let (service, wake) = (Arc::clone(&app.manager), Arc::new(Notify::new()));
    let (listener, woken) = (Arc::clone(&service), Arc::clone(&wake));
    let mut events = app.bus_events();
    app.tasks.spawn(async move {
        while let Some(event) = events.next().await {
            match event {
                BusEvent::InstanceChanged { tenant, .. } | BusEvent::TenantChanged(tenant) => {
                    let has_keeper = listener.wake(&tenant);
                    // A bot without one is found in the store.
                    if !has_keeper {
                        woken.notify_one();
                    }
                }
                BusEvent::Missed => {
                    listener.wake_all();
                    woken.notify_one();
                }
                _ => {}
            }
        }
    });
    let period = seconds(app.config.manager.liveness_period_s);
    let (seeker, heir) = (Arc::clone(&service), Arc::clone(&service));
    let (found, kept) = (Arc::new(Notify::new()), Arc::clone(&wake));
    let mut loops = vec![Loop::woken("manager.keep_all", period, wake, move || {
        let service = Arc::clone(&service);
        async move { service.keep_all().await }
    })];
    if app.manager.is_shared() {
        let (life, tell) = (millis(app.config.manager.lease_life_ms), Arc::clone(&found));
        loops.push(Loop::every("manager.seek", life / 3, move || {
            let (service, tell) = (Arc::clone(&seeker), Arc::clone(&tell));
            async move {
                let changed = service.seek(life).await?;
                tell.notify_one();
                Ok(changed)
            }
        }));
        loops.push(Loop::woken("manager.take_over", period, found, move || {
            let (service, kept) = (Arc::clone(&heir), Arc::clone(&kept));
            async move {
                let taken = service.take_over_bots().await?;
                if taken > 0 {
                    kept.notify_one();
                }
                Ok(taken)
            }
        }));
    }
    loops
}
