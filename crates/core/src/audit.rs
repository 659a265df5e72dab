//! The audit log: who did what. Each entry carries the hash of the one before it, so that none can be changed or
//! taken out without a trace.

use serde::{Deserialize, Serialize};

use crate::{
    id::{AuditId, TenantId},
    time::Timestamp,
};

/// What is to be written down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEntry {
    /// `aud_…`
    pub id: AuditId,
    /// Whose log; none for the platform's own.
    pub tenant_id: Option<TenantId>,
    /// When.
    pub at: Timestamp,
    /// Who: a user's or an API key's id, or `system`.
    pub actor: String,
    /// What, in the words of [`crate::policy::Action`]: `tenant.suspend`.
    pub action: String,
    /// To what: an id.
    pub target: String,
    /// What else is worth knowing. Never a secret.
    pub detail: serde_json::Value,
    /// The request that did it.
    pub request_id: String,
}

/// An entry as it stands in the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Entry {
    /// `aud_…`
    pub id: AuditId,
    /// Its place in its log, from 1, without gaps.
    pub seq: i64,
    /// When.
    pub at: Timestamp,
    /// Who.
    pub actor: String,
    /// What.
    pub action: String,
    /// To what.
    pub target: String,
    /// What else is worth knowing.
    #[schema(value_type = Object)]
    pub detail: serde_json::Value,
    /// The request that did it.
    pub request_id: String,
    /// SHA-256 in hex of this entry and `previous_hash`.
    pub hash: String,
    /// The hash of the entry before it; empty for the first one.
    pub previous_hash: String,
}

/// The text whose SHA-256 is an entry's hash: its fields, each with its length before it, so that no two entries
/// give the same text.
#[must_use]
pub fn hashed_text(entry: &NewEntry, seq: i64, previous_hash: &str) -> String {
    let tenant = entry.tenant_id.as_ref().map_or("", TenantId::as_str);
    let (seq, at, detail) = (seq.to_string(), entry.at.micros().to_string(), entry.detail.to_string());
    let fields = [
        previous_hash,
        &seq,
        entry.id.as_str(),
        tenant,
        &at,
        &entry.actor,
        &entry.action,
        &entry.target,
        &detail,
        &entry.request_id,
    ];
    fields.iter().fold(String::new(), |text, field| format!("{text}{}:{field}\n", field.len()))
}
