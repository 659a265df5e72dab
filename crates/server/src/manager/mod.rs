//! Role `manager`: brings every bot from what is seen to what is wanted.

use std::{sync::Arc, time::Duration};

use astrfleet_core::{Result, id::TenantId, instance::Observed, ports::BotAccess};
use utoipa_axum::router::OpenApiRouter;

use crate::{
    app::{App, Base},
    loops::Loop,
    tenant,
};

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

/// Keeps bots, and knows where they are.
pub struct Service {
    base: Arc<Base>,
    tenants: Arc<tenant::Service>,
}

impl Service {
    /// Knows of no bot yet.
    #[must_use]
    pub fn new(base: Arc<Base>, tenants: Arc<tenant::Service>) -> Self {
        Self { base, tenants }
    }

    /// Where the bot of `tenant` is: from memory.
    #[must_use]
    pub fn route(&self, _tenant: &TenantId) -> Route {
        let _ = (&self.base, &self.tenants);
        Route::NotReady { observed: Observed::Pending, reason: String::new() }
    }

    /// Waits until the bot of `tenant` is ready, or will not become so, or `limit` is over.
    ///
    /// # Errors
    /// [`astrfleet_core::Error::Unavailable`] that says in which state it is and why.
    pub async fn wait_ready(&self, _tenant: &TenantId, _limit: Duration) -> Result<(BotAccess, i64)> {
        Err(astrfleet_core::Error::unavailable("the bot", "it is not started"))
    }

    /// Looks at a bot again at once: something was changed.
    pub fn wake(&self, _tenant: &TenantId) {}
}

/// The routes of this role.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
}

/// The loops of this role.
pub fn loops(_: &App) -> Vec<Loop> {
    Vec::new()
}
