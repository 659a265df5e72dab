//! An export of all that is stored of a tenant, as one archive: `pending -> running -> done | failed`.

use serde::{Deserialize, Serialize};

use crate::{
    id::{ExportId, TenantId},
    time::Timestamp,
};

/// Which table of a store goes into which files of an archive. With [`LEFT_OUT`], these are all that have rows of tenants.
pub const TAKEN_IN: &[(&str, &str)] = &[
    ("api_keys", "api_keys"),
    ("attachments", "attachments"),
    ("audit_log", "audit"),
    ("blocklist", "blocklist"),
    ("invitations", "invitations"),
    ("members", "members"),
    ("messages", "messages"),
    ("sessions", "sessions"),
    ("usage_records", "usage"),
    ("webhooks", "webhooks"),
];
/// Which do not, and why: the manifest says so.
pub const LEFT_OUT: &[(&str, &str)] = &[
    ("audit_heads", "the end of the audit log's chain: its last entry has it"),
    ("budget_accounts", "counted from messages and usage"),
    ("budget_leases", "what processes may spend of the rest for some seconds"),
    ("event_heads", "the number of the last event"),
    ("events", "kept for some days, and told of messages and sessions, which are here"),
    ("exports", "archives like this one"),
    ("instances", "how far the bot is: of its content, its channels are here"),
    ("message_keys", "which Idempotency-Keys and messages of IM channels were seen"),
    ("quota_notices", "what the audit log says"),
    ("search_blocks", "made of the messages"),
    ("webhook_deliveries", "kept for some days: what receivers answered to events"),
];

/// Where an export is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Waits for its turn.
    Pending,
    /// Is being written. Where whoever writes it dies, somebody else begins anew.
    Running,
    /// Can be downloaded until it expires.
    Done,
    /// There will be no archive, and `failure` says why.
    Failed,
}

/// One export.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Export {
    /// `exp_…`
    pub id: ExportId,
    /// Whose.
    pub tenant_id: TenantId,
    /// See [`State`].
    pub state: State,
    /// How many messages and files are written.
    pub done: u64,
    /// Of so many, as it was counted in the beginning.
    pub total: u64,
    /// Who asked for it.
    pub requested_by: String,
    /// When.
    pub created_at: Timestamp,
    /// When it last came further.
    pub updated_at: Timestamp,
    /// When it is deleted.
    pub expires_at: Timestamp,
    /// Bytes of the archive, once it is done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// SHA-256 of the archive in hex, once it is done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

impl Export {
    /// Where its archive lies among the blobs.
    #[must_use]
    pub fn blob_key(&self) -> String {
        format!("{}/exports/{}.tar.zst", self.tenant_id, self.id)
    }
}
