//! Role `gateway`: takes every request in, and knows where it belongs.
//!
//! One plain hyper service per core stands in front of the router, so that what is only passed on stays cheap.
//! `listen` owns sockets and connections, `gate` asks a [`gate::Front`] where each request goes, `forward` passes it to
//! an upstream over the connections of `upstream`; nothing in these files knows a tenant, a token or a status code of
//! ours.

pub mod body;
mod connection;
pub mod forward;
pub mod gate;
pub mod headers;
pub mod listen;
#[cfg(test)]
mod tests;
pub mod ticks;
mod tunnel;
pub mod upstream;

use std::sync::Arc;

use astrfleet_core::Result;
use utoipa::openapi::{InfoBuilder, OpenApi, OpenApiBuilder};
use utoipa_axum::router::OpenApiRouter;

use crate::app::{App, Base};

/// Routes.
pub struct Service {
    base: Arc<Base>,
}

impl Service {
    /// Reads the addresses of remote roles.
    ///
    /// # Errors
    /// [`astrfleet_core::Error::Invalid`] where one cannot be read.
    pub fn new(base: Arc<Base>) -> Result<Self> {
        Ok(Self { base })
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
    OpenApiBuilder::new().info(info).build()
}

/// The routes of this role.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
}

/// `router` with what surrounds every request: its context, limits, counts and log line.
pub fn layered(router: axum::Router<App>, _: &App) -> axum::Router<App> {
    router
}
