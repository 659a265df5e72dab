//! Role `message`: takes messages in once, brings them to the bot, streams the answers.
//!
//! A message is durable before anything else happens to it ([`accept`]); then it waits in a queue in memory
//! ([`queue`]), is brought to the bot ([`deliver`]) and ended ([`ending`]). Of several processes, one has a bot's queue
//! at a time ([`owners`]), and another takes it when that one ends ([`take_over`]). What was on its way then is judged by
//! the bot's own memory ([`repair`]). Whoever reads an answer reads from a log ([`live`]), also from another process's
//! ([`remote`]), and never holds a delivery up.

pub mod accept;
pub mod answer;
mod api;
mod backlog;
mod daily;
mod deliver;
mod ending;
pub mod files;
mod internal;
pub mod live;
mod owners;
mod queue;
mod reading;
mod remote;
mod repair;
mod say;
mod take_over;
mod uploads;
mod waiting;

pub use daily::Taken as Counted;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use astrfleet_core::{
    id::{MessageId, TenantId},
    message::Message,
    ports::{BusEvent, Holder},
    tenant::Tenant,
};
use futures_util::StreamExt;
use tokio::sync::Notify;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument;
use utoipa_axum::router::OpenApiRouter;

use crate::{
    app::{App, Base},
    config::seconds,
    llm,
    loops::Loop,
    manager,
    problem::chain,
    quota::purse::TEND_EVERY,
    tenant,
};

/// No bot answers more chats than this at the same moment, whatever is configured: more only wait inside it.
const CONCURRENT_CHATS_MAX: u32 = 8;
/// How long a stop waits for deliveries to note how far they came.
const DRAIN_MAX: Duration = Duration::from_secs(5);
const REPAIR_PERIOD: Duration = Duration::from_secs(2);
/// What an event that was lost costs at the most.
const DELIVER_PERIOD: Duration = Duration::from_secs(5);
/// The shortest life of a lease.
const LIFE_MIN: Duration = Duration::from_millis(100);

/// Delivers. Cheap to clone: all clones are the same one.
#[derive(Clone)]
pub struct Service {
    base: Arc<Base>,
    tenants: Arc<tenant::Service>,
    manager: Arc<manager::Service>,
    llm: Arc<llm::Service>,
    owners: Arc<owners::Owners>,
    queues: Arc<queue::Queues>,
    backlog: Arc<backlog::Backlog>,
    lives: Arc<live::Lives>,
    daily: Arc<daily::Daily>,
    repairs: Arc<repair::Repairs>,
    uploads: Arc<uploads::Uploads>,
    /// Its loops run: before that, nothing is delivered.
    delivers: Arc<AtomicBool>,
    draining: CancellationToken,
    deliveries: TaskTracker,
    wake_repair: Arc<Notify>,
    wake_waiting: Arc<Notify>,
    wake_take_over: Arc<Notify>,
}

impl Service {
    /// With nothing under way.
    #[must_use]
    pub fn new(
        base: Arc<Base>,
        tenants: Arc<tenant::Service>,
        manager: Arc<manager::Service>,
        llm: Arc<llm::Service>,
    ) -> Self {
        let life = Duration::from_millis(base.config.message.lease_life_ms).max(LIFE_MIN);
        // The manager's lease, say, is renewed apart from these: it has a holder of its own.
        let holder = Holder { id: format!("{}/message", base.me.id), url: base.me.url.clone() };
        Self {
            owners: Arc::new(owners::Owners::new(holder, life)),
            lives: Arc::new(live::Lives::new(seconds(base.config.message.stream_memory_s))),
            uploads: Arc::new(uploads::Uploads::new(
                base.config.message.concurrent_uploads,
                base.config.message.concurrent_uploads_per_tenant,
            )),
            draining: base.stop.child_token(),
            daily: Arc::new(daily::Daily::new(&base)),
            base,
            tenants,
            manager,
            llm,
            queues: Arc::default(),
            backlog: Arc::default(),
            repairs: Arc::default(),
            delivers: Arc::default(),
            deliveries: TaskTracker::new(),
            wake_repair: Arc::default(),
            wake_waiting: Arc::default(),
            wake_take_over: Arc::default(),
        }
    }

    /// Ends what is under way for the end of the process: open streams get `interrupted`, nothing new is claimed. What
    /// is on its way stays so, and is repaired by whoever takes the queue next: they are given back.
    pub async fn drain(&self) {
        self.draining.cancel();
        self.deliveries.close();
        if tokio::time::timeout(DRAIN_MAX, self.deliveries.wait()).await.is_err() {
            tracing::warn!(deliveries = self.deliveries.len(), "deliveries did not end in time");
        }
        self.lives.interrupt_all();
        self.release_all().await;
    }

    /// Takes a place for a file that is to come in.
    ///
    /// # Errors
    /// [`astrfleet_core::Error::TooMany`].
    fn begin_upload(&self, tenant: &TenantId) -> astrfleet_core::Result<uploads::Place> {
        self.uploads.take(tenant)
    }

    fn delivers(&self) -> bool {
        self.delivers.load(Ordering::Relaxed)
    }

    /// Counts one more of a tenant's messages of today, unless what comes of it is dropped.
    ///
    /// # Errors
    /// [`astrfleet_core::Error::QuotaExceeded`].
    pub async fn count(&self, tenant: &Tenant) -> astrfleet_core::Result<Counted> {
        self.daily.take(&tenant.id, self.tenants.plan(tenant)?.messages(), self.base.clock.now()).await
    }

