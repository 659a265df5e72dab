//! The bus and the limiter on real Redis servers: alone, as a cluster, behind sentinels; and what is left of their
//! promises when Redis is killed, frozen, flushed and failed over.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail where they stand")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use astrfleet_adapters::{
    bus::RedisBus,
    cache::RedisCache,
    limiter::{MemoryLimiter, RedisLimiter},
    redis::{Redis as Way, RedisSettings, Topology},
};
use astrfleet_core::{
    id::Ids,
    ports::{
        Bus, BusEvent, BusStream, Cache as _, Clock, Limit, Limiter, Rng, Verdict,
        testing::{CountingRng, FixedClock},
    },
    time::Timestamp,
};
use astrfleet_testkit::{
    contract,
    redis::{Guard, Redis, RedisCluster, RedisSentinels},
};
use futures_util::StreamExt as _;

/// A wait that ends at all.
const PATIENCE: Duration = Duration::from_secs(30);

/// The clock of this machine: leases run out by it.
struct RealClock;

impl Clock for RealClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(1_795_402_721_000_042 + i64::try_from(self.elapsed().as_micros()).unwrap())
    }

    fn elapsed(&self) -> Duration {
        static START: std::sync::LazyLock<std::time::Instant> = std::sync::LazyLock::new(std::time::Instant::now);
        START.elapsed()
    }
}

async fn bus(settings: &RedisSettings, name: u8, capacity: usize) -> RedisBus {
    let rng = CountingRng::default();
    // Each process has a name of its own.
    (0..name).for_each(|_| rng.fill(&mut [0; 16]));
    let bus = RedisBus::new(Way::new(settings.clone()).unwrap(), &rng, capacity);
    assert!(bus.connected(PATIENCE).await, "it connects");
    bus
}

async fn two(settings: &RedisSettings) -> (RedisBus, RedisBus) {
    (bus(settings, 0, 1024).await, bus(settings, 1, 1024).await)
}

async fn bus_contract(settings: &RedisSettings) {
    let (one, other) = two(settings).await;
    contract::bus::all(&one).await;
    contract::bus::across(&one, &other).await;
}

async fn limiters(settings: &RedisSettings, count: u32) -> Vec<Arc<dyn Limiter>> {
    let mut limiters: Vec<Arc<dyn Limiter>> = Vec::new();
    for _ in 0..count {
        let limiter = RedisLimiter::new(Way::new(settings.clone()).unwrap(), Arc::new(RealClock), count, 1_000);
        assert!(limiter.connected(PATIENCE).await, "it connects");
        limiters.push(Arc::new(limiter));
    }
    limiters
}

async fn cache(settings: &RedisSettings) -> RedisCache {
    let cache = RedisCache::new(Way::new(settings.clone()).unwrap(), contract::cache::VALUE_BYTES_MAX);
    assert!(cache.connected(PATIENCE).await, "it connects");
    cache
}

async fn cache_contract(settings: &RedisSettings) {
    let (one, other) = (cache(settings).await, cache(settings).await);
    contract::cache::all(&one).await;
    contract::cache::across(&one, &other).await;
}

#[tokio::test]
async fn one_redis() {
    let redis = Redis::start().await;
    bus_contract(&redis.settings()).await;
    cache_contract(&redis.settings()).await;

    let clock = Arc::new(FixedClock::at(1_795_402_721_000_042));
    let limiter = RedisLimiter::new(Way::new(redis.settings()).unwrap(), clock.clone(), 1, 1_000);
    contract::limiter::all(&limiter, &clock);

    let limiters = limiters(&redis.settings(), 3).await;
    contract::limiter::shared(&limiters, "ten_1", 3_000, 300, std::future::ready(())).await;
    contract::limiter::shared(&limiters, "ten_2", 1, 3, std::future::ready(())).await;
    redis.flush().await;
    assert!(Way::new(redis.settings()).unwrap().check().await.unwrap().starts_with("Redis 7"));
}

