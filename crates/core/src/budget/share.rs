//! What one replica has of one account in one period.

use std::time::Duration;

use super::{Ask, Granted};

/// Of what is left, a replica leases at most one part of so many for calls to come.
const PARTS: u64 = 16;
/// A chunk is at least so many calls like the one that asks.
const CALLS_MIN: u64 = 4;
/// Asked for again within this time: the chunk is doubled.
const SOON: Duration = Duration::from_secs(2);
/// Not asked for within this time: it is halved.
const LATE: Duration = Duration::from_secs(20);
/// How much earlier than the store a replica believes that its lease ran out, as one part of so many: clocks do not run
/// alike.
const EARLIER: u32 = 10;
/// A lease of a budget of which plenty is left is kept for so many times as long without use.
const PATIENCE: u32 = 10;
/// How long "used up" is believed without asking again; and how long "reserved".
const USED_UP_FOR: Duration = Duration::from_secs(1);
const RESERVED_FOR: Duration = Duration::from_millis(20);

/// The part of an account that one replica has leased, and what became of it. Moments are times since the process
/// began, by a clock that is never set.
///
/// `held` is never more than what the store has on record for a lease that has not run out there; so whatever is let in
/// from `held` is let in by nobody else.
#[derive(Debug, Default)]
pub struct Share {
    fence: u64,
    /// The lease.
    held: u64,
    /// Estimates of calls under way.
    reserved: u64,
    /// Taken, and not written.
    unsettled: u64,
    /// Until when the lease may be used.
    until: Duration,
    /// Somebody asks and has given up what was free for it.
    frozen: bool,
    /// The size of what is asked for at once.
    chunk: u64,
    asked_at: Option<Duration>,
    taken_at: Duration,
    spent: u64,
    /// The limit under which the lease was given: under another one it says nothing.
    limit: u64,
    /// So little is left that others should know soon what is not used any more.
    tight: bool,
    refused: Option<(Refusal, u64, Duration)>,
}

/// Why something is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// All of it is spent.
    UsedUp,
    /// What is left is reserved, here or elsewhere.
    Reserved,
}

/// Whether something is let in from memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Take {
    /// It is. `low`: it is time to ask for more, beside the work.
    Taken {
        /// Little is left.
        low: bool,
    },
    /// The store is to be asked.
    Ask,
    /// It was asked a moment ago.
    Refused(Refusal),
}

impl Share {
    /// Lets in what will take some `estimate`, if the lease has room for it.
    pub fn take(&mut self, now: Duration, limit: u64, estimate: u64) -> Take {
        if !self.frozen && now < self.until && self.limit == limit && self.free() >= estimate {
            self.reserved += estimate;
            self.taken_at = now;
            return Take::Taken { low: self.free() < self.chunk / 4 };
        }
        match self.refused {
            Some((refusal, of, until)) if of == limit && now < until => Take::Refused(refusal),
            _ => Take::Ask,
        }
    }

    /// Something that was let in took `took`, or nothing.
    pub fn end(&mut self, estimate: u64, took: u64) {
        self.reserved = self.reserved.saturating_sub(estimate);
        self.unsettled = self.unsettled.saturating_add(took);
    }

    /// Begins to ask for a call of `need` that found no room. Until the answer is there, or that there is none, nothing
    /// is let in: what is free is given up, so that it is not kept from whoever can use it.
    pub fn ask_for(&mut self, now: Duration, limit: u64, need: u64, counted: bool) -> Ask {
        self.frozen = true;
        let extra = self.next_chunk(now, limit, need);
        let committed = self.committed(counted);
        Ask { fence: self.fence, committed, keep: committed, need, extra }
    }

    /// Begins to ask for more, while calls are let in from what there is.
    pub fn ask_ahead(&mut self, now: Duration, limit: u64, counted: bool) -> Ask {
        let extra = self.next_chunk(now, limit, 0);
        Ask { extra, ..self.ask_to_stay(counted) }
    }

    /// Begins to tell how things are, and to keep what there is for another full time.
    #[must_use]
    pub fn ask_to_stay(&self, counted: bool) -> Ask {
        let committed = self.committed(counted);
        let counted_now = if counted { self.unsettled } else { 0 };
        Ask {
            fence: self.fence,
            committed,
            keep: self.held.saturating_sub(counted_now).max(committed),
            need: 0,
            extra: 0,
        }
    }

    /// Begins to give back what is free.
    pub fn ask_to_leave(&mut self, counted: bool) -> Ask {
        self.frozen = true;
        let committed = self.committed(counted);
        Ask { fence: self.fence, committed, keep: committed, need: 0, extra: 0 }
    }

