//! People with a password, and what they log in with.

use serde::{Deserialize, Serialize};

use crate::{
    id::{LoginId, RefreshTokenId, UserId},
    time::Timestamp,
};

/// Somebody who can log in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct User {
    /// `usr_…`
    pub id: UserId,
    /// Unique, in lower case.
    pub email: String,
    /// For people.
    pub display_name: String,
    /// Administers the platform: may do everything with every tenant.
    pub platform_admin: bool,
    /// May not log in, and whatever was handed out is worth nothing.
    pub disabled: bool,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
    /// Grows with every change: its `ETag`.
    pub version: i64,
}

/// A refresh token as it is stored: its hash alone. Each is good for one use; a second use ends the whole login.
#[derive(Clone, Debug)]
pub struct RefreshToken {
    /// `rft_…`
    pub id: RefreshTokenId,
    /// The login it descends from.
    pub login: LoginId,
    /// Whose it is.
    pub user: UserId,
    /// SHA-256 of the token.
    pub hash: [u8; 32],
    /// After this it is worth nothing.
    pub expires_at: Timestamp,
    /// When it was exchanged for the next one.
    pub used_at: Option<Timestamp>,
    /// When its login was ended.
    pub revoked_at: Option<Timestamp>,
}
