//! Which process of a role gets a request: the least busy of two among those that are well, or, where a tenant's requests
//! are better kept together, always the same one as long as it is well. Shared by all workers; no I/O.
//!
//! That a tenant's requests meet at one process saves work there. Nothing may be wrong when they do not.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use arc_swap::ArcSwap;
use astrfleet_core::circuit::{Circuit, Event, Rules};

use super::upstream::Upstream;
use crate::{
    config::{BalanceConfig, millis},
    metrics::{Metrics, UpstreamLabels},
    role::Role,
};

/// One retry, in thousandths.
const RETRY: i64 = 1_000;
/// Retries that may be saved up.
const RETRIES_SAVED_MAX: i64 = 20 * RETRY;

/// What a process said of itself when it was last asked, in the order in which they are preferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Standing {
    /// It may be sent requests, or was not asked yet.
    Ready,
    /// It answers, and another one of its role does the work.
    StandsBy,
    /// It does not want any, or does not answer. It is asked all the same where nobody is better.
    Away,
}

/// One process of a role, at one address.
#[derive(Debug)]
pub struct Member {
    address: SocketAddr,
    upstream: Upstream,
    labels: UpstreamLabels,
    seed: u64,
    standing: AtomicU8,
    /// It has answered a question, or has not in time.
    was_heard: AtomicBool,
    /// Questions in a row that it did not answer.
    unanswered: AtomicU32,
    calls: AtomicU32,
    /// Nothing has failed lately: spares most calls the lock.
    is_calm: AtomicBool,
    circuit: Mutex<Circuit>,
}

/// The processes of one role.
pub struct Members {
    role: Role,
    list: ArcSwap<Vec<Arc<Member>>>,
    config: BalanceConfig,
    rules: Rules,
    began: Instant,
    dice: AtomicU64,
    /// Retries that are left, in thousandths.
    budget: AtomicI64,
    metrics: Arc<Metrics>,
}

impl Members {
    /// None yet.
    #[must_use]
    pub fn new(role: Role, config: &BalanceConfig, metrics: Arc<Metrics>) -> Self {
        let rules = Rules {
            failures: config.circuit_failures.max(1),
            open: millis(config.circuit_open_ms),
            open_max: millis(config.circuit_open_max_ms),
        };
        Self {
            role,
            list: ArcSwap::default(),
            config: config.clone(),
            rules,
            began: Instant::now(),
            dice: AtomicU64::new(1),
            budget: AtomicI64::new(RETRIES_SAVED_MAX),
            metrics,
        }
    }

