//! Quotas: what a tenant may use, in one model. Each has an amount, a warning at four fifths of it, a burst that the
//! plan may allow beyond it, and an end at which nothing more is let in.

use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Messages of end users, by day (UTC).
    MessagesPerDay,
    /// Tokens, prompt and completion, by month (UTC).
    TokensPerMonth,
    /// The tokens of one virtual key, by month (UTC).
    TokensPerMonthOfKey,
    /// Chats that are answered at the same moment; more wait.
    ConcurrentChats,
    /// Bytes of attachments.
    StorageBytes,
}

impl Kind {
    /// As the log, the metrics and the API name it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::MessagesPerDay => "messages_per_day",
            Self::TokensPerMonth => "tokens_per_month",
            Self::TokensPerMonthOfKey => "tokens_per_month_of_key",
            Self::ConcurrentChats => "concurrent_chats",
            Self::StorageBytes => "storage_bytes",
        }
    }

    /// The beginning of the period in which `now` lies. What has no period of its own is warned of once a month.
    #[must_use]
    pub fn period(self, now: Timestamp) -> Timestamp {
        match self {
            Self::MessagesPerDay => now.day_start(),
            Self::TokensPerMonth | Self::TokensPerMonthOfKey | Self::ConcurrentChats | Self::StorageBytes => {
                now.month_start()
            }
        }
    }
}

/// How much of it there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Amount {
    /// The plan's amount.
    pub limit: u64,
    /// What may be used beyond it, in hundredths of it.
    pub burst_percent: u32,
}

impl Amount {
    /// Without a burst.
    #[must_use]
    pub fn plain(limit: u64) -> Self {
        Self { limit, burst_percent: 0 }
    }

    /// At which nothing more is let in.
    #[must_use]
    pub fn hard(self) -> u64 {
        let burst = u128::from(self.limit) * u128::from(self.burst_percent) / 100;
        // More than the database can count is as good as no end.
        u64::try_from(u128::from(self.limit) + burst).unwrap_or(u64::MAX).min(MOST)
    }

    /// How far it is used.
    #[must_use]
    pub fn level(self, used: u64) -> Level {
        if used >= self.hard() {
            return Level::Exhausted;
        }
        if used >= self.limit {
            return Level::Burst;
        }
        // In wide numbers, so that the largest amount is not overrun.
        if u128::from(used) * 5 >= u128::from(self.limit) * 4 { Level::Warning } else { Level::Fine }
    }
}

/// The largest amount.
const MOST: u64 = 1 << 62;

/// How far a quota is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Less than four fifths.
    Fine,
    /// Four fifths or more.
    Warning,
    /// More than the plan's amount, within what the plan allows beyond it.
    Burst,
    /// All of it: nothing more is let in.
    Exhausted,
}

impl Level {
    /// As the log and the metrics name it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Fine => "fine",
            Self::Warning => "warning",
            Self::Burst => "burst",
            Self::Exhausted => "exhausted",
        }
    }
}

/// What is left of an amount, for the API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Quota {
    /// The plan's amount.
    pub limit: u64,
    /// The amount at which nothing more is let in: `limit` and what the plan allows beyond it.
    pub hard_limit: u64,
    /// Used in the current period.
    pub used: u64,
    /// How far it is used.
    pub level: Level,
    /// 80 % of `limit` are used up.
    pub warning: bool,
    /// All of it is used up.
    pub exhausted: bool,
}

impl Quota {
    /// Compares.
    #[must_use]
    pub fn new(amount: Amount, used: u64) -> Self {
        let level = amount.level(used);
        Self {
            limit: amount.limit,
            hard_limit: amount.hard(),
            used,
            level,
            warning: level >= Level::Warning,
            exhausted: level == Level::Exhausted,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Amount, Level, Quota};

    #[test]
    fn the_warning_comes_at_four_fifths_and_the_end_after_the_burst() {
        let amount = Amount { limit: 100, burst_percent: 20 };
        for (used, level) in [
            (0, Level::Fine),
            (79, Level::Fine),
            (80, Level::Warning),
            (99, Level::Warning),
            (100, Level::Burst),
            (119, Level::Burst),
            (120, Level::Exhausted),
            (u64::MAX, Level::Exhausted),
        ] {
            assert_eq!(amount.level(used), level, "{used}");
        }
        assert_eq!(Amount::plain(100).level(100), Level::Exhausted, "no burst: the limit is the end");
        let none = Quota::new(Amount::plain(0), 0);
        assert!(none.exhausted && none.warning, "an amount of nothing is used up");
    }

    proptest! {
        #[test]
        fn more_use_never_looks_like_less(limit in any::<u64>(), burst_percent in 0_u32..1_000, one in any::<u64>(), other in any::<u64>()) {
            let amount = Amount { limit, burst_percent };
            let (less, more) = (one.min(other), one.max(other));
            prop_assert!(amount.level(less) <= amount.level(more));
            prop_assert_eq!(amount.level(more) == Level::Exhausted, more >= amount.hard());
        }
    }
}
