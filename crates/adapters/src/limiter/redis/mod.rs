//! A limiter for several replicas: token buckets in Redis, leased in small amounts, so that a request is answered from
//! memory and Redis is asked in the background. It is on the hot path: it must not wait, allocate for a known key, or
//! grow without end.
//!
//! How. A replica that has leased requests of a key uses those. One that has none (it sees the key for the first time,
//! or used its lease up faster than Redis answers) may allow its **share** without having asked: `amount / replicas` at
//! once (one at least), coming back at `1 / replicas` of the rate, and never more than its share of what it last heard to
//! be there. What it allowed so is told to Redis, which takes it off the common bucket, below empty if need be. While
//! Redis is away that same share is what remains: no switch is thrown, and when it is back, leases are.
//!
//! What it promises. With `T = per / amount` (in which one request comes back), `R` replicas that are configured as
//! such, and Redis answering within `D`, any window of length `w` holds at most
//!
//! ```text
//! amount + (w + 1 s + D) / T + max(amount, R)
//! ```
//!
//! allowed requests of one key: what a single limiter allows (`amount + w / T`), a second more (how long a lease may be
//! used), and, where every replica meets a key unprepared at the moment at which the others have emptied its bucket, one
//! amount more. That amount is a debt: the bucket stays closed until it is paid, so that in the long run it is `amount`
//! per `per`. A lease first pays for what was allowed while it was on its way; without that, one replica alone would meet
//! the term in its first burst. While Redis is away, any window holds at most `max(amount, R) + w / T`. Each time that
//! Redis loses the buckets (killed, flushed, failed over) adds at most one `amount`, once. Where some questions get lost and
//! others do not, the time for which a replica asked in vain counts twice: its share comes back in it, and so does the bucket,
//! which was not told. So `w` is longer by what all replicas together asked in vain in the window, divided by `R`.
//!
//! Why debts end: a replica allows without asking only while it believes that something is there. Of the last charges
//! of all replicas, at most one share each lies after the last moment at which somebody rightly believed that, so the
//! bucket is never further below empty than all shares together. A debt whose answer was lost is told again, since nobody
//! knows whether it was heard, so the bucket stops there: however often that happens, it is paid off in the same time.
//! `tests` checks the bound, and that, in simulated time.

mod bucket;
mod key;
mod sync;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use astrfleet_core::ports::{Clock, Limit, Limiter, Verdict};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::timeout,
};

use self::key::{Key, Rules};
use crate::redis::Redis;

const SHARDS: usize = 32;
/// Keys that wait to be asked about. Beyond it a replica goes by its share.
const WAITING_MAX: usize = 16 * 1024;

/// Counts in memory what it leased from Redis.
pub struct RedisLimiter {
    keys: Arc<Keys>,
    waiting: mpsc::Sender<Box<str>>,
    connected: watch::Receiver<bool>,
    /// Asks Redis; ends with this.
    _tasks: JoinSet<()>,
}

/// All keys of this process.
struct Keys {
    clock: Arc<dyn Clock>,
    replicas: u32,
    hasher: RandomState,
    shard_keys_max: usize,
    shards: [Mutex<HashMap<Box<str>, Key>>; SHARDS],
    /// Whether Redis answered the last time: nothing is queued for one that is away.
    is_there: AtomicBool,
}

impl RedisLimiter {
    /// Begins to connect, for as long as this lives. `replicas` share every limit. Remembers at most `keys_max` keys,
    /// rounded up to a multiple of 32; beyond that it forgets those that were asked about longest ago.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    #[must_use]
    pub fn new(redis: Redis, clock: Arc<dyn Clock>, replicas: u32, keys_max: usize) -> Self {
        let keys = Arc::new(Keys {
            clock,
            replicas: replicas.max(1),
            hasher: RandomState::new(),
            shard_keys_max: keys_max.div_ceil(SHARDS).max(1),
            shards: std::array::from_fn(|_| Mutex::default()),
            is_there: AtomicBool::new(false),
        });
        let (waiting, queue) = mpsc::channel(WAITING_MAX);
        let (connect, connected) = watch::channel(false);
        let mut tasks = JoinSet::new();
        tasks.spawn(sync::run(redis, Arc::clone(&keys), queue, connect));
        Self { keys, waiting, connected, _tasks: tasks }
    }

    /// Waits until Redis is asked, for at most `limit`. Whether it is.
    pub async fn connected(&self, limit: Duration) -> bool {
        let mut connected = self.connected.clone();
        timeout(limit, connected.wait_for(|connected| *connected)).await.is_ok_and(|waited| waited.is_ok())
    }
}

impl Limiter for RedisLimiter {
    fn take(&self, key: &str, limit: Limit) -> Verdict {
        if limit.amount == 0 {
            return Verdict::Refused { retry_after: limit.per };
        }
        let rules = Rules::new(limit, self.keys.replicas);
        let now = self.keys.now();
        let mut shard = self.keys.shard(key);
        if !shard.contains_key(key) {
            make_room(&mut shard, self.keys.shard_keys_max, now);
            shard.insert(key.into(), Key::new(rules, now));
        }
        let Some(known) = shard.get_mut(key) else { return Verdict::Refused { retry_after: limit.per } };
        let verdict = known.take(rules, now);
        if self.keys.is_there.load(Ordering::Relaxed) && !known.is_queued && known.needs_asking(now) {
            known.is_queued = self.waiting.try_send(key.into()).is_ok();
        }
        verdict
    }
}

impl Keys {
    fn now(&self) -> i64 {
        self.clock.now().micros().saturating_mul(1_000)
    }

    fn shard(&self, key: &str) -> MutexGuard<'_, HashMap<Box<str>, Key>> {
        let index = usize::try_from(self.hasher.hash_one(key) % SHARDS as u64).unwrap_or(0);
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with a key, if it is still known.
    fn with<T>(&self, key: &str, act: impl FnOnce(&mut Key) -> T) -> Option<T> {
        self.shard(key).get_mut(key).map(act)
    }
}

/// Forgets what costs least. An eighth at a time, so that a flood of keys pays for one pass over the shard in many.
fn make_room(shard: &mut HashMap<Box<str>, Key>, keys_max: usize, now: i64) {
    if shard.len() < keys_max {
        return;
    }
    shard.retain(|_, known| !known.is_idle(now));
    let keep = keys_max - keys_max.div_ceil(8);
    if shard.len() <= keep {
        return;
    }
    let mut moments: Vec<i64> = shard.values().map(|known| known.touched_at).collect();
    let excess = moments.len() - keep;
    let (_, last_to_go, _) = moments.select_nth_unstable(excess - 1);
    let last_to_go = *last_to_go;
    let mut to_go = excess;
    shard.retain(|_, known| {
        let goes = to_go > 0 && known.touched_at <= last_to_go;
        to_go -= usize::from(goes);
        !goes
    });
}