    /// Whose.
    #[must_use]
    pub fn role(&self) -> Role {
        self.role
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> Arc<Vec<Arc<Member>>> {
        self.list.load_full()
    }

    /// These are all of them now; what is known of those that were here before is kept.
    pub fn set(&self, mut addresses: Vec<SocketAddr>) {
        addresses.sort_unstable();
        addresses.dedup();
        addresses.truncate(self.config.max_addresses);
        let before = self.list.load_full();
        if before.iter().map(|member| member.address).eq(addresses.iter().copied()) {
            return;
        }
        let kept = |address: SocketAddr| before.iter().find(|member| member.address == address).cloned();
        let members: Vec<_> = addresses
            .into_iter()
            .map(|address| kept(address).unwrap_or_else(|| Arc::new(Member::new(self.role, address))))
            .collect();
        for gone in before.iter().filter(|gone| !members.iter().any(|member| member.address == gone.address)) {
            self.metrics.upstream_ready.remove(&gone.labels);
            self.metrics.circuit_open.remove(&gone.labels);
        }
        tracing::info!(role = ?self.role, addresses = members.len(), "the addresses of a role changed");
        self.list.store(Arc::new(members));
    }

    /// What a member said when it was asked, or that it did not answer.
    pub fn heard(&self, member: &Member, said: Option<Standing>) {
        let before = member.standing();
        let standing = match said {
            Some(standing) => {
                member.unanswered.store(0, Relaxed);
                standing
            }
            None if member.unanswered.fetch_add(1, Relaxed) + 1 >= self.config.unhealthy_after => Standing::Away,
            None => before,
        };
        member.standing.store(standing as u8, Relaxed);
        member.was_heard.store(true, Relaxed);
        self.metrics.upstream_ready.get_or_create(&member.labels).set(i64::from(standing != Standing::Away));
        if standing != before {
            tracing::info!(role = ?self.role, address = %member.address, ?standing, "a process of a role changed");
        }
    }

    /// Whether all of them were asked at least once.
    #[must_use]
    pub fn all_heard(&self) -> bool {
        self.list.load().iter().all(|member| member.was_heard.load(Relaxed))
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn random(&self) -> u64 {
        mixed(self.dice.fetch_add(0x9E37_79B9_7F4A_7C15, Relaxed))
    }

    /// The best one that was not tried yet.
    fn choose(&self, key: Option<u64>, tried: &[SocketAddr]) -> Option<Arc<Member>> {
        let list = self.list.load();
        let now = self.now();
        let may = |member: &&Arc<Member>| {
            !tried.contains(&member.address)
                && member.calls.load(Relaxed) < self.config.max_requests
                && member.admits(now)
        };
        let best = list.iter().filter(may).map(|member| member.standing()).min()?;
        let among = || list.iter().filter(may).filter(|member| member.standing() == best);
        if let Some(key) = key {
            return among().max_by_key(|member| mixed(member.seed ^ key)).cloned();
        }
        let count = among().count() as u64;
        if count <= 1 {
            return among().next().cloned();
        }
        let dice = self.random();
        let first = dice % count;
        let second = (first + 1 + (dice >> 32) % (count - 1)) % count;
        let nth = |number: u64| usize::try_from(number).ok().and_then(|number| among().nth(number));
        [nth(first), nth(second)].into_iter().flatten().min_by_key(|member| member.calls.load(Relaxed)).cloned()
    }

    fn note(&self, member: &Member, event: Event) {
        let now = self.now();
        let mut circuit = member.circuit.lock().unwrap_or_else(PoisonError::into_inner);
        let before = *circuit;
        *circuit = before.next(event, now, self.rules);
        member.is_calm.store(circuit.is_calm(), Relaxed);
        let (was_open, is_open) = (is_open(before), is_open(*circuit));
        drop(circuit);
        if was_open != is_open {
            self.metrics.circuit_open.get_or_create(&member.labels).set(i64::from(is_open));
            tracing::warn!(role = ?self.role, address = %member.address, open = is_open, "a circuit changed");
        }
    }

    /// Whether there is something left for another try.
    fn take_retry(&self) -> bool {
        let taken = self.budget.fetch_update(Relaxed, Relaxed, |left| (left >= RETRY).then_some(left - RETRY)).is_ok();
        if taken {
            self.metrics.retries.inc();
        }
        taken
    }

    fn save_for_retries(&self) {
        let share = i64::from(self.config.retry_percent) * RETRY / 100;
        if self.budget.load(Relaxed) < RETRIES_SAVED_MAX {
            self.budget.fetch_add(share, Relaxed);
        }
    }
}

fn is_open(circuit: Circuit) -> bool {
    !matches!(circuit, Circuit::Closed { .. })
}

impl Member {
    fn new(role: Role, address: SocketAddr) -> Self {
        let role = format!("{role:?}").to_lowercase();
        Self {
            address,
            upstream: Upstream::Address(address),
            seed: key_of(&address.to_string()),
            labels: UpstreamLabels { role, address: address.to_string() },
            standing: AtomicU8::new(Standing::Ready as u8),
            was_heard: AtomicBool::new(false),
            unanswered: AtomicU32::new(0),
            calls: AtomicU32::new(0),
            is_calm: AtomicBool::new(true),
            circuit: Mutex::default(),
        }
    }

    /// Where it is.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://host:port`
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn standing(&self) -> Standing {
        match self.standing.load(Relaxed) {
            0 => Standing::Ready,
            1 => Standing::StandsBy,
            _ => Standing::Away,
        }
    }

    fn admits(&self, now: u64) -> bool {
        self.is_calm.load(Relaxed) || self.circuit.lock().unwrap_or_else(PoisonError::into_inner).admits(now)
    }
}

/// What stands for a tenant where its requests are kept together (FNV-1a).
#[must_use]
pub fn key_of(text: &str) -> u64 {
    text.bytes().fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3))
}

