//! What a tenant does with its webhooks. Secrets are sealed with a key that is derived, so that the database alone is
//! worth nothing to whoever wants to pass for us.

use astrfleet_core::{
    Error, Result,
    event::Kind,
    id::{DeliveryId, TenantId, WebhookId},
    ports::SealedSecrets,
    text::display_name,
    time::Timestamp,
    webhook::{DESCRIPTION_CHARS_MAX, Delivery, State, Webhook},
};
use secrecy::SecretString;

use super::{Service, sign::new_secret, target::Target};
use crate::config::seconds;

/// What the key that seals secrets is derived for.
const SEAL: &str = "webhook secrets";

/// A webhook as it is to be.
pub struct NewWebhook {
    /// Where events are sent.
    pub url: String,
    /// Which kinds; none: all.
    pub events: Vec<Kind>,
    /// For people; may be empty.
    pub description: String,
    /// Whether anything is sent.
    pub enabled: bool,
}

/// What is to be different; what is missing stays.
#[derive(Default)]
pub struct WebhookChange {
    /// Where events are sent.
    pub url: Option<String>,
    /// Which kinds; none: all.
    pub events: Option<Vec<Kind>>,
    /// For people; may be empty.
    pub description: Option<String>,
    /// Whether anything is sent.
    pub enabled: Option<bool>,
}

impl Service {
    /// Makes one. Its secret is in the answer, and nowhere else.
    ///
    /// # Errors
    /// [`Error::Invalid`]; [`Error::Conflict`] where the tenant has too many already.
    pub async fn create(&self, tenant: &TenantId, new: NewWebhook) -> Result<(Webhook, SecretString)> {
        Target::read(&new.url, &self.base.config.webhooks)?;
        let now = self.base.clock.now();
        let webhook = Webhook {
            id: self.base.ids.webhook(),
            tenant_id: tenant.clone(),
            url: new.url,
            events: ordered(new.events),
            description: description(&new.description)?,
            enabled: new.enabled,
            disabled_reason: None,
            failing_since: None,
            previous_secret_until: None,
            created_at: now,
            updated_at: now,
            version: 1,
        };
        let secret = new_secret(&*self.base.rng);
        let sealed = self.base.secrets.seal(SEAL, webhook.id.as_str(), &secret)?;
        let max = self.base.config.webhooks.max_per_tenant;
        self.base.store.webhooks(tenant).insert(&webhook, &sealed, max).await?;
        Ok((webhook, secret))
    }

    /// Changes one that the caller has seen as `webhook`.
    ///
    /// # Errors
    /// [`Error::Invalid`]; [`Error::Stale`].
    pub async fn change(&self, webhook: Webhook, change: WebhookChange) -> Result<Webhook> {
        if let Some(url) = &change.url {
            Target::read(url, &self.base.config.webhooks)?;
        }
        let enabled = change.enabled.unwrap_or(webhook.enabled);
        let changed = Webhook {
            url: change.url.unwrap_or(webhook.url),
            events: change.events.map_or(webhook.events, ordered),
            description: match change.description {
                Some(text) => description(&text)?,
                None => webhook.description,
            },
            enabled,
            // Whoever says how it is to be has the last word.
            disabled_reason: if change.enabled.is_some() { None } else { webhook.disabled_reason },
            updated_at: self.base.clock.now(),
            ..webhook
        };
        self.base.store.webhooks(&changed.tenant_id).update(&changed).await
    }

    /// Makes another secret, which is in the answer and nowhere else. The one before it signs too for a while, as do those
    /// before that whose time is not over.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Conflict`].
    pub async fn rotate(&self, tenant: &TenantId, id: &WebhookId) -> Result<(Webhook, SecretString)> {
        let now = self.base.clock.now();
        let until = now.plus(seconds(self.base.config.webhooks.secret_overlap_s));
        let secret = new_secret(&*self.base.rng);
        let sealed = self.base.secrets.seal(SEAL, id.as_str(), &secret)?;
        let webhook = self.base.store.webhooks(tenant).rotate(id, &sealed, until, now).await?;
        Ok((webhook, secret))
    }

    /// Does a delivery that has come to its end again, at once and beside all others.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Conflict`] where it has not come to its end, its event is not kept any more, or the
    /// webhook is switched off.
    pub async fn replay(&self, tenant: &TenantId, webhook: &WebhookId, id: &DeliveryId) -> Result<Delivery> {
        let deliveries = self.base.store.deliveries(tenant, webhook);
        let before = deliveries.get(id).await?;
        if before.state == State::Pending {
            return Err(Error::conflict("this delivery has not come to its end: it will be tried by itself"));
        }
        if !self.base.store.webhooks(tenant).get(webhook).await?.enabled {
            return Err(Error::conflict("this webhook is switched off: switch it on first"));
        }
        let seq = before.event_id.seq();
        let found = self.base.store.events(tenant).brief_after(seq - 1, 1).await?;
        if found.first().is_none_or(|event| event.id.seq() != seq) {
            return Err(Error::conflict("the event of this delivery is not kept any more"));
        }
        let now = self.base.clock.now();
        let again = Delivery {
            id: self.base.ids.delivery(),
            state: State::Pending,
            attempts: 0,
            next_attempt_at: Some(now),
            response_status: None,
            response_body: None,
            error: None,
            replay_of: Some(before.id.clone()),
            created_at: now,
            updated_at: now,
            ..before
        };
        deliveries.replay(&again).await?;
        self.wake_deliver.notify_one();
        Ok(again)
    }

    /// What a webhook signs with at `now`: also with those before that can still be read.
    pub(super) fn secrets(&self, id: &WebhookId, sealed: &SealedSecrets, now: Timestamp) -> Result<Vec<SecretString>> {
        let mut secrets = vec![self.open(id, &sealed.current)?];
        let previous = sealed.previous.iter().rev().filter(|(_, until)| now < *until);
        secrets.extend(previous.filter_map(|(sealed, _)| self.open(id, sealed).ok()));
        Ok(secrets)
    }

    /// What was sealed before `JWT_SECRET` was changed can still be read while the one before it is configured.
    fn open(&self, id: &WebhookId, sealed: &str) -> Result<SecretString> {
        let opened = self.base.secrets.open(SEAL, id.as_str(), sealed);
        let Some(previous) = &self.base.config.auth.previous_jwt_secret else { return opened };
        opened.or_else(|_| crate::secrets::Secrets::new(previous.clone()).open(SEAL, id.as_str(), sealed))
    }
}

fn ordered(mut kinds: Vec<Kind>) -> Vec<Kind> {
    kinds.sort_unstable();
    kinds.dedup();
    kinds
}

fn description(text: &str) -> Result<String> {
    if text.trim().is_empty() && !text.chars().any(char::is_control) {
        return Ok(String::new());
    }
    display_name("description", text, DESCRIPTION_CHARS_MAX)
}
