//! `/api/v1/tenants/{tenant}/webhooks`. One file per endpoint.

mod change;
mod create;
mod delete;
mod get;
mod get_delivery;
mod list;
mod list_deliveries;
mod replay;
mod rotate_secret;

use astrfleet_core::webhook::Webhook;
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::app::App;

/// The routes of this folder.
pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list::handler, create::handler))
        .routes(routes!(get::handler, change::handler, delete::handler))
        .routes(routes!(rotate_secret::handler))
        .routes(routes!(list_deliveries::handler))
        .routes(routes!(get_delivery::handler))
        .routes(routes!(replay::handler))
}

/// A webhook with the secret that it signs with from now on.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct WebhookWithSecret {
    #[serde(flatten)]
    webhook: Webhook,
    /// For whoever checks the signatures (Standard Webhooks). Shown this once.
    #[schema(example = "whsec_…")]
    secret: String,
}

impl WebhookWithSecret {
    fn new(webhook: Webhook, secret: &SecretString) -> Self {
        Self { webhook, secret: secret.expose_secret().to_owned() }
    }
}