/// Spreads a number over all bits (splitmix64).
fn mixed(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    number ^ (number >> 31)
}

/// One request's way to a role.
pub struct Pick {
    members: Arc<Members>,
    key: Option<u64>,
    tried: Vec<SocketAddr>,
}

impl Pick {
    /// To any process of a role; with a key, to the same one as others with it.
    #[must_use]
    pub fn new(members: &Arc<Members>, key: Option<u64>) -> Self {
        Self { members: Arc::clone(members), key, tried: Vec::new() }
    }

    /// The first process, or another one than those before.
    #[must_use]
    pub fn call(&mut self) -> Option<Call> {
        let member = self.members.choose(self.key, &self.tried)?;
        if self.tried.is_empty() {
            self.members.save_for_retries();
        }
        if !member.is_calm.load(Relaxed) {
            self.members.note(&member, Event::Called);
        }
        self.tried.push(member.address);
        member.calls.fetch_add(1, Relaxed);
        Some(Call { members: Arc::clone(&self.members), member })
    }

    /// Whether a body of this length is kept until an answer begins.
    #[must_use]
    pub fn is_kept(&self, length: Option<u64>) -> bool {
        length.is_some_and(|length| length <= self.members.config.retry_body_bytes_max)
    }

    /// Whether another process may be tried after one that failed.
    #[must_use]
    pub fn may_go_on(&self) -> bool {
        let tries = usize::try_from(self.members.config.retries).unwrap_or(usize::MAX);
        self.tried.len() <= tries && self.members.choose(self.key, &self.tried).is_some() && self.members.take_retry()
    }
}

/// A request that is under way to a process, to the end of its answer.
pub struct Call {
    members: Arc<Members>,
    member: Arc<Member>,
}

impl Call {
    /// Where to.
    #[must_use]
    pub fn upstream(&self) -> &Upstream {
        &self.member.upstream
    }

    /// An answer has begun.
    pub fn answered(&self) {
        if !self.member.is_calm.load(Relaxed) {
            self.members.note(&self.member, Event::Answered);
        }
    }

    /// None will.
    pub fn failed(&self) {
        self.members.note(&self.member, Event::Failed);
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.member.calls.fetch_sub(1, Relaxed);
    }
}

