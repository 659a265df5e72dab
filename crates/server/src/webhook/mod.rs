//! Webhooks: a tenant's own systems are told of what happens. Part of the role `message`.
//!
//! What happened is in the outbox ([`crate::events`]). [`fan_out`] makes a delivery of each event for each webhook that
//! wants it, [`deliver`] claims deliveries and tries them, one try being in [`send`]: to an address that was looked at
//! ([`address`]) and signed ([`sign`]). Each event is told at least once. Nothing in here holds up what it tells of.

mod address;
mod api;
mod deliver;
mod fan_out;
mod forget;
mod manage;
mod network;
mod send;
mod sign;
mod target;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use arc_swap::ArcSwap;
use astrfleet_core::{Error, Result, ports::BusEvent, time::Timestamp};
use futures_util::StreamExt;
use rustls::{ClientConfig, RootCertStore};
use tokio::sync::{Notify, OnceCell, Semaphore};
use utoipa_axum::router::OpenApiRouter;

pub use self::network::Network;
use crate::{
    app::{App, Base},
    auth,
    loops::Loop,
};

/// How often is looked for events that nobody told of.
const FAN_OUT_PERIOD: Duration = Duration::from_secs(5);
/// How often is looked for what is due.
const DELIVER_PERIOD: Duration = Duration::from_secs(1);
/// How often old deliveries are deleted.
const FORGET_PERIOD: Duration = Duration::from_mins(1);
/// The shortest time between two looks for events, however many there are.
const GATHER: Duration = Duration::from_millis(100);

/// Tells receivers.
pub struct Service {
    base: Arc<Base>,
    auth: Arc<auth::Service>,
    network: ArcSwap<Box<dyn Network>>,
    /// Made when it is first needed: reading this machine's certificates takes a while.
    tls: OnceCell<Arc<ClientConfig>>,
    slots: Arc<Semaphore>,
    /// How many tries run for whom.
    busy: Mutex<deliver::Busy>,
    wake_fan_out: Arc<Notify>,
    wake_deliver: Arc<Notify>,
}

impl Service {
    /// With nothing under way.
    #[must_use]
    pub fn new(base: Arc<Base>, auth: Arc<auth::Service>) -> Self {
        let network: Box<dyn Network> = Box::new(network::Internet);
        let slots = base.config.webhooks.concurrency.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            base,
            auth,
            network: ArcSwap::from_pointee(network),
            tls: OnceCell::new(),
            slots: Arc::new(Semaphore::new(slots)),
            busy: Mutex::default(),
            wake_fan_out: Arc::default(),
            wake_deliver: Arc::default(),
        }
    }

    /// The time that counts for deliveries: other processes go by what this one writes, and receivers look at when something was
    /// signed.
    async fn now(&self) -> Result<Timestamp> {
        self.base.time_for_all(&*self.base.store.system("the time of deliveries")).await
    }

    /// Takes another way to names and addresses than this machine's.
    pub fn set_network(&self, network: impl Network + 'static) {
        let network: Box<dyn Network> = Box::new(network);
        self.network.store(Arc::new(network));
    }

    /// Trusts these instead of whom this machine trusts: for receivers whose certificates nobody else has signed. Counts where
    /// nothing was sent before.
    ///
    /// # Errors
    /// [`Error::Internal`] where something was.
    pub fn trust(&self, roots: RootCertStore) -> Result<()> {
        let config = send::tls_config(|builder| builder.with_root_certificates(roots))?;
        self.tls.set(Arc::new(config)).map_err(Error::internal)
    }

    /// Wakes the loops when the bus tells of something, until the process ends.
    async fn listen(self: Arc<Self>) {
        let mut events = self.base.bus_events();
        while let Some(event) = events.next().await {
            if matches!(
                event,
                BusEvent::MessageAccepted(..)
                    | BusEvent::SessionChanged(..)
                    | BusEvent::TenantChanged(_)
                    | BusEvent::Missed
            ) {
                self.wake_fan_out.notify_one();
                tokio::time::sleep(GATHER).await;
            }
        }
    }
}

/// The routes of this part.
pub fn routes() -> OpenApiRouter<App> {
    api::routes()
}

/// The loops of this part.
pub fn loops(app: &App) -> Vec<Loop> {
    let service = Arc::clone(&app.webhook);
    app.tasks.spawn(Arc::clone(&service).listen());
    let (fanning, delivering, forgetting) = (Arc::clone(&service), Arc::clone(&service), Arc::clone(&service));
    vec![
        Loop::woken("webhook.fan_out", FAN_OUT_PERIOD, Arc::clone(&service.wake_fan_out), move || {
            let service = Arc::clone(&fanning);
            async move { service.fan_out().await }
        }),
        Loop::woken("webhook.deliver", DELIVER_PERIOD, Arc::clone(&service.wake_deliver), move || {
            let service = Arc::clone(&delivering);
            async move { service.deliver().await }
        }),
        Loop::every("webhook.forget", FORGET_PERIOD, move || {
            let service = Arc::clone(&forgetting);
            async move { forget::run(&service.base).await }
        }),
    ]
}
