//! Role `llm`: the gateway between bots and providers of models. OpenAI's shapes and errors.

mod api;
pub mod demo;
pub mod error;

use std::sync::Arc;

use astrfleet_core::{Error, Result, id::InstanceId, instance::Instance, message::Failure, time::Timestamp};
use http::HeaderMap;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    app::{App, Base},
    extract::credential,
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

    /// The bot whose virtual key this is.
    ///
    /// # Errors
    /// [`Error::Unauthenticated`]; [`Error::Forbidden`] where its tenant is not served.
    pub async fn bot_of(&self, headers: &HeaderMap) -> Result<Instance> {
        let refused = || Error::Unauthenticated { reason: "this is no virtual key of a bot that runs here" };
        let key = credential(headers).ok_or_else(refused)?;
        let (instance, version) = self.base.secrets.read_llm_key(key).ok_or_else(refused)?;
        let found = self.base.store.system("a bot calls its model").instance(&instance).await?;
        if found.secrets_version != version {
            return Err(refused());
        }
        self.tenants.resolve(found.tenant_id.as_str()).await?.must_be_served()?;
        Ok(found)
    }

    /// Why the last call of a bot's model since `since` failed, if it did: a bot tells of it in plain text only.
    #[must_use]
    pub fn failure_since(&self, _instance: &InstanceId, _since: Timestamp) -> Option<Failure> {
        None
    }
}

/// The routes of this role.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(api::chat_completions::handler)).routes(routes!(api::models::handler))
}

/// The loops of this role.
pub fn loops(_: &App) -> Vec<Loop> {
    Vec::new()
}
