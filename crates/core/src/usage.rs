//! The usage ledger: what every call of a model took. Lines are added, never changed.

use serde::{Deserialize, Serialize};

use crate::{
    id::{InstanceId, TenantId, UsageId},
    message::TokenUsage,
    time::Timestamp,
};

/// How a call of a model ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The whole answer came.
    Complete,
    /// The caller left in the middle of it; what had been sent is counted.
    Aborted,
    /// The model failed; what had been sent is counted.
    Failed,
}

/// One call of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct UsageRecord {
    /// `use_…`
    pub id: UsageId,
    /// Who pays.
    pub tenant_id: TenantId,
    /// Whose virtual key it was.
    pub instance_id: InstanceId,
    /// Which upstream answered.
    pub upstream: String,
    /// Which model, in the upstream's words.
    pub model: String,
    /// What it took.
    #[serde(flatten)]
    pub tokens: TokenUsage,
    /// The upstream did not say what it took: we counted, some four bytes a token.
    pub estimated: bool,
    /// How it ended.
    pub outcome: Outcome,
    /// When it ended.
    pub at: Timestamp,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
}

/// The sum of a period.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct UsageTotal {
    /// The day (`2026-11-23`) or month (`2026-11`), UTC.
    pub period: String,
    /// Calls of a model.
    pub requests: u64,
    /// What they took.
    #[serde(flatten)]
    pub tokens: TokenUsage,
    /// Messages of end users that were accepted.
    pub messages: u64,
}
