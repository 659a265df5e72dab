//! Role `gateway`: takes every request in, and knows where it belongs.
//!
//! One plain hyper service per core stands in front of the router, so that what is only passed on stays cheap.
//! `listen` owns sockets and connections, `gate` asks a [`gate::Front`] where each request goes, `forward` passes it to
//! an upstream over the connections of `upstream`; nothing in these files knows a tenant, a token or a status code of
//! ours.

mod bind;
pub mod body;
mod connection;
pub mod forward;
mod front;
pub mod gate;
pub mod headers;
mod health;
pub mod listen;
mod observe;
#[cfg(test)]
mod tests;
pub mod ticks;
mod tunnel;
pub mod upstream;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use astrfleet_core::Result;
use utoipa::openapi::{
    ComponentsBuilder, InfoBuilder, OpenApi, OpenApiBuilder,
    security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme},
};
use utoipa_axum::{router::OpenApiRouter, routes};

pub use self::front::{serve, serve_metrics};
use crate::{
    app::{App, Base},
    idempotency,
};

/// Routes.
pub struct Service {
    base: Arc<Base>,
    draining: AtomicBool,
}

impl Service {
    /// Reads the addresses of remote roles.
    ///
    /// # Errors
    /// [`astrfleet_core::Error::Invalid`] where one cannot be read.
    pub fn new(base: Arc<Base>) -> Result<Self> {
        Ok(Self { base, draining: AtomicBool::new(false) })
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

/// What the API description says of itself.
#[must_use]
pub fn description() -> OpenApi {
    let info = InfoBuilder::new().title("astrfleet").version(env!("CARGO_PKG_VERSION")).build();
    let access_token = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("JWT").build();
    let api_key = ApiKeyValue::with_description("X-API-Key", "Or as a bearer token");
    let components = ComponentsBuilder::new()
        .security_scheme("access_token", SecurityScheme::Http(access_token))
        .security_scheme("virtual_key", SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build()))
        .security_scheme("api_key", SecurityScheme::ApiKey(ApiKey::Header(api_key)))
        .build();
    OpenApiBuilder::new().info(info).components(Some(components)).build()
}

/// The routes of this role.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(health::health)).routes(routes!(health::ready))
}

/// `router` with what surrounds every request: its context, limits, counts and log line.
pub fn layered(router: axum::Router<App>, app: &App) -> axum::Router<App> {
    router
        .layer(axum::middleware::from_fn_with_state(app.clone(), idempotency::layer))
        .layer(axum::middleware::from_fn_with_state(app.clone(), observe::layer))
}
