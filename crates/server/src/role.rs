//! A role: some routes and some loops, nothing more. One process has all of them, or a few.

use serde::{Deserialize, Serialize};

/// What a process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Takes every request in.
    Gateway,
    /// Logins, tokens, keys, permissions, the audit log.
    Auth,
    /// Tenants, members, plans.
    Tenant,
    /// Conversations.
    Session,
    /// Messages and their delivery.
    Message,
    /// Models: the gateway between bots and providers.
    Llm,
    /// Bots.
    Manager,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 7] =
        [Self::Gateway, Self::Auth, Self::Tenant, Self::Session, Self::Message, Self::Llm, Self::Manager];
}