/// What tests are configured with: two retries, and a circuit that opens after three failures for longer than a test lasts.
#[cfg(test)]
pub fn config_of_tests() -> BalanceConfig {
    BalanceConfig {
        probe_period_ms: 1_000,
        probe_timeout_ms: 1_000,
        unhealthy_after: 2,
        resolve_period_s: 10,
        max_addresses: 8,
        max_requests: 100,
        retries: 2,
        retry_percent: 20,
        retry_body_bytes_max: 1_024,
        circuit_failures: 3,
        circuit_open_ms: 3_600_000,
        circuit_open_max_ms: 3_600_000,
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, sync::Arc};

    use super::*;

    fn members(count: u16) -> Arc<Members> {
        let members = Members::new(Role::Message, &config_of_tests(), Arc::default());
        members.set((0..count).map(|number| SocketAddr::from(([10, 0, 0, 1], 8_000 + number))).collect());
        Arc::new(members)
    }

    fn port(call: &Call) -> u16 {
        call.member.address.port()
    }

    #[test]
    fn the_less_busy_of_two_gets_the_next() {
        let members = members(3);
        let calls: Vec<Call> = (0..30).map(|_| Pick::new(&members, None).call().unwrap()).collect();
        let mut counts: HashMap<u16, u32> = HashMap::new();
        for call in &calls {
            *counts.entry(port(call)).or_default() += 1;
        }
        assert_eq!(counts.len(), 3);
        assert!(counts.values().all(|count| (5..=15).contains(count)), "{counts:?}");
        drop(calls);
        assert!(members.all().iter().all(|member| member.calls.load(Relaxed) == 0));
    }

    #[test]
    fn a_tenants_requests_meet_and_few_move_when_one_goes() {
        let members = members(4);
        let place = |key| port(&Pick::new(&members, Some(key)).call().unwrap());
        let keys: Vec<u64> = (0..200).map(|number| key_of(&format!("ten_{number}"))).collect();
        let before: Vec<u16> = keys.iter().map(|key| place(*key)).collect();
        assert_eq!(before, keys.iter().map(|key| place(*key)).collect::<Vec<_>>());
        let gone = members.all()[0].clone();
        members.heard(&gone, Some(Standing::Away));
        let after: Vec<u16> = keys.iter().map(|key| place(*key)).collect();
        for (before, after) in before.iter().zip(&after) {
            assert!(before == after || *before == gone.address.port(), "one moved that did not have to");
        }
        assert!(after.iter().all(|port| *port != gone.address.port()));
        let share = before.iter().filter(|port| **port == gone.address.port()).count();
        assert!((20..=80).contains(&share), "{share} of 200 were at one of four");
    }

    #[test]
    fn whoever_stands_by_or_is_away_is_asked_only_where_nobody_is_better() {
        let members = members(3);
        let all = members.all();
        let chosen = || port(&Pick::new(&members, None).call().unwrap());
        members.heard(&all[0], Some(Standing::StandsBy));
        members.heard(&all[1], None);
        assert_ne!(chosen(), 8_000, "one unanswered question says nothing yet");
        members.heard(&all[1], None);
        assert_eq!(chosen(), 8_002);
        members.heard(&all[2], Some(Standing::Away));
        assert_eq!(chosen(), 8_000);
        members.heard(&all[0], Some(Standing::Away));
        chosen();
    }

    #[test]
    fn one_that_fails_is_left_alone_and_others_are_tried() {
        let members = members(2);
        for _ in 0..3 {
            let mut pick = Pick::new(&members, Some(7));
            let call = pick.call().unwrap();
            call.failed();
            assert!(pick.may_go_on());
            let other = pick.call().unwrap();
            assert_ne!(port(&call), port(&other));
            other.answered();
            assert!(!pick.may_go_on(), "there is no third");
        }
        let survivor = port(&Pick::new(&members, Some(7)).call().unwrap());
        let all = members.all();
        let open = all.iter().find(|member| member.address.port() != survivor).unwrap();
        assert!(!open.admits(0), "after three failures in a row");
        for _ in 0..3 {
            let mut pick = Pick::new(&members, None);
            pick.call().unwrap().failed();
        }
        assert!(Pick::new(&members, None).call().is_none(), "nobody is left to be asked");
    }

    #[test]
    fn retries_are_a_share_of_the_requests() {
        let members = members(2);
        let retried = (0..1_000)
            .filter(|_| {
                let mut pick = Pick::new(&members, None);
                pick.call().unwrap().answered();
                pick.may_go_on()
            })
            .count();
        assert!((200..=225).contains(&retried), "{retried}");
    }

    #[test]
    fn what_is_known_of_an_address_outlives_a_new_list() {
        let members = members(2);
        let first = members.all()[0].clone();
        members.set(vec![first.address, SocketAddr::from(([10, 0, 0, 9], 1))]);
        assert!(members.all().iter().any(|member| Arc::ptr_eq(member, &first)));
        assert_eq!(members.all().len(), 2);
    }
}
