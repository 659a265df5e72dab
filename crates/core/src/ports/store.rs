//! The only door to what is stored.
//!
//! A tenant's things are reached through ports that are handed out for one tenant, so no call can forget it. What
//! spans tenants is behind [`Store::system`], whose caller has to give a reason, which is logged.

use super::{
    ApiKeys, Attachments, AuditLog, Blocklist, Bridge, Budgets, Deliveries, Events, Exports, Fence, Idempotency,
    Instances, Invitations, Leases, Members, Messages, RefreshTokens, Retention, Search, Sessions, System, Tenants,
    UsageLedger, Users, Webhooks,
};
use crate::id::{TenantId, WebhookId};

/// Hands out ports.
pub trait Store: Send + Sync {
    /// Tenants: an aggregate of the platform, not of a tenant.
    fn tenants(&self) -> Box<dyn Tenants>;
    /// People.
    fn users(&self) -> Box<dyn Users>;
    /// Refresh tokens.
    fn refresh_tokens(&self) -> Box<dyn RefreshTokens>;
    /// The members of `tenant`.
    fn members(&self, tenant: &TenantId) -> Box<dyn Members>;
    /// The invitations of `tenant`.
    fn invitations(&self, tenant: &TenantId) -> Box<dyn Invitations>;
    /// The API keys of `tenant`.
    fn api_keys(&self, tenant: &TenantId) -> Box<dyn ApiKeys>;
    /// The audit log of `tenant`, or the platform's own.
    fn audit(&self, tenant: Option<&TenantId>) -> Box<dyn AuditLog>;
    /// The bot of `tenant`.
    fn instances(&self, tenant: &TenantId) -> Box<dyn Instances>;
    /// The sessions of `tenant`.
    fn sessions(&self, tenant: &TenantId) -> Box<dyn Sessions>;
    /// The messages of `tenant`.
    fn messages(&self, tenant: &TenantId) -> Box<dyn Messages>;
    /// The messages of `tenant` for whoever holds a lease: what changes a message that is there
    /// ([`Messages::set_state`], [`Messages::set_bot_record`], [`Messages::set_partial`], [`Messages::finish`],
    /// [`Messages::set_reply_record`]) does nothing and returns [`crate::Error::Stale`] of a `lease` where `fence` does not
    /// stand any more.
    fn fenced_messages(&self, tenant: &TenantId, fence: &Fence) -> Box<dyn Messages>;
    /// The search in the messages of `tenant`.
    fn search(&self, tenant: &TenantId) -> Box<dyn Search>;
    /// The messages that IM channels brought to `tenant`.
    fn bridge(&self, tenant: &TenantId) -> Box<dyn Bridge>;
    /// What `tenant` has kept for too long.
    fn retention(&self, tenant: &TenantId) -> Box<dyn Retention>;
    /// The exports of `tenant`.
    fn exports(&self, tenant: &TenantId) -> Box<dyn Exports>;
    /// The attachments of `tenant`.
    fn attachments(&self, tenant: &TenantId) -> Box<dyn Attachments>;
    /// The blocklist of `tenant`.
    fn blocklist(&self, tenant: &TenantId) -> Box<dyn Blocklist>;
    /// The usage ledger of `tenant`.
    fn usage(&self, tenant: &TenantId) -> Box<dyn UsageLedger>;
    /// What happened to `tenant`.
    fn events(&self, tenant: &TenantId) -> Box<dyn Events>;
    /// Where `tenant` is told of it.
    fn webhooks(&self, tenant: &TenantId) -> Box<dyn Webhooks>;
    /// What a webhook of `tenant` is told.
    fn deliveries(&self, tenant: &TenantId, webhook: &WebhookId) -> Box<dyn Deliveries>;
    /// The budgets of `tenant`.
    fn budgets(&self, tenant: &TenantId) -> Box<dyn Budgets>;
    /// Answers that were given under an `Idempotency-Key`. `owner` is whoever sent it: a caller's actor.
    fn idempotency(&self, owner: &str) -> Box<dyn Idempotency>;
    /// Who alone may do what.
    fn leases(&self) -> Box<dyn Leases>;
    /// What spans tenants. `reason` goes to the log.
    fn system(&self, reason: &'static str) -> Box<dyn System>;
}