/// Asks each limiter from a thread of its own for as much as it can, for at least `window`. Returns how many were allowed
/// and refused, and how long it really was.
async fn under_load(limiters: Vec<Arc<dyn Limiter>>, limit: Limit, window: Duration) -> (u32, u32, Duration) {
    let start = std::time::Instant::now();
    let threads = limiters.into_iter().map(|limiter| {
        std::thread::spawn(move || {
            let (mut allowed, mut refused) = (0_u32, 0_u32);
            while start.elapsed() < window {
                match limiter.take("busy", limit) {
                    Verdict::Allowed { .. } => allowed += 1,
                    Verdict::Refused { .. } => {
                        refused += 1;
                        std::thread::sleep(Duration::from_micros(200));
                    }
                }
            }
            (allowed, refused)
        })
    });
    let threads: Vec<_> = threads.collect();
    let joined = tokio::task::spawn_blocking(|| {
        threads.into_iter().map(|thread| thread.join().unwrap()).fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1))
    });
    let (allowed, refused) = joined.await.unwrap();
    (allowed, refused, start.elapsed())
}

/// The bound that the limiter states, under load from three threads, with requests coming back all the time. The window is
/// so long that a limiter at twice the rate is over it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_load_the_limit_is_kept() {
    const AMOUNT: u32 = 2_000;
    const WINDOW: Duration = Duration::from_secs(6);
    let limit = Limit { amount: AMOUNT, per: Duration::from_secs(1) };
    // Two of amount, and a second of leases; and Redis has a second to answer on a busy machine.
    let bound = |window: Duration| f64::from(AMOUNT) * (2.0 + window.as_secs_f64() + 2.0);

    let redis = Redis::start().await;
    let (allowed, refused, window) = under_load(limiters(&redis.settings(), 3).await, limit, WINDOW).await;
    assert!(f64::from(allowed) <= bound(window), "{allowed} were allowed where {} are", bound(window));
    assert!(refused > 0, "there was more demand than is allowed");

    // Three who know nothing of each other, each with two thirds of it.
    let alone = |_| Arc::new(MemoryLimiter::new(Arc::new(RealClock), 1_000)) as Arc<dyn Limiter>;
    let twice = Limit { amount: AMOUNT / 3 * 2, ..limit };
    let (allowed, _, window) = under_load((0..3).map(alone).collect(), twice, WINDOW).await;
    assert!(f64::from(allowed) > bound(window), "{allowed}: this test would not notice twice the rate");
}

