//! Where webhooks and their deliveries are kept.
//!
//! A delivery is claimed before it is tried, until a moment by the clock of the store, so that two processes do not try
//! the same one at the same time whatever their own clocks say. A claim has a number, the attempt's: who comes back
//! after their claim ran out and was given to another changes nothing.

use std::time::Duration;

use async_trait::async_trait;

use crate::{
    error::Result,
    id::{DeliveryId, EventId, TenantId, WebhookId},
    page::{Page, PageRequest},
    time::Timestamp,
    webhook::{Delivery, DisabledReason, State, Tried, Webhook},
};

/// What a webhook signs with. Both are sealed: the store cannot read them.
#[derive(Clone, PartialEq, Eq)]
pub struct SealedSecrets {
    /// The one that counts.
    pub current: String,
    /// Those before it, the newest last, and until when each signs too.
    pub previous: Vec<(String, Timestamp)>,
}

impl std::fmt::Debug for SealedSecrets {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("SealedSecrets")
    }
}

/// What a fan-out adds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewDelivery {
    /// `dlv_…`
    pub id: DeliveryId,
    /// Which event.
    pub event: EventId,
    /// Its kind.
    pub kind: String,
    /// Its session.
    pub session_id: Option<crate::id::SessionId>,
}

/// Who is tried often enough just now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PassOver {
    /// All webhooks of these.
    pub tenants: Vec<TenantId>,
    /// These.
    pub webhooks: Vec<WebhookId>,
}

/// What came of noting a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recorded {
    /// It counts.
    Noted,
    /// It counts, and the webhook was switched off for it.
    Disabled(DisabledReason),
    /// The claim was given to another since, or the webhook is gone.
    Lost,
}

/// Webhooks of one tenant.
#[async_trait]
pub trait Webhooks: Send + Sync {
    /// Stores a new one, which is told of what happens from now on.
    ///
    /// # Errors
    /// [`crate::Error::Conflict`] where there are `max` already.
    async fn insert(&self, webhook: &Webhook, sealed_secret: &str, max: u32) -> Result<()>;
    /// The newest last.
    async fn list(&self, page: &PageRequest) -> Result<Page<Webhook>>;
    /// # Errors
    /// [`crate::Error::NotFound`].
    async fn get(&self, id: &WebhookId) -> Result<Webhook>;
    /// Stores a changed one if its `version` is still the stored one. Returns it as stored. One that is switched off
    /// gives its deliveries up; one that is switched on begins with what happens from then on.
    ///
    /// # Errors
    /// [`crate::Error::Stale`].
    async fn update(&self, webhook: &Webhook) -> Result<Webhook>;
    /// Makes another secret the one that counts; the one before it signs too until `overlap_until`, and those before that
    /// as long as they were to.
    ///
    /// # Errors
    /// [`crate::Error::NotFound`]; [`crate::Error::Conflict`] where others do the same again and again.
    async fn rotate(
        &self,
        id: &WebhookId,
        sealed_secret: &str,
        overlap_until: Timestamp,
        now: Timestamp,
    ) -> Result<Webhook>;
    /// With its deliveries.
    ///
    /// # Errors
    /// [`crate::Error::NotFound`].
    async fn delete(&self, id: &WebhookId) -> Result<()>;
    /// # Errors
    /// [`crate::Error::NotFound`].
    async fn secrets(&self, id: &WebhookId) -> Result<SealedSecrets>;
    /// The place of the last event for which it has its deliveries.
    ///
    /// # Errors
    /// [`crate::Error::NotFound`].
    async fn seen(&self, id: &WebhookId) -> Result<i64>;
    /// Adds the deliveries for all events after the place `from` up to the place `to`. Does nothing and returns `false`
    /// where somebody else did it, or it is switched off.
    async fn fan_out(
        &self,
        id: &WebhookId,
        from: i64,
        to: i64,
        deliveries: &[NewDelivery],
        now: Timestamp,
    ) -> Result<bool>;
}

/// Deliveries of one webhook.
#[async_trait]
pub trait Deliveries: Send + Sync {
    /// The newest first. `state` narrows the list.
    async fn list(&self, state: Option<State>, page: &PageRequest) -> Result<Page<Delivery>>;
    /// # Errors
    /// [`crate::Error::NotFound`].
    async fn get(&self, id: &DeliveryId) -> Result<Delivery>;
    /// Adds one that does another one again. It waits for no other.
    async fn replay(&self, delivery: &Delivery) -> Result<()>;
    /// Claims at most `limit` that are due at `now` and have nothing of their session before them, for `life`. Each comes
    /// with its attempt counted.
    async fn claim(&self, now: Timestamp, life: Duration, limit: u32) -> Result<Vec<Delivery>>;
    /// Notes what came of the try for which `claimed` was claimed, and what follows: `again` is the random number for
    /// the wait, `give_up_after` how long a webhook may fail. An event tells where it is switched off.
    async fn record(
        &self,
        claimed: &Delivery,
        tried: &Tried,
        now: Timestamp,
        again: u32,
        give_up_after: Duration,
    ) -> Result<Recorded>;
    /// Gives a claim back: it was not tried.
    async fn release(&self, claimed: &Delivery) -> Result<()>;
}
