//! Role `llm`: the gateway between bots and providers of models. OpenAI's shapes and errors.

use std::sync::Arc;

use astrfleet_core::{Result, id::InstanceId, message::Failure, time::Timestamp};
use utoipa_axum::router::OpenApiRouter;

use crate::{
    app::{App, Base},
    loops::Loop,
    tenant,
};

/// Calls models and keeps the ledger.
pub struct Service {
    base: Arc<Base>,
    tenants: Arc<tenant::Service>,
}

impl Service {
    /// Prepares the upstreams.
    ///
    /// # Errors
    /// [`astrfleet_core::Error::Invalid`] where an upstream's address cannot be read.
    pub fn new(base: Arc<Base>, tenants: Arc<tenant::Service>) -> Result<Self> {
        Ok(Self { base, tenants })
    }

    /// Why the last call of a bot's model since `since` failed, if it did: a bot tells of it in plain text only.
    #[must_use]
    pub fn failure_since(&self, _instance: &InstanceId, _since: Timestamp) -> Option<Failure> {
        let _ = (&self.base, &self.tenants);
        None
    }
}

/// The routes of this role.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
}

/// The loops of this role.
pub fn loops(_: &App) -> Vec<Loop> {
    Vec::new()
}
