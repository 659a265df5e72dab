//! API keys of a tenant's own programs.

use std::{sync::Arc, time::Duration};

use astrfleet_core::{
    Error, Result,
    api_key::{ApiKey, Scope},
    id::{ApiKeyId, TenantId, UserId},
    page::PageRequest,
    ports::BusEvent,
    text,
    time::Timestamp,
};
use secrecy::{ExposeSecret, SecretString};

use super::{Service, hash};

/// What every key's secret begins with, so that it is recognised where it does not belong.
pub const API_KEY_PREFIX: &str = "astr_";
/// So much of a secret is shown, to tell keys apart.
const SHOWN_CHARACTERS: usize = 12;
/// A key's use is noted at most so often.
const NOTED_EVERY: Duration = Duration::from_mins(1);
/// A tenant's keys that are not revoked, at the most.
const KEYS_MAX: usize = 100;

/// A key as it is to be.
pub struct NewApiKey {
    /// For people.
    pub name: String,
    /// What it is to be good for.
    pub scopes: Vec<Scope>,
    /// When it is to expire.
    pub expires_at: Option<Timestamp>,
}

impl Service {
    /// Makes a key. Its secret is in the answer, and nowhere else.
    ///
    /// # Errors
    /// [`Error::Invalid`]; [`Error::Conflict`] where the tenant has too many already.
    pub async fn create_api_key(
        &self,
        tenant: &TenantId,
        by: &UserId,
        new: NewApiKey,
    ) -> Result<(ApiKey, SecretString)> {
        let now = self.base.clock.now();
        let name = text::display_name("name", &new.name, 100)?;
        let mut scopes = new.scopes;
        scopes.sort_unstable();
        scopes.dedup();
        if scopes.is_empty() {
            return Err(Error::invalid("scopes", "must have at least one of chat, instance"));
        }
        if new.expires_at.is_some_and(|end| end <= now) {
            return Err(Error::invalid("expires_at", "must lie ahead"));
        }
        let keys = self.base.store.api_keys(tenant);
        if self.count_api_keys(tenant).await? >= KEYS_MAX {
            return Err(Error::conflict(format!("this tenant has {KEYS_MAX} API keys: revoke one first")));
        }
        let secret = self.random_secret(API_KEY_PREFIX);
        let key = ApiKey {
            id: self.base.ids.api_key(),
            tenant_id: tenant.clone(),
            name,
            prefix: secret.expose_secret().chars().take(SHOWN_CHARACTERS).collect(),
            scopes,
            created_by: by.clone(),
            created_at: now,
            expires_at: new.expires_at,
            last_used_at: None,
            revoked_at: None,
        };
        keys.insert(&key, &hash(secret.expose_secret())).await?;
        Ok((key, secret))
    }

    /// Takes a key back, at once and everywhere. Twice is the same as once.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn revoke_api_key(&self, tenant: &TenantId, key: &ApiKeyId) -> Result<()> {
        self.base.store.api_keys(tenant).revoke(key, self.base.clock.now()).await?;
        self.publish(BusEvent::KeyRevoked(key.clone()));
        Ok(())
    }

    async fn count_api_keys(&self, tenant: &TenantId) -> Result<usize> {
        let keys = self.base.store.api_keys(tenant);
        let (mut page, mut count) = (PageRequest::first(), 0);
        loop {
            let part = keys.list(&page).await?;
            count += part.items.iter().filter(|key| key.revoked_at.is_none()).count();
            match part.next_cursor {
                Some(cursor) if count < KEYS_MAX => page.after = Some(cursor),
                _ => return Ok(count),
            }
        }
    }

    /// Notes that a key was used, without anybody waiting for it.
    pub(super) fn note_use(&self, key: &ApiKey, now: Timestamp) {
        let noted = self.noted_uses.get(key.id.as_str()).max(key.last_used_at);
        if noted.is_some_and(|noted| now.since(noted) < NOTED_EVERY) {
            return;
        }
        self.noted_uses.insert(key.id.as_str().into(), now);
        let (base, tenant, id) = (Arc::clone(&self.base), key.tenant_id.clone(), key.id.clone());
        self.base.tasks.spawn(async move {
            if let Err(error) = base.store.api_keys(&tenant).touch(&id, now).await {
                tracing::debug!(error = %error, "the use of an API key was not noted");
            }
        });
    }
}
