//! Role `message`: takes messages in once, brings them to the bot, streams the answers.
//!
//! A message is durable before anything else happens to it ([`accept`]); then it waits in a queue in memory
//! ([`queue`]), is brought to the bot ([`deliver`]) and ended ([`ending`]). What an earlier process left on its way is
//! found in the store and judged by the bot's own memory ([`repair`]). Whoever reads an answer reads from a log
//! ([`live`]) and never holds a delivery up.

pub mod accept;
pub mod answer;
mod api;
mod daily;
mod deliver;
mod ending;
pub mod files;
pub mod live;
mod queue;
mod reading;
mod repair;

mod waiting;

use std::{sync::Arc, time::Duration};

use astrfleet_core::{id::TenantId, ports::BusEvent};
use futures_util::StreamExt;
use tokio::sync::{Notify, OnceCell};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument;
use utoipa_axum::router::OpenApiRouter;

use crate::{
    app::{App, Base},
    config::seconds,
    llm,
    loops::Loop,
    manager, tenant,
};

/// No bot answers more chats than this at the same moment, whatever is configured: more only wait inside it.
const CONCURRENT_CHATS_MAX: u32 = 8;
/// How long a stop waits for deliveries to note how far they came.
const DRAIN_MAX: Duration = Duration::from_secs(5);
const REPAIR_PERIOD: Duration = Duration::from_secs(2);
const DELIVER_PERIOD: Duration = Duration::from_secs(30);

/// Delivers. Cheap to clone: all clones are the same one.
#[derive(Clone)]
pub struct Service {
    base: Arc<Base>,
    tenants: Arc<tenant::Service>,
    manager: Arc<manager::Service>,
    llm: Arc<llm::Service>,
    queues: Arc<queue::Queues>,
    lives: Arc<live::Lives>,
    daily: Arc<daily::Daily>,
    repairs: Arc<repair::Repairs>,
    /// Set once when it is known what an earlier process left behind. Before that nothing is delivered, so that nothing
    /// overtakes it.
    recovered: Arc<OnceCell<()>>,
    draining: CancellationToken,
    deliveries: TaskTracker,
    wake_repair: Arc<Notify>,
    wake_waiting: Arc<Notify>,
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
        Self {
            lives: Arc::new(live::Lives::new(seconds(base.config.message.stream_memory_s))),
            draining: base.stop.child_token(),
            base,
            tenants,
            manager,
            llm,
            queues: Arc::default(),
            daily: Arc::default(),
            repairs: Arc::default(),
            recovered: Arc::default(),
            deliveries: TaskTracker::new(),
            wake_repair: Arc::default(),
            wake_waiting: Arc::default(),
        }
    }

    /// Ends what is under way for the end of the process: open streams get `interrupted`, nothing new is claimed. What
    /// is on its way stays so, and is repaired by the next process.
    pub async fn drain(&self) {
        self.draining.cancel();
        self.deliveries.close();
        if tokio::time::timeout(DRAIN_MAX, self.deliveries.wait()).await.is_err() {
            tracing::warn!(deliveries = self.deliveries.len(), "deliveries did not end in time");
        }
        self.lives.interrupt_all();
    }

    /// How many chats a bot of a plan answers at the same moment.
    fn concurrent(&self, plan: u32) -> usize {
        self.base.config.message.concurrent_chats.min(plan).clamp(1, CONCURRENT_CHATS_MAX) as usize
    }

    /// Serves whoever's turn it is at the bot of `tenant`.
    fn pump(&self, tenant: &TenantId) {
        if !self.recovered.initialized() || self.draining.is_cancelled() {
            return;
        }
        while let Some(turn) = self.queues.next(tenant) {
            let span = tracing::info_span!(
                parent: None, "deliver", tenant_id = %turn.tenant, session_id = %turn.session, message_id = %turn.message
            );
            let served = deliver::Served::new(self.clone(), turn);
            let work = async move {
                let service = served.service.clone();
                let tenant = served.turn.tenant.clone();
                service.deliver(&served.turn).await;
                drop(served);
                service.pump(&tenant);
            };
            self.base.tasks.spawn(self.deliveries.track_future(work.instrument(span)));
        }
        self.base.metrics.queued.set(i64::try_from(self.queues.waiting()).unwrap_or(i64::MAX));
    }

    /// Wakes the loops when the bus tells of something for them, until the process ends.
    async fn listen(self) {
        let mut events = self.base.bus.subscribe();
        loop {
            let event = tokio::select! {
                () = self.base.stop.cancelled() => return,
                event = events.next() => event,
            };
            match event {
                None => return,
                Some(BusEvent::InstanceChanged { .. } | BusEvent::Missed) => {
                    self.wake_waiting.notify_one();
                    self.wake_repair.notify_one();
                }
                Some(BusEvent::MessageAccepted(tenant, message)) if !self.queues.holds(&tenant, &message) => {
                    self.wake_waiting.notify_one();
                }
                Some(_) => {}
            }
        }
    }
}

/// The routes of this role.
pub fn routes() -> OpenApiRouter<App> {
    api::routes()
}

/// The loops of this role.
pub fn loops(app: &App) -> Vec<Loop> {
    let service = (*app.message).clone();
    app.tasks.spawn(service.clone().listen());
    let (waiting, repair) = (service.clone(), service.clone());
    vec![
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
