//! API keys: what a tenant's own programs log in with.

use serde::{Deserialize, Serialize};

use crate::{
    id::{ApiKeyId, TenantId, UserId},
    time::Timestamp,
};

/// What a key is good for. Everything else is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Sessions, messages and attachments.
    Chat,
    /// The tenant's bot: its state, its life and its configuration.
    Instance,
}

/// One key. Its secret is shown when it is made, and stored as a hash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ApiKey {
    /// `key_…`
    pub id: ApiKeyId,
    /// Whose it is.
    pub tenant_id: TenantId,
    /// For people.
    pub name: String,
    /// The first characters of the secret, to tell keys apart.
    pub prefix: String,
    /// What it is good for.
    pub scopes: Vec<Scope>,
    /// Who made it.
    pub created_by: UserId,
    /// When it was made.
    pub created_at: Timestamp,
    /// After this it is worth nothing; absent: it does not expire.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// When it was last used, to the minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_used_at: Option<Timestamp>,
    /// When it was taken back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<Timestamp>,
}

impl ApiKey {
    /// Whether it may be used at `now`.
    #[must_use]
    pub fn is_valid(&self, now: Timestamp) -> bool {
        self.revoked_at.is_none() && self.expires_at.is_none_or(|end| now < end)
    }
}
