//! What one process knows about one key, and what it may allow by that. Arithmetic alone: no clock, no Redis.
//!
//! All moments are nanoseconds since 1970 by the clock of this process. A bucket is one number, as in the limiter in
//! memory: the moment at which it is full again.

use std::time::Duration;

use astrfleet_core::ports::{Limit, Verdict};

/// How long leased requests may be used, from before they were asked for.
pub(super) const LEASE_NS: i64 = 1_000_000_000;
/// A lease that is used up faster than this is followed by a larger one.
const BUSY_NS: i64 = LEASE_NS / 4;

/// A limit and this process's share of it, in numbers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// Requests of all replicas together.
    pub(super) amount: u32,
    /// In what time one of them comes back.
    pub(super) interval: i64,
    replicas: i64,
}

impl Rules {
    /// `limit.amount` is not zero.
    pub(super) fn new(limit: Limit, replicas: u32) -> Self {
        let replicas = replicas.max(1);
        let whole = limit.per.as_nanos().div_ceil(u128::from(limit.amount)).max(1);
        // A century is more than anybody means, and leaves room to add and to multiply.
        let longest = 3_155_760_000_000_000_000 / i64::from(limit.amount) / i64::from(replicas);
        let interval = i64::try_from(whole).unwrap_or(i64::MAX).min(longest.max(1));
        Self { amount: limit.amount, interval, replicas: i64::from(replicas) }
    }

    /// A full bucket of all.
    fn all(self) -> i64 {
        self.interval.saturating_mul(i64::from(self.amount))
    }

    /// The most requests that can be missing in the common bucket: all of it, and what the replicas together may allow
    /// without having asked.
    pub(super) fn missing_max(self) -> i64 {
        let amount = i64::from(self.amount);
        amount.saturating_add(amount.max(self.replicas))
    }

    /// In what time one request of the share comes back.
    fn own_interval(self) -> i64 {
        self.interval.saturating_mul(self.replicas)
    }

    /// A full bucket of the share, which is one request at least.
    fn own_all(self) -> i64 {
        self.all().max(self.own_interval())
    }

    /// The largest lease.
    fn lease_max(self) -> u32 {
        let share = i64::from(self.amount) / self.replicas;
        u32::try_from(share / 4).unwrap_or(u32::MAX).max(1)
    }
}

/// Requests that were taken from the common bucket beforehand.
#[derive(Clone, Copy, Debug, Default)]
struct Lease {
    count: u32,
    until: i64,
}

/// What this process knows about a key.
#[derive(Clone, Debug)]
pub(super) struct Key {
    pub(super) rules: Rules,
    /// When the common bucket is full again, as last heard.
    full_at: i64,
    /// When the bucket of the share is full again: what is missing in it was allowed and not yet told to Redis.
    own_full_at: i64,
    older: Lease,
    newer: Lease,
    /// Requests that were leased and not used in time.
    unused: u32,
    /// The size of the next lease.
    wanted: u32,
    /// What is on its way to Redis.
    asked: Option<Asked>,
    leased_at: i64,
    /// Whether it waits to be asked about.
    pub(super) is_queued: bool,
    /// When it was last asked about, to forget it.
    pub(super) touched_at: i64,
}

/// What is told to Redis and asked of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    /// Requests that were allowed without having asked.
    pub(super) debt: u32,
    /// Leased requests that come back.
    pub(super) back: u32,
    /// Requests to be leased.
    pub(super) want: u32,
    at: i64,
}

/// What Redis says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// Leased.
    pub(super) granted: u32,
    /// In what time the common bucket is full again.
    pub(super) full_in: i64,
}

impl Key {
    pub(super) fn new(rules: Rules, now: i64) -> Self {
        Self {
            rules,
            full_at: now,
            own_full_at: now,
            older: Lease::default(),
            newer: Lease::default(),
            unused: 0,
            wanted: 1,
            asked: None,
            leased_at: i64::MIN,
            is_queued: false,
            touched_at: now,
        }
    }

    /// Takes one, if it may. Whether Redis is to be asked about this key is for [`Key::needs_asking`] to say.
    pub(super) fn take(&mut self, rules: Rules, now: i64) -> Verdict {
        self.rules = rules;
        self.touched_at = now;
        self.settle(now);
        let lease = if self.older.count > 0 { &mut self.older } else { &mut self.newer };
        if lease.count > 0 {
            lease.count -= 1;
            return self.allowed(now);
        }
        let own_used = self.own_used(now).saturating_add(rules.own_interval());
        // Its share of what is there as last heard, and one where anything is.
        let free = rules.all().saturating_sub(self.heard_used(now));
        let wait = own_used.saturating_sub(free.max(rules.own_interval())).max(rules.interval.saturating_sub(free));
        if wait > 0 {
            return Verdict::Refused { retry_after: nanos(wait) };
        }
        self.own_full_at = now.saturating_add(own_used);
        self.allowed(now)
    }

