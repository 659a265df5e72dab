//! Where usage and the budgets it is paid from are kept.

use std::time::Duration;

use async_trait::async_trait;

use crate::{
    audit::NewEntry,
    budget::{Account, Ask, Granted, Held, Settled},
    error::Result,
    id::InstanceId,
    page::{Page, PageRequest},
    quota::Level,
    time::Timestamp,
    usage::{UsageRecord, UsageTotal},
};

/// The usage ledger of one tenant.
#[async_trait]
pub trait UsageLedger: Send + Sync {
    /// Adds lines, and counts them in their month's accounts. Adding the same one again changes nothing.
    async fn append(&self, records: &[UsageRecord]) -> Result<()>;
    /// The newest first.
    async fn list(&self, page: &PageRequest) -> Result<Page<UsageRecord>>;
    /// At most `limit` lines from `from` to `to`, after the line `after`, the oldest first.
    async fn between(
        &self,
        from: Timestamp,
        to: Timestamp,
        after: Option<&UsageRecord>,
        limit: u32,
    ) -> Result<Vec<UsageRecord>>;
    /// By day, from `from` to `to`, days without any left out, the oldest first.
    async fn by_day(&self, from: Timestamp, to: Timestamp) -> Result<Vec<UsageTotal>>;
    /// The tokens since `since`, for the monthly quota.
    async fn tokens_since(&self, since: Timestamp) -> Result<u64>;
    /// The same of one bot's key.
    async fn tokens_of_key_since(&self, instance: &InstanceId, since: Timestamp) -> Result<u64>;
}

/// Whose lease it is, and how long it lasts.
#[derive(Clone, Debug)]
pub struct BudgetHolder {
    /// One process.
    pub name: String,
    /// From each time that it is heard of, by the store's own clock.
    pub ttl: Duration,
}

/// The budgets of one tenant: see [`crate::budget`]. What one asks and what another one writes come one after the other.
#[async_trait]
pub trait Budgets: Send + Sync {
    /// Decides about the lease of `holder` on what is left of `limit` in the period that begins at `period`.
    async fn lease(
        &self,
        account: &Account,
        period: Timestamp,
        limit: u64,
        holder: &BudgetHolder,
        ask: &Ask,
    ) -> Result<Granted>;
    /// Adds lines to the ledger, counts those that were not there, and notes what is left of the holder's leases: all of
    /// it or nothing. The lines are of the month that begins at `period`.
    async fn settle(
        &self,
        period: Timestamp,
        records: &[UsageRecord],
        holder: &BudgetHolder,
        held: &[Held],
    ) -> Result<Vec<Settled>>;
    /// Chats that are being answered at this moment, by whichever replica.
    async fn chats_in_progress(&self) -> Result<u64>;
    /// Tells the tenant of a quota, once a period: the entry in its audit log and the note that it is there, both or
    /// neither. Returns whether it was not told before.
    async fn notice(&self, quota: &str, period: Timestamp, level: Level, entry: &NewEntry) -> Result<bool>;
}
