//! Role `message`: takes messages in once, brings them to the bot, streams the answers.

use std::sync::Arc;

use utoipa_axum::router::OpenApiRouter;

use crate::{
    app::{App, Base},
    llm,
    loops::Loop,
    manager, tenant,
};

/// Delivers.
pub struct Service {
    base: Arc<Base>,
    tenants: Arc<tenant::Service>,
    manager: Arc<manager::Service>,
    llm: Arc<llm::Service>,
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
        Self { base, tenants, manager, llm }
    }

    /// Ends what is under way for the end of the process: open streams get `interrupted`, nothing new is claimed.
    pub async fn drain(&self) {
        let _ = (&self.base, &self.tenants, &self.manager, &self.llm);
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