    /// Whether there is something to tell or to ask.
    pub(super) fn needs_asking(&self, now: i64) -> bool {
        let has_more = self.used(now).saturating_add(self.rules.interval) <= self.rules.all();
        let is_low = has_more && self.leased() <= self.wanted / 2;
        self.asked.is_none() && (is_low || self.unused > 0 || self.own_used(now) > 0)
    }

    /// What goes to Redis now; nothing where something is on its way already.
    pub(super) fn ask(&mut self, now: i64) -> Option<Asked> {
        self.settle(now);
        if self.asked.is_some() {
            return None;
        }
        let back = std::mem::take(&mut self.unused) + std::mem::take(&mut self.older.count);
        let debt = self.debt(now);
        // A key that nobody asks about any more gives back what it has and takes no more.
        let is_idle = now.saturating_sub(self.touched_at) >= LEASE_NS;
        let asked = Asked { debt, back, want: if is_idle { 0 } else { self.wanted }, at: now };
        self.asked = Some(asked);
        Some(asked)
    }

    /// Redis answered. Whether more was allowed meanwhile, which is to be told at once.
    pub(super) fn answered(&mut self, answer: Answer, now: i64) -> bool {
        let Some(asked) = self.asked.take() else { return false };
        self.settle(now);
        self.full_at = now.saturating_add(answer.full_in);
        self.pay(asked.debt, now);
        if answer.granted > 0 {
            // The bucket did not know of what was allowed meanwhile: that comes first.
            let owed = self.debt(now).min(answer.granted);
            self.pay(owed, now);
            self.older = self.newer;
            self.newer = Lease { count: answer.granted - owed, until: asked.at.saturating_add(LEASE_NS) };
            if asked.at.saturating_sub(self.leased_at) < BUSY_NS {
                self.wanted = self.wanted.saturating_mul(2).min(self.rules.lease_max());
            }
            self.leased_at = asked.at;
        }
        self.own_used(now) > 0
    }

    /// Redis did not answer. Whether it heard is not known: what was told is told again, what came back is given up.
    pub(super) fn unanswered(&mut self) -> bool {
        self.asked = None;
        false
    }

    /// Whether forgetting it changes nothing.
    pub(super) fn is_idle(&self, now: i64) -> bool {
        self.asked.is_none() && self.leased() == 0 && self.unused == 0 && self.used(now) == 0
    }

    /// Requests that were allowed without having asked, and neither told nor paid. What is left of one counts whole.
    fn debt(&self, now: i64) -> u32 {
        let owed = self.own_used(now).saturating_add(self.rules.own_interval() - 1) / self.rules.own_interval();
        u32::try_from(owed).unwrap_or(u32::MAX)
    }

    fn pay(&mut self, requests: u32, now: i64) {
        let paid = self.rules.own_interval().saturating_mul(i64::from(requests));
        self.own_full_at = self.own_full_at.saturating_sub(paid).max(now);
    }

    fn leased(&self) -> u32 {
        self.older.count + self.newer.count
    }

    fn allowed(&self, now: i64) -> Verdict {
        let used = self.used(now);
        let free = (self.rules.all() - used).max(0) / self.rules.interval;
        let remaining = self.leased().saturating_add(u32::try_from(free).unwrap_or(u32::MAX)).min(self.rules.amount);
        Verdict::Allowed { remaining, reset: nanos(used) }
    }

    /// What is missing in the bucket of the share, in time.
    fn own_used(&self, now: i64) -> i64 {
        self.own_full_at.saturating_sub(now).max(0)
    }

    /// What is missing in the common bucket as far as known here, in time.
    fn used(&self, now: i64) -> i64 {
        // Rounded up: a request counts whole.
        let untold = self.own_used(now).saturating_add(self.rules.replicas - 1) / self.rules.replicas;
        self.heard_used(now).saturating_add(untold)
    }

    /// The same without what is untold. Leased requests that go back with the next word are there already.
    fn heard_used(&self, now: i64) -> i64 {
        let returning = self.rules.interval.saturating_mul(i64::from(self.unused));
        self.full_at.saturating_sub(now).saturating_sub(returning).max(0)
    }

    /// Ends what is over, and what cannot be because the clock was set back or the limit changed.
    fn settle(&mut self, now: i64) {
        for lease in [&mut self.older, &mut self.newer] {
            if lease.count > 0 && (now >= lease.until || lease.until.saturating_sub(now) > LEASE_NS) {
                self.unused += std::mem::take(&mut lease.count);
                self.wanted = (self.wanted / 2).max(1);
            }
        }
        self.wanted = self.wanted.min(self.rules.lease_max());
        self.own_full_at = self.own_full_at.clamp(now, now.saturating_add(self.rules.own_all()));
        // All replicas together may have taken as much again as there was.
        let most = self.rules.all().saturating_add(self.rules.own_all());
        self.full_at = self.full_at.clamp(now, now.saturating_add(most));
    }
}

fn nanos(count: i64) -> Duration {
    Duration::from_nanos(u64::try_from(count).unwrap_or(0))
}
