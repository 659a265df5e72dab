//! Where is kept who may do what: people, their logins, their places in tenants, API keys; and what they did.

use async_trait::async_trait;

use crate::{
    api_key::ApiKey,
    audit::{Entry, NewEntry},
    error::Result,
    id::{ApiKeyId, InvitationId, LoginId, RefreshTokenId, UserId},
    member::{Invitation, Member, Membership},
    page::{Page, PageRequest},
    policy::Role,
    time::Timestamp,
    user::{RefreshToken, User},
};

/// People.
#[async_trait]
pub trait Users: Send + Sync {
    /// Stores a new one with the hash of the password (PHC string).
    ///
    /// # Errors
    /// [`crate::Error::Conflict`] where the address is taken.
    async fn insert(&self, user: &User, password_hash: &str) -> Result<()>;
    /// # Errors
    /// [`crate::Error::NotFound`].
    async fn get(&self, id: &UserId) -> Result<User>;
    /// With the hash of the password.
    ///
    /// # Errors
    /// [`crate::Error::NotFound`].
    async fn by_email(&self, email: &str) -> Result<(User, String)>;
    /// The newest last.
    async fn list(&self, page: &PageRequest) -> Result<Page<User>>;
    /// Stores a changed one if its `version` is still the stored one. Returns it as stored.
    ///
    /// # Errors
    /// [`crate::Error::Stale`].
    async fn update(&self, user: &User) -> Result<User>;
    /// Stores another password.
    async fn set_password(&self, id: &UserId, password_hash: &str, now: Timestamp) -> Result<()>;
    /// Whether there is any platform administrator.
    async fn any_admin(&self) -> Result<bool>;
    /// The first platform administrator.
    ///
    /// # Errors
    /// [`crate::Error::NotFound`].
    async fn first_admin(&self) -> Result<User>;
    /// The tenants that a user belongs to.
    async fn memberships(&self, id: &UserId) -> Result<Vec<Membership>>;
}

/// Refresh tokens.
#[async_trait]
pub trait RefreshTokens: Send + Sync {
    /// Stores a new one.
    async fn insert(&self, token: &RefreshToken) -> Result<()>;
    /// # Errors
    /// [`crate::Error::NotFound`].
    async fn by_hash(&self, hash: &[u8; 32]) -> Result<RefreshToken>;
    /// Marks it as used, if it was not. Returns whether it was not: `false` means that it is used a second time.
    async fn take(&self, id: &RefreshTokenId, now: Timestamp) -> Result<bool>;
    /// Whether a login still lasts: it was begun, and not ended since.
    async fn login_lasts(&self, login: &LoginId) -> Result<bool>;
    /// Ends a login.
    async fn revoke_login(&self, login: &LoginId, now: Timestamp) -> Result<()>;
    /// Ends all logins of a user. Returns which.
    async fn revoke_user(&self, user: &UserId, now: Timestamp) -> Result<Vec<LoginId>>;
    /// Deletes at most `limit` that expired before `before`. Returns how many.
    async fn delete_expired(&self, before: Timestamp, limit: u32) -> Result<u64>;
}

/// Members of one tenant.
#[async_trait]
pub trait Members: Send + Sync {
    /// By their id.
    async fn list(&self, page: &PageRequest) -> Result<Page<Member>>;
    /// # Errors
    /// [`crate::Error::NotFound`].
    async fn get(&self, user: &UserId) -> Result<Member>;
    /// Adds a user, or changes the role of one.
    ///
    /// # Errors
    /// [`crate::Error::Conflict`] where the last owner would lose that role.
    async fn put(&self, user: &UserId, role: Role, now: Timestamp) -> Result<()>;
    /// Takes a user out.
    ///
    /// # Errors
    /// [`crate::Error::Conflict`] where it is the last owner; [`crate::Error::NotFound`].
    async fn remove(&self, user: &UserId) -> Result<()>;
}

/// Invitations of one tenant.
#[async_trait]
pub trait Invitations: Send + Sync {
    /// Stores a new one with the SHA-256 of its token.
    async fn insert(&self, invitation: &Invitation, token_hash: &[u8; 32]) -> Result<()>;
    /// The newest last.
    async fn list(&self, page: &PageRequest) -> Result<Page<Invitation>>;
    /// Takes it back.
    ///
    /// # Errors
    /// [`crate::Error::NotFound`].
    async fn delete(&self, id: &InvitationId) -> Result<()>;
    /// Marks it as taken up and makes `user` a member, in one transaction, if it was not taken up before. Returns
    /// whether it was not.
    async fn accept(&self, id: &InvitationId, user: &UserId, now: Timestamp) -> Result<bool>;
}

/// API keys of one tenant.
#[async_trait]
pub trait ApiKeys: Send + Sync {
    /// Stores a new one with the SHA-256 of its secret.
    async fn insert(&self, key: &ApiKey, hash: &[u8; 32]) -> Result<()>;
    /// The newest last.
    async fn list(&self, page: &PageRequest) -> Result<Page<ApiKey>>;
    /// # Errors
    /// [`crate::Error::NotFound`].
    async fn get(&self, id: &ApiKeyId) -> Result<ApiKey>;
    /// Takes it back. Twice is the same as once.
    ///
    /// # Errors
    /// [`crate::Error::NotFound`].
    async fn revoke(&self, id: &ApiKeyId, now: Timestamp) -> Result<()>;
    /// Notes that it was used.
    async fn touch(&self, id: &ApiKeyId, now: Timestamp) -> Result<()>;
}

/// An audit log.
#[async_trait]
pub trait AuditLog: Send + Sync {
    /// Adds an entry to the end of its chain (see [`crate::audit`]).
    async fn append(&self, entry: &NewEntry) -> Result<Entry>;
    /// The newest first; its cursor is an entry's `seq`.
    async fn list(&self, page: &PageRequest) -> Result<Page<Entry>>;
    /// The newest entry of this action on this target.
    ///
    /// # Errors
    /// [`crate::Error::NotFound`].
    async fn find(&self, action: &str, target: &str) -> Result<Entry>;
}