    /// The answer to what was asked at `sent`; `settled` is what was unsettled then, where the account counts by itself.
    pub fn answered(&mut self, sent: Duration, ttl: Duration, limit: u64, ask: &Ask, granted: Granted, settled: u64) {
        self.frozen = false;
        self.unsettled = self.unsettled.saturating_sub(settled);
        (self.fence, self.held, self.spent) = (granted.fence, granted.total, granted.spent);
        self.until = sent + ttl.saturating_sub(ttl / EARLIER);
        let taken = granted.spent.saturating_add(granted.others).saturating_add(granted.total);
        self.tight = taken >= limit - limit / 4;
        self.limit = limit;
        self.refused = None;
        if ask.need > 0 && granted.total < ask.committed.saturating_add(ask.need) {
            // Not what is unwritten: it may be written already, where an answer was lost. It soon is.
            let used_up = granted.spent >= limit;
            let (refusal, lasts) =
                if used_up { (Refusal::UsedUp, USED_UP_FOR) } else { (Refusal::Reserved, RESERVED_FOR) };
            self.refused = Some((refusal, limit, sent + lasts));
        }
    }

    /// No answer came: the store may have done what was asked, or not.
    pub fn unanswered(&mut self, ask: &Ask) {
        self.frozen = false;
        // It has on record what was to be kept at least, either way.
        self.held = self.held.min(ask.keep);
    }

    /// Why the last one who asked was refused.
    #[must_use]
    pub fn refusal(&self) -> Refusal {
        self.refused.map_or(Refusal::Reserved, |(refusal, ..)| refusal)
    }

    /// What is left of the lease once `tokens` that it was used for are written, with its number.
    #[must_use]
    pub fn after(&self, tokens: u64) -> (u64, u64) {
        (self.fence, self.held.saturating_sub(tokens))
    }

    /// `tokens` were written at some moment after `sent`; `lives` as in [`super::Settled`].
    pub fn settled(&mut self, sent: Duration, ttl: Duration, tokens: u64, total: Option<u64>, lives: bool) {
        self.unsettled = self.unsettled.saturating_sub(tokens);
        self.spent = total.unwrap_or(self.spent);
        if lives {
            self.held = self.held.saturating_sub(tokens);
            self.until = self.until.max(sent + ttl.saturating_sub(ttl / EARLIER));
        } else {
            self.held = 0;
        }
    }

    /// Whether it is time to tell the store how things are, and how. What was not used for `idle` is given back.
    pub fn due(&mut self, now: Duration, ttl: Duration, idle: Duration, counted: bool) -> Option<Ask> {
        if self.frozen || self.fence == 0 {
            return None;
        }
        // Where there is plenty, nobody waits for it.
        let idle = if self.tight { idle } else { idle * PATIENCE };
        let is_idle = now.saturating_sub(self.taken_at) >= idle;
        // Also where it ran out: the store need not wait for its end.
        if is_idle && (self.free() > 0 || (counted && self.unsettled > 0)) {
            return Some(self.ask_to_leave(counted));
        }
        let ends_soon = now + ttl / 3 >= self.until && self.committed(counted) > 0;
        let untold = counted && self.tight && self.unsettled > 0;
        (ends_soon || untold).then(|| self.ask_to_stay(counted))
    }

    /// What was taken and is not known to be written.
    #[must_use]
    pub fn unsettled(&self) -> u64 {
        self.unsettled
    }

    /// What was spent when the store last said it.
    #[must_use]
    pub fn spent(&self) -> u64 {
        self.spent
    }

    /// Nothing is under way, unwritten or leased.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.held == 0 && self.reserved == 0 && self.unsettled == 0 && !self.frozen
    }

    fn free(&self) -> u64 {
        self.held.saturating_sub(self.reserved).saturating_sub(self.unsettled)
    }

    fn committed(&self, counted: bool) -> u64 {
        // What counts by itself is seen by the store as soon as it is stored.
        if counted { self.reserved } else { self.reserved.saturating_add(self.unsettled) }
    }

    fn next_chunk(&mut self, now: Duration, limit: u64, need: u64) -> u64 {
        let since = self.asked_at.map(|at| now.saturating_sub(at));
        self.asked_at = Some(now);
        let least = need.saturating_mul(CALLS_MIN);
        let next = match since {
            Some(since) if since < SOON => self.chunk.saturating_mul(2),
            Some(since) if since > LATE => self.chunk / 2,
            _ => self.chunk,
        };
        // Some calls' worth; where little is there at all, no more than a part of it. The store gives less when little is left.
        self.chunk = next.max(least).min(limit / PARTS);
        self.chunk
    }
}
