//! How a call is let in: so many of a tenant's at the same moment in this process, and out of what is left of the month's
//! tokens, the tenant's and the key's.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use astrfleet_core::{Error, Result, quota::Amount, time::Timestamp};

use super::keys::Bot;
use crate::quota::{Portion, Purse, purse};

/// A tenant's calls under way in this process.
#[derive(Debug, Default)]
pub(super) struct Calls(AtomicU32);

/// What a tenant has under way in this process.
#[derive(Clone, Debug, Default)]
pub(super) struct Gates {
    /// Calls of models.
    calls: Arc<Calls>,
    /// Calls that the cache answered and whose lines are not written yet: they cost nothing but these.
    hits: Arc<Calls>,
}

/// One of them, until it is dropped.
#[derive(Debug)]
pub(super) struct UnderWay(Arc<Calls>);

impl Gates {
    /// Lets in a call that the cache answers.
    ///
    /// # Errors
    /// [`Error::TooMany`].
    pub(super) fn hit(&self, calls_max: u32) -> Result<UnderWay> {
        self.hits.begin(calls_max)
    }

    /// Whether somebody has something under way, or may have at once.
    pub(super) fn are_used(&self) -> bool {
        Arc::strong_count(&self.calls) > 1 || Arc::strong_count(&self.hits) > 1
    }
}

/// A call that was let in; what it reserved is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Admitted {
    tenant: Portion,
    key: Option<Portion>,
    _under_way: UnderWay,
}

/// What a key may use of its own.
#[derive(Debug)]
pub(super) struct KeyBudget {
    pub(super) amount: Amount,
    pub(super) purse: Arc<Purse>,
}

impl Calls {
    fn begin(self: &Arc<Self>, calls_max: u32) -> Result<UnderWay> {
        if self.0.fetch_add(1, Relaxed) >= calls_max {
            self.0.fetch_sub(1, Relaxed);
            return Err(Error::TooMany {
                what: "calls of the model at the same moment",
                retry_after: Duration::from_secs(1),
            });
        }
        Ok(UnderWay(Arc::clone(self)))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Relaxed);
    }
}

impl Admitted {
    /// Lets a call in that will take some `estimate` tokens.
    ///
    /// # Errors
    /// [`Error::QuotaExceeded`] where the tokens are used up; [`Error::TooMany`]; [`Error::Unavailable`] where the store
    /// would have to be asked and does not answer.
    pub(super) async fn of(bot: &Bot, calls_max: u32, estimate: u64, now: Timestamp) -> Result<Self> {
        let under_way = bot.gates.calls.begin(calls_max)?;
        let month = now.month_start();
        let tenant = portion(&bot.purse, "tokens of this month", bot.amount, month, estimate).await?;
        let key = match &bot.key {
            Some(key) => {
                Some(portion(&key.purse, "tokens of this month for this key", key.amount, month, estimate).await?)
            }
            None => None,
        };
        Ok(Self { tenant, key, _under_way: under_way })
    }

    /// Counts what was taken.
    pub(super) fn add(&self, month: Timestamp, tokens: u64) {
        self.tenant.add(month, tokens);
        if let Some(key) = &self.key {
            key.add(month, tokens);
        }
    }
}

async fn portion(
    purse: &Arc<Purse>,
    quota: &'static str,
    amount: Amount,
    month: Timestamp,
    estimate: u64,
) -> Result<Portion> {
    purse.take(month, amount, estimate).await?.map_err(|refusal| {
        let next_month = month.plus(Duration::from_hours(32 * 24)).month_start().day();
        let next_step = format!("they are refilled on {next_month} at 00:00 UTC, or by another plan");
        let waits_for = "calls of the model for what is left of the month's tokens";
        purse::refused(refusal, quota, waits_for, amount.hard(), next_step)
    })
}
