//! What is erased with a tenant: every table that holds rows of tenants, what refers to others first. The suite looks
//! through the whole schema for a row that was forgotten here.

use crate::statement::{Statement, statements};

statements! {
    "tenant";
    /// Also answers that people got, where they speak of the tenant.
    ERASE_IDEMPOTENCY = "tenant.erase_idempotency",
        "DELETE FROM idempotency WHERE owner IN (SELECT id FROM api_keys WHERE tenant_id = $1)
            OR body LIKE '%' || $1 || '%'";
    ERASE_AUDIT_LOG = "tenant.erase_audit_log", "DELETE FROM audit_log WHERE log = $1";
    ERASE_AUDIT_HEADS = "tenant.erase_audit_heads", "DELETE FROM audit_heads WHERE log = $1";
    /// Before the events: whoever is about to write one waits for this, and then finds no tenant.
    ERASE_EVENT_HEADS = "tenant.erase_event_heads", "DELETE FROM event_heads WHERE tenant_id = $1";
    ERASE_EVENTS = "tenant.erase_events", "DELETE FROM events WHERE tenant_id = $1";
    ERASE_MESSAGES = "tenant.erase_messages", "DELETE FROM messages WHERE tenant_id = $1";
    ERASE_SESSIONS = "tenant.erase_sessions", "DELETE FROM sessions WHERE tenant_id = $1";
    ERASE_ATTACHMENTS = "tenant.erase_attachments", "DELETE FROM attachments WHERE tenant_id = $1";
    ERASE_USAGE = "tenant.erase_usage", "DELETE FROM usage_records WHERE tenant_id = $1";
    ERASE_SEARCH = "tenant.erase_search", "DELETE FROM search_blocks WHERE tenant_id = $1";
    ERASE_BLOCKLIST = "tenant.erase_blocklist", "DELETE FROM blocklist WHERE tenant_id = $1";
    ERASE_DELIVERIES = "tenant.erase_deliveries", "DELETE FROM webhook_deliveries WHERE tenant_id = $1";
    ERASE_WEBHOOKS = "tenant.erase_webhooks", "DELETE FROM webhooks WHERE tenant_id = $1";
    ERASE_BUDGET_LEASES = "tenant.erase_budget_leases", "DELETE FROM budget_leases WHERE tenant_id = $1";
    ERASE_BUDGETS = "tenant.erase_budgets", "DELETE FROM budget_accounts WHERE tenant_id = $1";
    ERASE_NOTICES = "tenant.erase_notices", "DELETE FROM quota_notices WHERE tenant_id = $1";
    ERASE_EXPORTS = "tenant.erase_exports", "DELETE FROM exports WHERE tenant_id = $1";
    ERASE_API_KEYS = "tenant.erase_api_keys", "DELETE FROM api_keys WHERE tenant_id = $1";
    ERASE_INVITATIONS = "tenant.erase_invitations", "DELETE FROM invitations WHERE tenant_id = $1";
    ERASE_MEMBERS = "tenant.erase_members", "DELETE FROM members WHERE tenant_id = $1";
    ERASE_INSTANCES = "tenant.erase_instances", "DELETE FROM instances WHERE tenant_id = $1";
    ERASE_LEASES = "tenant.erase_leases",
        "DELETE FROM leases WHERE name = 'queue/' || $1 OR name LIKE 'erasure/' || $1 || '%'";
    ERASE_TENANT = "tenant.erase", "DELETE FROM tenants WHERE id = $1";
}

/// The table that a statement empties, for the proof.
pub(crate) fn table(statement: &Statement) -> &'static str {
    statement.sql.split_whitespace().nth(2).unwrap_or(statement.name)
}
