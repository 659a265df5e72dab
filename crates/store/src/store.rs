//! The door itself: which port is what.

use astrfleet_core::{
    id::{TenantId, WebhookId},
    ports::{
        ApiKeys, Attachments, AuditLog, Blocklist, Bridge, Budgets, Deliveries, Events, Exports, Fence, Idempotency,
        Instances, Invitations, Leases, Members, Messages, RefreshTokens, Retention, Search, Sessions, Store, System,
        Tenants, UsageLedger, Users, Webhooks,
    },
};

use crate::{
    api_keys::ApiKeyRows, attachments::AttachmentRows, audit::AuditRows, blocklist::BlockRows, bridge::BridgeRows,
    budgets::BudgetRows, db::Db, deliveries::DeliveryRows, events::EventRows, exports::ExportRows,
    idempotency::IdempotencyRows, instances::InstanceRows, invitations::InvitationRows, leases::LeaseRows,
    members::MemberRows, messages::MessageRows, refresh_tokens::RefreshTokenRows, retention::RetentionRows,
    search::SearchRows, sessions::SessionRows, system::SystemRows, tenants::TenantRows, usage::UsageRows,
    users::UserRows, webhooks::WebhookRows,
};

impl Store for Db {
    fn tenants(&self) -> Box<dyn Tenants> {
        Box::new(TenantRows::new(self))
    }

    fn users(&self) -> Box<dyn Users> {
        Box::new(UserRows::new(self))
    }

    fn refresh_tokens(&self) -> Box<dyn RefreshTokens> {
        Box::new(RefreshTokenRows::new(self))
    }

    fn members(&self, tenant: &TenantId) -> Box<dyn Members> {
        Box::new(MemberRows::new(self, tenant))
    }

    fn invitations(&self, tenant: &TenantId) -> Box<dyn Invitations> {
        Box::new(InvitationRows::new(self, tenant))
    }

    fn api_keys(&self, tenant: &TenantId) -> Box<dyn ApiKeys> {
        Box::new(ApiKeyRows::new(self, tenant))
    }

    fn audit(&self, tenant: Option<&TenantId>) -> Box<dyn AuditLog> {
        Box::new(AuditRows::new(self, tenant))
    }

    fn instances(&self, tenant: &TenantId) -> Box<dyn Instances> {
        Box::new(InstanceRows::new(self, tenant))
    }

    fn sessions(&self, tenant: &TenantId) -> Box<dyn Sessions> {
        Box::new(SessionRows::new(self, tenant))
    }

    fn messages(&self, tenant: &TenantId) -> Box<dyn Messages> {
        Box::new(MessageRows::new(self, tenant))
    }

    fn fenced_messages(&self, tenant: &TenantId, fence: &Fence) -> Box<dyn Messages> {
        Box::new(MessageRows::fenced(self, tenant, fence))
    }

    fn search(&self, tenant: &TenantId) -> Box<dyn Search> {
        Box::new(SearchRows::new(self, tenant))
    }

    fn bridge(&self, tenant: &TenantId) -> Box<dyn Bridge> {
        Box::new(BridgeRows::new(self, tenant))
    }

    fn retention(&self, tenant: &TenantId) -> Box<dyn Retention> {
        Box::new(RetentionRows::new(self, tenant))
    }

    fn exports(&self, tenant: &TenantId) -> Box<dyn Exports> {
        Box::new(ExportRows::new(self, tenant))
    }

    fn attachments(&self, tenant: &TenantId) -> Box<dyn Attachments> {
        Box::new(AttachmentRows::new(self, tenant))
    }

    fn blocklist(&self, tenant: &TenantId) -> Box<dyn Blocklist> {
        Box::new(BlockRows::new(self, tenant))
    }

    fn usage(&self, tenant: &TenantId) -> Box<dyn UsageLedger> {
        Box::new(UsageRows::new(self, tenant))
    }

    fn events(&self, tenant: &TenantId) -> Box<dyn Events> {
        Box::new(EventRows::new(self, tenant))
    }

    fn webhooks(&self, tenant: &TenantId) -> Box<dyn Webhooks> {
        Box::new(WebhookRows::new(self, tenant))
    }

    fn deliveries(&self, tenant: &TenantId, webhook: &WebhookId) -> Box<dyn Deliveries> {
        Box::new(DeliveryRows::new(self, tenant, webhook))
    }

    fn budgets(&self, tenant: &TenantId) -> Box<dyn Budgets> {
        Box::new(BudgetRows::new(self, tenant))
    }

    fn idempotency(&self, owner: &str) -> Box<dyn Idempotency> {
        Box::new(IdempotencyRows::new(self, owner))
    }

    fn leases(&self) -> Box<dyn Leases> {
        Box::new(LeaseRows::new(self))
    }

    fn system(&self, reason: &'static str) -> Box<dyn System> {
        Box::new(SystemRows::new(self, reason))
    }
}