/// The same bound over a whole window in which Redis goes and comes back: three replicas under load go on by their shares,
/// lease again by themselves, and the buckets that were lost add one amount.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_limit_is_kept_while_redis_goes_and_comes_back() {
    const AMOUNT: u32 = 500;
    // So long that twice the rate is over the bound.
    const WINDOW: Duration = Duration::from_secs(8);
    let limit = Limit { amount: AMOUNT, per: Duration::from_secs(1) };
    let redis = Redis::start().await;
    let mut limiters = Vec::new();
    for _ in 0..3 {
        let limiter = RedisLimiter::new(Way::new(redis.settings()).unwrap(), Arc::new(RealClock), 3, 1_000);
        assert!(limiter.connected(PATIENCE).await, "it connects");
        limiters.push(Arc::new(limiter));
    }
    let allowed: Arc<[AtomicU32; 3]> = Arc::default();
    let is_over = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let start = std::time::Instant::now();
    let threads = limiters.iter().cloned().enumerate().map(|(index, limiter)| {
        let (allowed, is_over) = (Arc::clone(&allowed), Arc::clone(&is_over));
        std::thread::spawn(move || {
            while !is_over.load(Ordering::Relaxed) {
                match limiter.take("busy", limit) {
                    Verdict::Allowed { .. } => {
                        allowed[index].fetch_add(1, Ordering::Relaxed);
                    }
                    Verdict::Refused { .. } => std::thread::sleep(Duration::from_micros(200)),
                }
            }
        })
    });
    let threads: Vec<_> = threads.collect();
    let counts = || allowed.each_ref().map(|count| count.load(Ordering::Relaxed));
    // Each of them is let in some more, or together they are: whoever starves fails here.
    let more = async |each: u32, together: u32| {
        let before = counts();
        let waiting = async {
            loop {
                let now = counts();
                let gained: Vec<u32> = now.iter().zip(before).map(|(now, before)| now - before).collect();
                if gained.iter().all(|gained| *gained >= each) && gained.iter().sum::<u32>() >= together {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.expect("requests are let in");
    };
    more(1, 2 * AMOUNT).await;
    redis.kill();
    more(AMOUNT / 6, AMOUNT).await;
    redis.restart().await;
    for limiter in &limiters {
        assert!(limiter.connected(PATIENCE).await, "it recovers by itself");
    }
    more(1, 2 * AMOUNT).await;
    tokio::time::sleep(WINDOW.saturating_sub(start.elapsed())).await;
    is_over.store(true, Ordering::Relaxed);
    tokio::task::spawn_blocking(|| threads.into_iter().for_each(|thread| thread.join().unwrap())).await.unwrap();
    // Two of amount, a second of leases, and a second for Redis to answer on a busy machine; and one amount for the loss.
    let window = start.elapsed() + Duration::from_secs(2);
    let bound = f64::from(3 * AMOUNT) + window.as_secs_f64() * f64::from(AMOUNT);
    let total = counts().iter().sum::<u32>();
    assert!(f64::from(total) <= bound, "{total} were allowed where {bound} are");
}

#[tokio::test]
async fn a_cluster_that_fails_over() {
    let redis = RedisCluster::start().await;
    bus_contract(&redis.settings()).await;
    cache_contract(&redis.settings()).await;
    assert!(Way::new(redis.settings()).unwrap().check().await.unwrap().ends_with("(cluster)"));
    let limiters = limiters(&redis.settings(), 3).await;
    for key in ["a", "b", "c", "d"] {
        contract::limiter::shared(&limiters, key, 300, 100, std::future::ready(())).await;
    }
    // Each process may be connected to any node: all of them hear, by whichever is left.
    let (one, other) = two(&redis.settings()).await;
    let (mut there, mut here) = (other.subscribe(), one.subscribe());
    // A third of the keys is with the node that goes; replication is not waited for, so these may begin anew.
    let fail_over = async { redis.fail_over().await };
    let mut losses = 0;
    tokio::join!(fail_over, async {
        for key in ["e", "f", "g", "h", "i", "j"] {
            let allowed = contract::limiter::shared(&limiters, key, 300, 600, std::future::ready(())).await;
            losses += u32::from(allowed > 400);
        }
    });
    assert!(losses < 6, "not every key was on the node that went");
    assert!(contract::limiter::shared(&limiters, "after", 300, 100, std::future::ready(())).await >= 300);
    speaks(&one, &mut there).await;
    speaks(&other, &mut here).await;
}

#[tokio::test]
async fn sentinels_that_fail_over() {
    let redis = RedisSentinels::start().await;
    bus_contract(&redis.settings()).await;
    let limiters = limiters(&redis.settings(), 3).await;
    contract::limiter::shared(&limiters, "before", 300, 100, std::future::ready(())).await;
    let (one, other) = two(&redis.settings()).await;
    let mut there = other.subscribe();
    contract::limiter::shared(&limiters, "meanwhile", 300, 600, redis.fail_over()).await;
    contract::bus::recovers(&one, &mut there).await;
    contract::limiter::shared(&limiters, "after", 300, 100, std::future::ready(())).await;
}

#[tokio::test]
async fn the_bus_of_a_redis_that_fails() {
    let redis = Redis::start().await;
    let (one, other) = two(&redis.settings()).await;
    let (mut here, mut there) = (one.subscribe(), other.subscribe());

    redis.kill();
    local_events_go_on(&one, &mut here).await;
    redis.restart().await;
    contract::bus::recovers(&one, &mut there).await;
    contract::bus::recovers(&other, &mut here).await;

    // Cut on one side alone: the listening one, then the telling one.
    redis.cut("pubsub").await;
    contract::bus::recovers(&one, &mut there).await;
    redis.cut("normal").await;
    contract::bus::recovers(&one, &mut there).await;

    redis.flush().await;
    speaks(&one, &mut there).await;
    redis.sleep(Duration::from_secs(2)).await;
    speaks(&one, &mut there).await;
    speaks(&other, &mut here).await;

    // Connections stand, and nothing comes through them.
    redis.freeze();
    local_events_go_on(&one, &mut here).await;
    redis.thaw();
    speaks(&one, &mut there).await;
    speaks(&other, &mut here).await;
}

#[tokio::test]
async fn a_queue_that_runs_over_is_owned_up_to() {
    let redis = Redis::start().await;
    let (one, other) = (bus(&redis.settings(), 0, 64).await, bus(&redis.settings(), 1, 1024).await);
    let mut there = other.subscribe();
    redis.freeze();
    let ids = Ids::new(Arc::new(RealClock), Arc::new(CountingRng::default()));
    (0..10_000).for_each(|_| one.publish(BusEvent::TenantChanged(ids.tenant())));
    redis.thaw();
    contract::bus::recovers(&one, &mut there).await;
}

#[tokio::test]
async fn limits_of_a_redis_that_fails() {
    let redis = Redis::start().await;
    let limiters = limiters(&redis.settings(), 3).await;
    let settings = redis.settings();

    // One who finds no Redis starts all the same, and goes by its share.
    redis.kill();
    let late = RedisLimiter::new(Way::new(settings.clone()).unwrap(), Arc::new(RealClock), 3, 1_000);
    let limit = Limit { amount: 30, per: Duration::from_hours(1) };
    let alone = (0..100).filter(|_| matches!(late.take("alone", limit), Verdict::Allowed { .. })).count();
    assert_eq!(alone, 10, "its share");
    assert!(!late.connected(Duration::ZERO).await);
    // All three together allow what one would.
    contract::limiter::shared(&limiters, "away", 300, 0, std::future::ready(())).await;
    redis.restart().await;
    assert!(late.connected(PATIENCE).await, "it recovers by itself");
    contract::limiter::shared(&limiters, "back", 300, 300, std::future::ready(())).await;

    let restart = async {
        redis.kill();
        redis.restart().await;
    };
    contract::limiter::shared(&limiters, "restarted", 3_000, 6_000, restart).await;
    contract::limiter::shared(&limiters, "flushed", 3_000, 6_000, redis.flush()).await;
    contract::limiter::shared(&limiters, "asleep", 3_000, 3_000, redis.sleep(Duration::from_secs(2))).await;
}

/// Nothing of it fails: what cannot be had is not there, and nobody goes on asking whoever does not answer.
#[tokio::test]
async fn the_cache_of_a_redis_that_fails() {
    let redis = Redis::start().await;
    let cache = cache(&redis.settings()).await;
    let [tenant, _] = contract::cache::tenants();
    contract::cache::kept(&cache, &tenant, 1, b"kept").await;
    // Under the prefix and its tenant, for so long.
    let mut keys: Vec<String> = redis.ask(::redis::cmd("KEYS").arg("*")).await.unwrap();
    let key = keys.remove(0);
    assert!(keys.is_empty() && key.starts_with(&format!("astrfleet:cache:{tenant}:")), "{key}");
    let ttl_ms: i64 = redis.ask(::redis::cmd("PTTL").arg(&key)).await.unwrap();
    assert!((1..=3_600_000).contains(&ttl_ms), "{ttl_ms}");

    redis.freeze();
    assert_eq!(cache.get(&tenant, &[1; 32]).await, None);
    assert!(!cache.connected(Duration::ZERO).await, "after one question without an answer, nobody is asked");
    assert_eq!(cache.get(&tenant, &[1; 32]).await, None);
    (0..1_000).for_each(|_| cache.put(&tenant, &[2; 32], vec![0; 1_000].into(), Duration::from_secs(1)));
    redis.thaw();
    contract::cache::becomes(&cache, &tenant, 1, Some(b"kept")).await;

    redis.kill();
    contract::cache::becomes(&cache, &tenant, 1, None).await;
    let late = RedisCache::new(Way::new(redis.settings()).unwrap(), 10);
    assert_eq!(late.get(&tenant, &[1; 32]).await, None);
    redis.restart().await;
    contract::cache::kept(&late, &tenant, 1, b"late").await;
    contract::cache::becomes(&cache, &tenant, 1, Some(b"late")).await;

    // A value that somebody else put there, and one that is too large for us.
    redis.ask::<()>(::redis::cmd("DEL").arg(&key)).await.unwrap();
    redis.ask::<()>(::redis::cmd("RPUSH").arg(&key).arg("a list")).await.unwrap();
    assert_eq!(cache.get(&tenant, &[1; 32]).await, None);
    redis.ask::<()>(::redis::cmd("SET").arg(&key).arg("x".repeat(5_000))).await.unwrap();
    assert_eq!(cache.get(&tenant, &[1; 32]).await, None);
}

#[tokio::test]
async fn a_password() {
    let secret = "a password of tests";
    let redis = Redis::with_password(secret).await;
    let refused = Way::new(redis.settings()).unwrap().check().await.unwrap_err();
    assert!(std::error::Error::source(&refused).unwrap().to_string().contains("NOAUTH"), "{refused:?}");
    let known = RedisSettings { password: secret.into(), ..redis.settings() };
    Way::new(known.clone()).unwrap().check().await.unwrap();
    assert!(!format!("{known:?}").contains(secret), "secrets do not print");
    bus_contract(&known).await;
}

/// Everything that a process does with Redis, where it has to prove who it is and is proven whom it talks to; and nothing
/// where one of the two is wrong.
async fn guarded(settings: &RedisSettings, plain: &RedisSettings) {
    Way::new(settings.clone()).unwrap().check().await.unwrap();
    bus_contract(settings).await;
    cache_contract(settings).await;
    let limiters = limiters(settings, 3).await;
    // Of a cluster, one key at least is with each node.
    for key in ["a", "b", "c", "d", "e", "f", "g", "h"] {
        contract::limiter::shared(&limiters, key, 300, 100, std::future::ready(())).await;
    }
    let refused = async |wrong: RedisSettings, why: &str| {
        Way::new(wrong.clone()).unwrap().check().await.expect_err(why);
        let limiter = RedisLimiter::new(Way::new(wrong).unwrap(), Arc::new(RealClock), 1, 10);
        assert!(!limiter.connected(Duration::from_millis(300)).await, "{why}");
    };
    refused(RedisSettings { ca_pem: None, ..settings.clone() }, "a certificate that nobody signed").await;
    refused(RedisSettings { password: "wrong".into(), ..settings.clone() }, "a wrong password").await;
    refused(plain.clone(), "no TLS where TLS is spoken").await;
}

#[tokio::test]
async fn one_redis_with_tls_and_a_password() {
    let redis = Redis::guarded(&Guard::new()).await;
    let plain = RedisSettings { tls: false, ca_pem: None, ..redis.settings() };
    guarded(&redis.settings(), &plain).await;
}

#[tokio::test]
async fn a_cluster_with_tls_and_a_password() {
    let redis = RedisCluster::guarded(Guard::new()).await;
    let plain = RedisSettings { tls: false, ca_pem: None, ..redis.settings() };
    guarded(&redis.settings(), &plain).await;
}

#[tokio::test]
async fn sentinels_with_tls_and_passwords_of_their_own() {
    let redis = RedisSentinels::guarded(Guard::new()).await;
    let plain = RedisSettings { tls: false, ca_pem: None, ..redis.settings() };
    guarded(&redis.settings(), &plain).await;
    let Topology::Sentinel { master, .. } = redis.settings().topology else { panic!("these are sentinels") };
    // The password of the servers is not the sentinels'.
    let topology = Topology::Sentinel { master, password: redis.settings().password };
    let wrong = RedisSettings { topology, ..redis.settings() };
    Way::new(wrong).unwrap().check().await.expect_err("a wrong password of the sentinels");
}

/// Events of one process come to another, however many were lost before.
async fn speaks(one: &dyn Bus, there: &mut BusStream) {
    let ids = Ids::new(Arc::new(RealClock), Arc::new(CountingRng::default()));
    let heard = async {
        loop {
            let event = BusEvent::TenantChanged(ids.tenant());
            one.publish(event.clone());
            let hear = async { while there.next().await.expect("the bus goes on") != event {} };
            if tokio::time::timeout(Duration::from_millis(500), hear).await.is_ok() {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, heard).await.expect("events come");
}

/// Without Redis, this process hears itself.
async fn local_events_go_on(one: &dyn Bus, here: &mut BusStream) {
    speaks(one, here).await;
}
