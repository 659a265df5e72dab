//! What a tenant may use. Plans are configuration; a tenant names one of them.

use serde::{Deserialize, Serialize};

use crate::quota::Amount;

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
    /// Tokens a month (UTC) of one virtual key, of which each bot has one; 0: as many as the plan has.
    #[serde(default)]
    pub tokens_per_month_of_key: u64,
    /// What may be used beyond the messages a day and the tokens a month, in hundredths of them.
    #[serde(default)]
    pub burst_percent: u32,
    /// Bytes of attachments.
    pub storage_bytes: u64,
    /// Memory of the bot, in bytes. A real one needs some 275 MB.
    pub bot_memory_bytes: u64,
    /// Processor time of the bot, in thousandths of a core.
    pub bot_cpu_milli: u32,
    /// Days for which messages are kept; without it, for good. A tenant may keep them for less.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention_days: Option<u32>,
}

impl Plan {
    /// For how many days a tenant that wants `own` keeps its messages; none: for good.
    #[must_use]
    pub fn retention(&self, own: Option<u32>) -> Option<u32> {
        match (self.retention_days, own) {
            (Some(most), Some(own)) => Some(own.min(most)),
            (most, own) => own.or(most),
        }
    }

    /// Messages of end users a day.
    #[must_use]
    pub fn messages(&self) -> Amount {
        Amount { limit: self.messages_per_day, burst_percent: self.burst_percent }
    }

    /// Tokens a month.
    #[must_use]
    pub fn tokens(&self) -> Amount {
        Amount { limit: self.tokens_per_month, burst_percent: self.burst_percent }
    }

    /// Tokens a month of one virtual key, where it has an amount of its own. A burst is the tenant's, not a key's.
    #[must_use]
    pub fn tokens_of_key(&self) -> Option<Amount> {
        (self.tokens_per_month_of_key > 0).then(|| Amount::plain(self.tokens_per_month_of_key))
    }

    /// Chats that are answered at the same moment, where a process answers at most `most` of one bot. The queue is what
    /// there is beyond them: a burst would be another number.
    #[must_use]
    pub fn chats(&self, most: u32) -> Amount {
        Amount::plain(u64::from(self.concurrent_chats.min(most)))
    }

    /// Bytes of attachments.
    #[must_use]
    pub fn storage(&self) -> Amount {
        Amount::plain(self.storage_bytes)
    }
}
