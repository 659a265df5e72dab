//! The daily quota of messages: counted by the store, which is the truth, and leased by each process in small amounts, so
//! that it holds for all of them together. Whoever takes one and then does not store a message gives it back.

use std::sync::Arc;

use astrfleet_core::{Result, budget::Account, id::TenantId, quota::Amount, time::Timestamp};

use crate::{
    app::Base,
    quota::{Portion, Purses, purse},
};

/// Messages of today, by tenant.
pub struct Daily {
    purses: Arc<Purses>,
}

/// One of the day's messages, given back when dropped without [`Taken::keep`].
pub struct Taken {
    portion: Portion,
    day: Timestamp,
}

impl Taken {
    /// The message is stored.
    pub fn keep(self) {
        self.portion.settle(self.day, 1);
    }
}

impl Daily {
    /// Nothing leased yet.
    pub fn new(base: &Arc<Base>) -> Self {
        Self { purses: Arc::new(Purses::new(Arc::clone(base))) }
    }

    /// What has leases.
    pub fn purses(&self) -> &Arc<Purses> {
        &self.purses
    }

    /// Takes one of the messages of today.
    ///
    /// # Errors
    /// [`astrfleet_core::Error::QuotaExceeded`] where all are used up; [`astrfleet_core::Error::TooMany`] where messages
    /// that are being stored may be the last ones.
    pub async fn take(&self, tenant: &TenantId, amount: Amount, now: Timestamp) -> Result<Taken> {
        let day = now.day_start();
        let taken = self.purses.of(tenant, Account::Messages).take(day, amount, 1).await?;
        let portion = taken.map_err(|refusal| {
            let next_step = "they are counted from 0 again at 00:00 UTC; a larger plan has more of them".to_owned();
            let waits_for = "messages at the same moment for what is left of the day's";
            purse::refused(refusal, "messages a day", waits_for, amount.hard(), next_step)
        })?;
        Ok(Taken { portion, day })
    }
}
