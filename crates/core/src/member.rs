//! Who belongs to a tenant, and who was asked to.

use serde::{Deserialize, Serialize};

use crate::{
    id::{InvitationId, TenantId, UserId},
    policy::Role,
    time::Timestamp,
};

/// A user in a tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Member {
    /// Who.
    pub user_id: UserId,
    /// The user's address.
    pub email: String,
    /// For people.
    pub display_name: String,
    /// What they may do.
    pub role: Role,
    /// Since when.
    pub created_at: Timestamp,
}

/// A user's place in a tenant, seen from the user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Membership {
    /// Where.
    pub tenant_id: TenantId,
    /// The tenant's name.
    pub tenant: String,
    /// What the user may do there.
    pub role: Role,
}

/// Asks somebody to become a member. Its token is shown once, and stored as a hash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Invitation {
    /// `inv_…`
    pub id: InvitationId,
    /// Whom it is for, in lower case.
    pub email: String,
    /// What they will be allowed to do.
    pub role: Role,
    /// Who asked.
    pub invited_by: UserId,
    /// After this it is worth nothing.
    pub expires_at: Timestamp,
    /// When it was taken up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accepted_at: Option<Timestamp>,
    /// When it was made.
    pub created_at: Timestamp,
}
