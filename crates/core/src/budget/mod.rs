//! Amounts that several replicas use up together: reserved before something is done, settled after it.
//!
//! An account counts what was spent in one period. A replica takes a **lease** on a part of what is left, lets calls in
//! from that in memory ([`Share`]), and settles in the same transaction in which the lines of the ledger are written.
//! The store decides about leases one after the other ([`decide`]); a lease runs out by the database's clock, and has a
//! fencing number, so that what a replica says of a lease that ran out meanwhile changes nothing of the one that
//! followed it. No I/O and no clock in here.
//!
//! **Bound.** In one period no more is spent than
//!
//! ```text
//! limit + E + X + L
//! ```
//!
//! `E`: the largest estimate of one call, since the last call that is let in may find less than its estimate and more
//! than nothing: a part too small for any call would otherwise be left for ever. `X`: what calls take beyond their
//! estimates, which nobody knows before. `L`: for each lease that ran out while its replica had not written what it
//! spent (killed, or cut off from the store), that much, and at most the lease: its calls under way and its lines not yet
//! written. Without such a loss and with estimates that hold, that is `limit + E`, however many replicas there are.
//!
//! **Nobody is told "used up" while there is something left.** That is said only where what is written as spent has
//! reached the limit. What is merely reserved, or not written yet, is worth waiting for.

mod share;
#[cfg(test)]
mod tests;

use std::fmt;

pub use share::{Refusal, Share, Take};

use crate::{id::InstanceId, quota::Kind};

/// What is counted in one account.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Account {
    /// Messages of end users of a day. What is spent is what is stored.
    Messages,
    /// Tokens of a month.
    Tokens,
    /// Tokens of a month that one bot's key took.
    TokensOf(InstanceId),
}

impl Account {
    /// The quota that it is for.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Messages => Kind::MessagesPerDay,
            Self::Tokens => Kind::TokensPerMonth,
            Self::TokensOf(_) => Kind::TokensPerMonthOfKey,
        }
    }

    /// Whether what is spent is counted anew whenever a lease is asked for, since it is not written together with the
    /// account.
    #[must_use]
    pub fn is_counted(&self) -> bool {
        matches!(self, Self::Messages)
    }
}

/// As it stands in the database.
impl fmt::Display for Account {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Messages => formatter.write_str("messages"),
            Self::Tokens => formatter.write_str("tokens"),
            Self::TokensOf(instance) => write!(formatter, "tokens/{instance}"),
        }
    }
}

/// What a replica wants its lease to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ask {
    /// The fencing number of the lease that it has; 0: none.
    pub fence: u64,
    /// What stays whatever is answered: for calls under way, and for what was taken and is not written yet.
    pub committed: u64,
    /// What it keeps of the lease that it has, if that has not run out; includes `committed`.
    pub keep: u64,
    /// The estimate of a call that waits for the answer; 0: none does.
    pub need: u64,
    /// What it would like to have beyond that, for calls to come.
    pub extra: u64,
}

/// The lease of a replica, after it asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granted {
    /// The lease's number.
    pub fence: u64,
    /// All of it, not only what came to it.
    pub total: u64,
    /// What is spent, as the store knows.
    pub spent: u64,
    /// What other replicas have leased.
    pub others: u64,
}

/// How large a lease becomes: `spent` and `others` are what the store knows, `has` is what it has on record for the
/// lease of whoever asks; none where that ran out.
#[must_use]
pub fn decide(limit: u64, spent: u64, others: u64, has: Option<u64>, ask: &Ask) -> u64 {
    let base = ask.committed.max(has.unwrap_or(0).min(ask.keep));
    let room = limit.saturating_sub(spent).saturating_sub(others);
    if room <= base {
        return base;
    }
    // A lease that ran out is asked for again, as far as it was free, but others may have been faster.
    let extra = ask.extra.saturating_add(ask.keep.saturating_sub(base));
    let least = if ask.need == 0 { base } else { base.max(ask.committed.saturating_add(ask.need)) };
    // Never more than half of what is left, so that the others find something too.
    least + extra.min(room.saturating_sub(least).div_ceil(2))
}

/// What a replica says of its lease when it writes what was spent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Of which account.
    pub account: Account,
    /// The lease's number; 0: it has none.
    pub fence: u64,
    /// What is left of the lease after this.
    pub tokens: u64,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    /// The account.
    pub account: Account,
    /// Whether the lease goes on, for another full time; else it had run out.
    pub lives: bool,
    /// What is spent, where the store had to look.
    pub spent: Option<u64>,
}
