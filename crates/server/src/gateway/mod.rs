//! Role `gateway`: takes every request in, and knows where it belongs.
//!
//! One plain hyper service per core stands in front of the router, so that what is only passed on stays cheap.
//! `listen` owns sockets and connections, `gate` asks a [`gate::Front`] where each request goes, `forward` passes it to
//! an upstream over the connections of `upstream`; nothing in these files knows a tenant, a token or a status code of
//! ours.

mod admission;
mod arrival;
mod balance;
mod bind;
pub mod body;
mod chunked;
mod connection;
pub mod dashboard;
mod describe;
pub mod forward;
mod front;
pub mod gate;
pub mod headers;
mod health;
mod hooks;
mod hosts;
pub mod listen;
mod metrics_port;
mod observe;
mod places;
mod progress;
mod reference;
mod remote;
mod share;
#[cfg(test)]
mod tests;
pub mod ticks;
mod trace;
mod tunnel;
pub mod upstream;
mod visit;
mod way;
mod wire;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use astrfleet_core::{Result, ports::BusEvent};
use axum::{extract::DefaultBodyLimit, middleware::from_fn_with_state, routing::get};
use futures_util::StreamExt;
use utoipa_axum::{router::OpenApiRouter, routes};

use self::remote::Remote;
pub use self::{
    describe::description,
    front::serve,
    metrics_port::serve_metrics,
    remote::{STANDS_BY, check_address, loopback},
};
use crate::{
    app::{App, Base},
    idempotency, internal,
};

/// By then everybody in this process has heard of a change.
const SETTLED_AFTER: Duration = Duration::from_millis(200);

/// Routes.
pub struct Service {
    base: Arc<Base>,
    draining: AtomicBool,
    /// Counts what was changed of tenants, people, logins and keys.
    changes: Arc<AtomicU64>,
    dashboards: dashboard::Dashboards,
    remote: Arc<Remote>,
}

impl Service {
    /// Reads the addresses of remote roles.
    ///
    /// # Errors
    /// [`astrfleet_core::Error::Invalid`] where one cannot be read.
    pub fn new(base: Arc<Base>) -> Result<Self> {
        let dashboards = dashboard::Dashboards::new(&base)?;
        let remote = Arc::new(Remote::new(&base)?);
        Ok(Self { base, draining: AtomicBool::new(false), changes: Arc::default(), dashboards, remote })
    }

    /// The roles that are not in this process.
    fn remote(&self) -> Arc<Remote> {
        Arc::clone(&self.remote)
    }

    /// Grows when anything changes that may matter to who may do what: whatever was found out before is asked again.
    fn epoch(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Listens to what is changed, here and in other processes, until the process ends.
    fn watch_changes(&self) {
        let (changes, mut events) = (Arc::clone(&self.changes), self.base.bus_events());
        self.base.tasks.spawn(async move {
            while let Some(event) = events.next().await {
                match event {
                    BusEvent::TenantChanged(_)
                    | BusEvent::MembershipChanged(_)
                    | BusEvent::LoginEnded(_)
                    | BusEvent::KeyRevoked(_)
                    | BusEvent::Missed => {}
                    _ => continue,
                }
                changes.fetch_add(1, Ordering::Release);
                // Whoever is told at the same time may have answered from memory in between: once more.
                tokio::time::sleep(SETTLED_AFTER).await;
                changes.fetch_add(1, Ordering::Release);
            }
        });
    }

    /// The host of a bot's own dashboard.
    pub fn dashboard_url(&self, tenant: &str) -> String {
        let config = &self.base.config.gateway;
        let scheme = if config.public_url.starts_with("https://") { "https" } else { "http" };
        let port = config.listen.port();
        if config.public_url.is_empty() {
            format!("{scheme}://{tenant}.{}:{port}", config.dashboard_domain)
        } else {
            format!("{scheme}://{tenant}.{}", config.dashboard_domain)
        }
    }

    /// A stop was asked for: `/ready` answers 503 from now on.
    pub fn begin_drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
    }

    /// Whether a stop was asked for.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    /// The address that users see, without a slash at its end.
    #[must_use]
    pub fn public_url(&self) -> String {
        let config = &self.base.config.gateway;
        if config.public_url.is_empty() { format!("http://{}", config.listen) } else { config.public_url.clone() }
    }
}

/// The routes of every process, whatever it does.
pub fn health_routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(health::health)).routes(routes!(health::ready))
}

/// The routes of whoever keeps the bots: links to their own dashboards are given out where they are used.
pub fn dashboard_routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(dashboard::open::handler))
}

/// The routes of this role.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().route("/", get(reference::page)).route("/openapi.json", get(reference::description))
}

/// `router` with what surrounds every request: its context, limits, counts and log line.
pub fn layered(router: axum::Router<App>, app: &App) -> axum::Router<App> {
    let body_bytes_max = usize::try_from(app.config.gateway.max_body_bytes).unwrap_or(usize::MAX);
    router
        .layer(DefaultBodyLimit::max(body_bytes_max))
        .layer(from_fn_with_state(app.clone(), idempotency::layer))
        .layer(from_fn_with_state(app.clone(), dashboard::layer))
        .layer(from_fn_with_state(app.clone(), observe::layer))
        .layer(from_fn_with_state(app.clone(), internal::layer))
}
