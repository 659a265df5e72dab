//! A limiter within one process: GCRA (ITU-T I.371, the "generic cell rate algorithm"), which keeps one number a key.
//! It is on the hot path: it must not wait, allocate for a known key, or grow without end.
//!
//! What it promises, where a request comes back every `T = per / amount` (rounded up to a nanosecond): of one key, any
//! window of length `w`, both ends included, holds at most `amount + floor(w / T)` allowed requests. So at most `amount`
//! at once, at most `2 x amount` in any `per`, and `amount` per `per` in the long run.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use astrfleet_core::ports::{Clock, Limit, Limiter, Verdict};

const SHARDS: usize = 32;

/// Counts in memory.
pub struct MemoryLimiter {
    clock: Arc<dyn Clock>,
    hasher: RandomState,
    keys_max_of_shard: usize,
    shards: [Mutex<Shard>; SHARDS],
}

/// By key, the moment at which all its requests are there again, in nanoseconds since 1970.
type Shard = HashMap<Box<str>, i64>;

impl MemoryLimiter {
    /// Remembers at most `keys_max` keys, rounded up to a multiple of 32. Beyond that it forgets the keys that have all
    /// their requests anyway, and, where there are none such, those that will have them soonest.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, keys_max: usize) -> Self {
        Self {
            clock,
            hasher: RandomState::new(),
            keys_max_of_shard: keys_max.div_ceil(SHARDS).max(1),
            shards: std::array::from_fn(|_| Mutex::default()),
        }
    }
}

impl Limiter for MemoryLimiter {
    fn take(&self, key: &str, limit: Limit) -> Verdict {
        if limit.amount == 0 {
            return Verdict::Refused { retry_after: limit.per };
        }
        let now = self.clock.now().micros().saturating_mul(1_000);
        let index = usize::try_from(self.hasher.hash_one(key) % SHARDS as u64).unwrap_or(0);
        let mut shard = self.shards[index].lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(full_at) = shard.get_mut(key) {
            return decide(full_at, now, limit);
        }
        if shard.len() >= self.keys_max_of_shard {
            make_room(&mut shard, now, self.keys_max_of_shard);
        }
        let mut full_at = now;
        let verdict = decide(&mut full_at, now, limit);
        shard.insert(key.into(), full_at);
        verdict
    }
}

/// GCRA. `limit.amount` is not zero.
fn decide(full_at: &mut i64, now: i64, limit: Limit) -> Verdict {
    let one = interval(limit);
    let all = one.saturating_mul(i64::from(limit.amount));
    // More than `all` ahead is possible only where the clock was set back or the limit changed: nobody has to wait for that.
    let before = (*full_at).clamp(now, now.saturating_add(all));
    let after = before.saturating_add(one);
    let used = after.saturating_sub(now);
    if used > all {
        *full_at = before;
        return Verdict::Refused { retry_after: nanos(used - all) };
    }
    *full_at = after;
    Verdict::Allowed { remaining: u32::try_from((all - used) / one).unwrap_or(0), reset: nanos(used) }
}

/// In what time one request comes back, in nanoseconds.
fn interval(limit: Limit) -> i64 {
    let whole = limit.per.as_nanos().div_ceil(u128::from(limit.amount)).max(1);
    // A century is more than anybody means, and leaves room to add.
    i64::try_from(whole).unwrap_or(i64::MAX).min(3_155_760_000_000_000_000 / i64::from(limit.amount))
}

fn nanos(count: i64) -> Duration {
    Duration::from_nanos(u64::try_from(count).unwrap_or(0))
}

