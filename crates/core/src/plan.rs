//! What a tenant may use. Plans are configuration; a tenant names one of them.

use serde::{Deserialize, Serialize};

/// The amounts of one plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Chats that are answered at the same moment; more wait in the queue.
    pub concurrent_chats: u32,
    /// Messages of end users a day (UTC).
    pub messages_per_day: u64,
    /// Tokens, prompt and completion, a month (UTC).
    pub tokens_per_month: u64,
    /// Bytes of attachments.
    pub storage_bytes: u64,
    /// Memory of the bot, in bytes. A real one needs some 275 MB.
    pub bot_memory_bytes: u64,
    /// Processor time of the bot, in thousandths of a core.
    pub bot_cpu_milli: u32,
}

/// What is left of an amount, for the API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Quota {
    /// The plan's amount.
    pub limit: u64,
    /// Used in the current period.
    pub used: u64,
    /// 80 % of it are used up.
    pub warning: bool,
    /// All of it is used up.
    pub exhausted: bool,
}

impl Quota {
    /// Compares.
    #[must_use]
    pub fn new(limit: u64, used: u64) -> Self {
        Self { limit, used, warning: used.saturating_mul(5) >= limit.saturating_mul(4), exhausted: used >= limit }
    }
}