    /// How many chats a bot of a plan answers at the same moment.
    fn concurrent(&self, plan: u32) -> usize {
        self.base.config.message.concurrent_chats.min(plan).clamp(1, CONCURRENT_CHATS_MAX) as usize
    }

    /// Serves whoever's turn it is at the bot of `tenant`.
    fn pump(&self, tenant: &TenantId) {
        if self.draining.is_cancelled() {
            return;
        }
        let Some(held) = self.owners.held(tenant) else { return };
        held.touch();
        while let Some(turn) = self.queues.next(tenant) {
            let span = tracing::info_span!(
                parent: None, "deliver", tenant_id = %turn.tenant, session_id = %turn.session, message_id = %turn.message
            );
            let served = deliver::Served::new(self.clone(), turn, Arc::clone(&held));
            let work = async move {
                let (service, turn) = (served.service.clone(), served.turn.clone());
                let next = service.deliver(&served).await;
                drop(served);
                if matches!(next, deliver::Next::Behind) && service.owners.held(&turn.tenant).is_some() {
                    let concurrent = service.concurrent_of(&turn.tenant).await;
                    service.queues.put(&turn.tenant, &turn.session, &turn.message, concurrent);
                }
                service.pump(&turn.tenant);
            };
            self.base.tasks.spawn(self.deliveries.track_future(work.instrument(span)));
        }
        self.base.metrics.queued.set(i64::try_from(self.queues.waiting()).unwrap_or(i64::MAX));
    }

    /// Wakes the loops when the bus tells of something for them, until the process ends.
    async fn listen(self) {
        let mut events = self.base.bus_events();
        while let Some(event) = events.next().await {
            match event {
                BusEvent::InstanceChanged { .. } => self.wake_repair.notify_one(),
                BusEvent::Missed => {
                    self.owners.forget_all_elsewhere();
                    self.wake_take_over.notify_one();
                    self.wake_waiting.notify_one();
                    self.wake_repair.notify_one();
                    self.look_at(self.queues.all());
                }
                BusEvent::SessionChanged(tenant, session) => {
                    let messages = self.queues.of_session(&tenant, &session).into_iter();
                    self.look_at(messages.map(|message| (tenant.clone(), message)).collect());
                }
                BusEvent::QueueReleased(tenant) => {
                    self.owners.forget_elsewhere(&tenant);
                    self.wake_take_over.notify_one();
                }
                BusEvent::MessageAccepted(tenant, message) => self.hear_of(tenant, message),
                _ => {}
            }
        }
    }

    /// Whoever takes a session over, or closes it, ends the messages that wait in it for the bot or for the end of an answer:
    /// those are not served any more.
    fn look_at(&self, mut messages: Vec<(TenantId, MessageId)>) {
        // A session changes with the end of each message too.
        messages.retain(|(_, message)| self.lives.get(message).is_none_or(|live| !live.has_ended()));
        if messages.is_empty() {
            return;
        }
        let service = self.clone();
        self.base.tasks.spawn(async move {
            for (tenant, message) in messages {
                match service.base.store.messages(&tenant).get(&message).await {
                    Ok(message) if message.state.is_final() => service.leave_ended(&message).await,
                    Ok(_) => {}
                    // It is found out when it is to be given to the bot, or when its answer is to be stored.
                    Err(error) => tracing::debug!(message_id = %message, error = chain(&error), "not looked at"),
                }
            }
        });
    }

    async fn leave_ended(&self, message: &Message) {
        let (tenant, id) = (&message.tenant_id, &message.id);
        self.queues.leave(tenant, id);
        if !self.queues.serves(tenant, id) {
            self.end_as_stored(tenant, id).await;
        }
        self.pump(tenant);
    }

    /// Another process took a message in whose queue is here.
    fn hear_of(&self, tenant: TenantId, message: MessageId) {
        if !self.owners.hear(&tenant) || self.queues.holds(&tenant, &message) {
            return;
        }
        let service = self.clone();
        self.base.tasks.spawn(async move {
            if service.queue_one(&tenant, &message).await.is_err() {
                service.wake_waiting.notify_one();
            }
        });
    }
}

/// The routes of this role.
pub fn routes() -> OpenApiRouter<App> {
    api::routes()
}

/// The routes of this role for other processes.
pub fn internal_routes() -> OpenApiRouter<App> {
    internal::routes()
}

/// The loops of this role.
pub fn loops(app: &App) -> Vec<Loop> {
    let service = (*app.message).clone();
    service.delivers.store(true, Ordering::Relaxed);
    app.tasks.spawn(service.clone().listen());
    let (waiting, repair, purses) = (service.clone(), service.clone(), Arc::clone(service.daily.purses()));
    purses.give_back_at_the_end();
    let (renewing, taking, life) = (service.clone(), service.clone(), service.owners.life);
    vec![
        Loop::every("message.tend_quotas", TEND_EVERY, move || {
            let purses = Arc::clone(&purses);
            async move { purses.tend().await }
        }),
        Loop::every("message.renew_leases", life / 3, move || {
            let service = renewing.clone();
            async move { service.renew_leases().await }
        }),
        Loop::woken("message.take_over", life / 4, Arc::clone(&service.wake_take_over), move || {
            let service = taking.clone();
            async move { service.take_over().await }
        }),
        Loop::woken("message.deliver_waiting", DELIVER_PERIOD, Arc::clone(&service.wake_waiting), move || {
            let service = waiting.clone();
            async move { service.deliver_waiting().await }
        }),
        Loop::woken("message.repair", REPAIR_PERIOD, Arc::clone(&service.wake_repair), move || {
            let service = repair.clone();
            async move { service.repair().await }
        }),
    ]
}