/// Forgets what costs least. An eighth at a time, so that a flood of keys pays for one pass over the shard in many.
fn make_room(shard: &mut Shard, now: i64, keys_max: usize) {
    shard.retain(|_, full_at| *full_at > now);
    let keep = keys_max - keys_max.div_ceil(8);
    if shard.len() <= keep {
        return;
    }
    let mut moments: Vec<i64> = shard.values().copied().collect();
    let excess = moments.len() - keep;
    let (_, last_to_go, _) = moments.select_nth_unstable(excess - 1);
    let last_to_go = *last_to_go;
    let mut to_go = excess;
    shard.retain(|_, full_at| {
        let goes = to_go > 0 && *full_at <= last_to_go;
        to_go -= usize::from(goes);
        !goes
    });
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use astrfleet_core::ports::{Limit, Limiter, Verdict, testing::FixedClock};
    use proptest::prelude::*;

    use super::{MemoryLimiter, interval};

    fn allowed(limiter: &MemoryLimiter, key: &str, limit: Limit) -> bool {
        matches!(limiter.take(key, limit), Verdict::Allowed { .. })
    }

    proptest! {
        /// The promise of this module's first comment, for every pair of moments in which something was allowed.
        #[test]
        fn no_window_holds_more_than_promised(
            amount in 1_u32..9,
            per_micros in 1_u64..2_000,
            steps in proptest::collection::vec(0_u64..600, 1..120),
        ) {
            let clock = Arc::new(FixedClock::at(1_000_000));
            let limiter = MemoryLimiter::new(clock.clone(), 100);
            let limit = Limit { amount, per: Duration::from_micros(per_micros) };
            let (mut now, mut taken) = (0_u64, Vec::new());
            for step in steps {
                clock.advance(Duration::from_micros(step));
                now += step;
                if allowed(&limiter, "key", limit) {
                    taken.push(now);
                }
            }
            let one = u64::try_from(interval(limit)).unwrap();
            for (first, start) in taken.iter().enumerate() {
                for (last, end) in taken.iter().enumerate().skip(first) {
                    let count = (last - first + 1) as u64;
                    prop_assert!(count <= u64::from(amount) + (end - start) * 1_000 / one);
                    prop_assert!(end - start > per_micros || count <= 2 * u64::from(amount));
                }
            }
        }

        /// What it says about waiting is true: a microsecond earlier is refused, that moment is allowed.
        #[test]
        fn the_time_to_wait_is_exact(amount in 1_u32..9, per_micros in 1_u64..100_000) {
            let clock = Arc::new(FixedClock::at(1_000_000));
            let limiter = MemoryLimiter::new(clock.clone(), 100);
            let limit = Limit { amount, per: Duration::from_micros(per_micros) };
            for left in (0..amount).rev() {
                let Verdict::Allowed { remaining, .. } = limiter.take("key", limit) else { panic!("refused early") };
                prop_assert_eq!(remaining, left);
            }
            let Verdict::Refused { retry_after } = limiter.take("key", limit) else { panic!("allowed too much") };
            let micros = u64::try_from(retry_after.as_nanos().div_ceil(1_000)).unwrap();
            clock.advance(Duration::from_micros(micros - 1));
            prop_assert!(!allowed(&limiter, "key", limit));
            clock.advance(Duration::from_micros(1));
            prop_assert!(allowed(&limiter, "key", limit));
        }
    }

    #[test]
    fn forgets_only_keys_that_lose_nothing_while_there_are_any() {
        let clock = Arc::new(FixedClock::at(0));
        let limiter = MemoryLimiter::new(clock.clone(), 32 * 100);
        let limit = Limit { amount: 1, per: Duration::from_secs(1) };
        for number in 0..2_000 {
            limiter.take(&format!("old {number}"), limit);
        }
        clock.advance(Duration::from_secs(1));
        assert!(allowed(&limiter, "one that used its request", limit));
        for number in 0..1_000 {
            limiter.take(&format!("new {number}"), limit);
        }
        assert!(!allowed(&limiter, "one that used its request", limit));
    }

    #[test]
    fn a_flood_of_keys_does_not_make_it_grow() {
        let limiter = MemoryLimiter::new(Arc::new(FixedClock::at(0)), 320);
        for number in 0..10_000 {
            limiter.take(&number.to_string(), Limit { amount: 5, per: Duration::from_mins(1) });
        }
        assert!(limiter.shards.iter().map(|shard| shard.lock().unwrap().len()).sum::<usize>() <= 320);
    }

    #[test]
    fn a_clock_that_is_set_back_locks_nobody_out() {
        let clock = Arc::new(FixedClock::at(10_000_000_000));
        let limiter = MemoryLimiter::new(clock.clone(), 32);
        let limit = Limit { amount: 2, per: Duration::from_secs(2) };
        assert!(allowed(&limiter, "key", limit));
        clock.set(astrfleet_core::time::Timestamp::from_micros(0));
        assert!(!allowed(&limiter, "key", limit));
        clock.advance(Duration::from_secs(1));
        assert!(allowed(&limiter, "key", limit));
    }

    #[test]
    fn extremes_are_survived() {
        let limiter = MemoryLimiter::new(Arc::new(FixedClock::at(1_795_402_721_000_042)), 0);
        for amount in [0, 1, u32::MAX] {
            for per in [Duration::ZERO, Duration::from_nanos(1), Duration::MAX] {
                assert_eq!(allowed(&limiter, &format!("{amount} {per:?}"), Limit { amount, per }), amount > 0);
            }
        }
    }
}
