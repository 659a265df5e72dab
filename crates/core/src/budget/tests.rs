//! The promise of this module's first comment, with replicas that are killed, cut off and late, answers that are lost,
//! and months that end, before a store that does what ours does.

use std::{collections::HashMap, time::Duration};

use proptest::prelude::*;

use super::{Ask, Granted, Refusal, Share, Take, decide};

const TTL: Duration = Duration::from_secs(30);

/// One account of the store: what stands in its tables, and its clock.
#[derive(Debug, Default)]
struct Store {
    spent: u64,
    fence: u64,
    /// By replica: number, size, end.
    leases: HashMap<usize, (u64, u64, Duration)>,
    written: HashMap<u64, u64>,
}

impl Store {
    fn others(&self, replica: usize, now: Duration) -> u64 {
        self.leases.iter().filter(|(of, (_, _, end))| **of != replica && *end > now).map(|(_, (_, size, _))| size).sum()
    }

    fn lease(&mut self, replica: usize, now: Duration, limit: u64, ask: &Ask) -> Granted {
        self.leases.retain(|_, (_, _, end)| *end > now);
        let others = self.others(replica, now);
        let has = self.leases.get(&replica).filter(|(fence, ..)| *fence == ask.fence).map(|(_, size, _)| *size);
        let total = decide(limit, self.spent, others, has, ask);
        let fence = if has.is_some() {
            ask.fence
        } else {
            self.fence += 1;
            self.fence
        };
        self.leases.insert(replica, (fence, total, now + TTL));
        Granted { fence, total, spent: self.spent, others }
    }

    /// Lines of the ledger, by id: what is there already is not counted again.
    fn settle(&mut self, replica: usize, now: Duration, lines: &[(u64, u64)], fence: u64, left: u64) -> (u64, bool) {
        for (id, tokens) in lines {
            if self.written.insert(*id, *tokens).is_none() {
                self.spent += tokens;
            }
        }
        let lease = self.leases.get_mut(&replica).filter(|(of, _, end)| *of == fence && *end > now);
        let is_alive = lease.is_some();
        if let Some(lease) = lease {
            *lease = (fence, left, now + TTL);
        }
        (self.spent, is_alive)
    }
}

#[derive(Default)]
struct Replica {
    share: Share,
    calls: Vec<u64>,
    unwritten: Vec<(u64, u64)>,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Call { replica: usize, estimate: u64, lost: bool },
    End { replica: usize, which: usize, took_percent: u64 },
    Abandon { replica: usize, which: usize },
    Write { replica: usize, lost: bool },
    Ahead { replica: usize, lost: bool },
    Tick { replica: usize, lost: bool },
    Kill { replica: usize },
    Wait { seconds: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    let (replica, lost) = (0_usize..4, prop::bool::weighted(0.1));
    prop_oneof![
        12 => (replica.clone(), 1_u64..300, lost).prop_map(|(replica, estimate, lost)| Step::Call { replica, estimate, lost }),
        10 => (replica.clone(), any::<usize>(), 0_u64..130).prop_map(|(replica, which, took_percent)| Step::End { replica, which, took_percent }),
        1 => (replica.clone(), any::<usize>()).prop_map(|(replica, which)| Step::Abandon { replica, which }),
        8 => (replica.clone(), lost).prop_map(|(replica, lost)| Step::Write { replica, lost }),
        3 => (replica.clone(), lost).prop_map(|(replica, lost)| Step::Ahead { replica, lost }),
        4 => (replica.clone(), lost).prop_map(|(replica, lost)| Step::Tick { replica, lost }),
        1 => replica.prop_map(|replica| Step::Kill { replica }),
        3 => (0_u64..40).prop_map(|seconds| Step::Wait { seconds }),
    ]
}

struct World {
    limit: u64,
    now: Duration,
    store: Store,
    replicas: Vec<Replica>,
    next_line: u64,
    /// What calls took, written or not.
    truly_spent: u64,
    largest_estimate: u64,
    beyond_estimates: u64,
    /// `L`: what replicas had under way or unwritten when their lease ran out, or when they were killed.
    lapsed: u64,
}

impl World {
    fn new(limit: u64, replicas: usize) -> Self {
        Self {
            limit,
            now: Duration::from_secs(1),
            store: Store::default(),
            replicas: (0..replicas).map(|_| Replica::default()).collect(),
            next_line: 0,
            truly_spent: 0,
            largest_estimate: 0,
            beyond_estimates: 0,
            lapsed: 0,
        }
    }

    fn ask(&mut self, which: usize, ask: Ask, lost: bool) -> bool {
        let granted = self.store.lease(which, self.now, self.limit, &ask);
        let share = &mut self.replicas[which].share;
        if lost {
            share.unanswered(&ask);
        } else {
            share.answered(self.now, TTL, self.limit, &ask, granted, 0);
        }
        !lost
    }

    fn call(&mut self, which: usize, estimate: u64, lost: bool) -> Result<(), TestCaseError> {
        let (now, limit) = (self.now, self.limit);
        let mut take = self.replicas[which].share.take(now, limit, estimate);
        if take == Take::Refused(Refusal::Reserved) {
            // As it was a moment ago.
            return Ok(());
        }
        if take == Take::Ask {
            let ask = self.replicas[which].share.ask_for(now, limit, estimate, false);
            let inside = self.replicas[which].share.take(now, limit, 1);
            prop_assert!(!matches!(inside, Take::Taken { .. }), "nothing is let in meanwhile");
            if !self.ask(which, ask, lost) {
                return Ok(());
            }
            take = self.replicas[which].share.take(now, limit, estimate);
            prop_assert!(take != Take::Ask, "an answer says yes or no");
        }
        match take {
            Take::Taken { .. } => {
                self.largest_estimate = self.largest_estimate.max(estimate);
                self.replicas[which].calls.push(estimate);
            }
            Take::Refused(Refusal::UsedUp) => prop_assert!(self.truly_spent >= limit, "a false `used up`"),
            Take::Refused(Refusal::Reserved) => {
                let leased: u64 = (0..self.replicas.len()).map(|of| self.store.others(of, now)).sum();
                let reserved = leased > 0 || self.store.spent >= limit;
                let unwritten: usize =
                    self.replicas.iter().map(|replica| replica.unwritten.len() + replica.calls.len()).sum();
                prop_assert!(reserved || unwritten > 0, "nobody has reserved anything");
            }
            Take::Ask => {}
        }
        Ok(())
    }

    fn write(&mut self, which: usize, lost: bool) {
        let now = self.now;
        let replica = &mut self.replicas[which];
        let tokens: u64 = replica.unwritten.iter().map(|(_, tokens)| tokens).sum();
        let (fence, left) = replica.share.after(tokens);
        let (spent, lives) = self.store.settle(which, now, &replica.unwritten, fence, left);
        if !lost {
            replica.unwritten.clear();
            replica.share.settled(now, TTL, tokens, Some(spent), lives);
        }
    }

    /// Time passes, and with it leases end: what their holders had spent or may spend from them is `L`.
    fn wait(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.now += Duration::from_secs(1);
            for (of, (_, size, end)) in &self.store.leases {
                if *end == self.now {
                    let replica = &self.replicas[*of];
                    let used = replica.calls.iter().sum::<u64>()
                        + replica.unwritten.iter().map(|(_, tokens)| tokens).sum::<u64>();
                    self.lapsed += used.min(*size);
                }
            }
        }
    }

    fn step(&mut self, step: Step) -> Result<(), TestCaseError> {
        let count = self.replicas.len();
        match step {
            Step::Call { replica, estimate, lost } => self.call(replica % count, estimate, lost)?,
            Step::End { replica, which, took_percent } if !self.replicas[replica % count].calls.is_empty() => {
                let replica = &mut self.replicas[replica % count];
                let estimate = replica.calls.swap_remove(which % replica.calls.len());
                let took = estimate * took_percent / 100;
                replica.share.end(estimate, took);
                self.next_line += 1;
                replica.unwritten.push((self.next_line, took));
                self.truly_spent += took;
                self.beyond_estimates += took.saturating_sub(estimate);
            }
            Step::Abandon { replica, which } if !self.replicas[replica % count].calls.is_empty() => {
                let replica = &mut self.replicas[replica % count];
                let estimate = replica.calls.swap_remove(which % replica.calls.len());
                replica.share.end(estimate, 0);
            }
            Step::Write { replica, lost } => self.write(replica % count, lost),
            Step::Ahead { replica, lost } => {
                let (now, limit) = (self.now, self.limit);
                let ask = self.replicas[replica % count].share.ask_ahead(now, limit, false);
                // Calls are let in meanwhile.
                self.replicas[replica % count].share.take(now, limit, 1);
                self.replicas[replica % count].share.end(1, 0);
                self.ask(replica % count, ask, lost);
            }
            Step::Tick { replica, lost } => {
                let due = self.replicas[replica % count].share.due(self.now, TTL, Duration::from_secs(5), false);
                if let Some(ask) = due {
                    self.ask(replica % count, ask, lost);
                }
            }
            Step::Kill { replica } => {
                let which = replica % count;
                let killed = std::mem::take(&mut self.replicas[which]);
                let unwritten: u64 = killed.unwritten.iter().map(|(_, tokens)| tokens).sum();
                // What was taken and never written is spent and known to nobody.
                self.lapsed += unwritten;
            }
            Step::Wait { seconds } => self.wait(seconds),
            Step::End { .. } | Step::Abandon { .. } => {}
        }
        let bound = self.limit + self.largest_estimate + self.beyond_estimates + self.lapsed;
        prop_assert!(self.truly_spent <= bound, "{} were spent where {bound} are", self.truly_spent);
        Ok(())
    }

    /// Everybody ends and writes; leases end. Then all that was not lost is written, and what is left can be used.
    fn end(&mut self) -> Result<(), TestCaseError> {
        for which in 0..self.replicas.len() {
            while let Some(estimate) = self.replicas[which].calls.pop() {
                self.replicas[which].share.end(estimate, 0);
            }
            self.write(which, false);
        }
        let written: u64 = self.store.written.values().sum();
        prop_assert_eq!(written, self.store.spent, "the account is the sum of its ledger");
        self.wait(31);
        if self.store.spent < self.limit {
            self.replicas.push(Replica::default());
            let last = self.replicas.len() - 1;
            let before = self.largest_estimate;
            self.call(last, 50, false)?;
            prop_assert_eq!(self.replicas[last].calls.len(), 1, "something is left, and nobody may use it");
            self.largest_estimate = before;
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn never_overspent_beyond_the_bound_and_never_a_false_used_up(
        limit in 1_u64..3_000,
        replicas in 1_usize..4,
        steps in prop::collection::vec(step(), 0..250),
    ) {
        let mut world = World::new(limit, replicas);
        for step in steps {
            world.step(step)?;
        }
        world.end()?;
    }

    /// No losses, estimates that hold: the bound is one call, whatever the number of replicas.
    #[test]
    fn without_losses_the_bound_is_one_call(
        limit in 1_u64..3_000,
        replicas in 1_usize..5,
        calls in prop::collection::vec((0_usize..5, 1_u64..200, any::<bool>()), 0..300),
    ) {
        let mut world = World::new(limit, replicas);
        for (which, estimate, ends) in calls {
            let which = which % replicas;
            world.call(which, estimate, false)?;
            if ends && let Some(estimate) = world.replicas[which].calls.pop() {
                world.replicas[which].share.end(estimate, estimate);
                world.next_line += 1;
                world.truly_spent += estimate;
                let line = (world.next_line, estimate);
                world.replicas[which].unwritten.push(line);
            }
            let under_way: u64 = world.replicas.iter().flat_map(|replica| &replica.calls).sum();
            prop_assert!(world.truly_spent + under_way < limit + world.largest_estimate.max(1));
        }
    }
}

#[test]
fn what_a_replica_says_of_a_lease_that_ran_out_changes_nothing_of_the_next_one() {
    let mut store = Store::default();
    let mut share = Share::default();
    let ask = share.ask_for(Duration::ZERO, 1_000, 10, false);
    let granted = store.lease(0, Duration::ZERO, 1_000, &ask);
    share.answered(Duration::ZERO, TTL, 1_000, &ask, granted, 0);
    let (old_fence, left) = share.after(10);

    let later = TTL + Duration::from_secs(1);
    let ask = share.ask_for(later, 1_000, 20, false);
    let granted = store.lease(0, later, 1_000, &ask);
    assert!(granted.fence > old_fence);
    // The write of before arrives late: it counts, and takes nothing from the lease of now.
    assert_eq!(store.settle(0, later, &[(1, 10)], old_fence, left), (10, false));
    assert_eq!(store.settle(0, later, &[(1, 10)], old_fence, left), (10, false), "once");
    assert_eq!(store.leases[&0].1, granted.total);
}

#[test]
fn another_plan_counts_at_once() {
    let mut store = Store::default();
    let mut share = Share::default();
    let ask = share.ask_for(Duration::ZERO, 100_000, 10, false);
    let granted = store.lease(0, Duration::ZERO, 100_000, &ask);
    share.answered(Duration::ZERO, TTL, 100_000, &ask, granted, 0);
    store.spent = 50;
    assert_eq!(share.take(Duration::ZERO, 20, 1), Take::Ask, "what was leased under the larger one says nothing");
    let ask = share.ask_for(Duration::ZERO, 20, 1, false);
    let granted = store.lease(0, Duration::ZERO, 20, &ask);
    share.answered(Duration::ZERO, TTL, 20, &ask, granted, 0);
    assert_eq!(share.take(Duration::ZERO, 20, 1), Take::Refused(Refusal::UsedUp));
    assert_eq!(share.take(Duration::ZERO, 100_000, 1), Take::Ask, "nor does a refusal under the smaller one");
}

#[test]
fn a_lease_that_may_have_run_out_is_not_used() {
    let mut store = Store::default();
    let mut share = Share::default();
    let ask = share.ask_for(Duration::ZERO, 100_000, 10, false);
    let granted = store.lease(0, Duration::ZERO, 100_000, &ask);
    share.answered(Duration::ZERO, TTL, 100_000, &ask, granted, 0);
    assert!(matches!(share.take(Duration::from_secs(26), 100_000, 1), Take::Taken { .. }));
    assert_eq!(share.take(Duration::from_secs(27), 100_000, 1), Take::Ask, "a tenth before its end");
}

#[test]
fn what_two_have_of_a_rest_that_is_too_small_for_either_comes_together() {
    let (mut store, mut shares) = (Store { spent: 900, ..Store::default() }, [Share::default(), Share::default()]);
    for (which, share) in shares.iter_mut().enumerate() {
        let ask = share.ask_for(Duration::ZERO, 1_000, 40, false);
        let granted = store.lease(which, Duration::ZERO, 1_000, &ask);
        share.answered(Duration::ZERO, TTL, 1_000, &ask, granted, 0);
        // The call that it was for takes nothing after all.
    }
    let mut refused = [0, 0];
    let ask = shares[0].ask_for(Duration::ZERO, 1_000, 500, false);
    let granted = store.lease(0, Duration::ZERO, 1_000, &ask);
    refused[0] += u32::from(granted.total < 500);
    shares[0].answered(Duration::ZERO, TTL, 1_000, &ask, granted, 0);
    let ask = shares[1].ask_for(Duration::ZERO, 1_000, 500, false);
    let granted = store.lease(1, Duration::ZERO, 1_000, &ask);
    refused[1] += u32::from(granted.total < 500);
    assert!(refused[0] + refused[1] < 2, "one of them is let in: who is refused gives up what it has");
}

#[test]
fn a_busy_replica_asks_seldom_and_a_small_rest_is_not_leased_by_one() {
    let mut share = Share::default();
    let mut store = Store::default();
    let (mut asked, limit) = (0, 1_000_000);
    for call in 0..5_000_u64 {
        let now = Duration::from_millis(call);
        if share.take(now, limit, 100) == Take::Ask {
            asked += 1;
            let ask = share.ask_for(now, limit, 100, false);
            let granted = store.lease(0, now, limit, &ask);
            share.answered(now, TTL, limit, &ask, granted, 0);
            assert!(matches!(share.take(now, limit, 100), Take::Taken { .. }));
        }
        share.end(100, 100);
        let (fence, left) = share.after(100);
        let (spent, lives) = store.settle(0, now, &[(call, 100)], fence, left);
        share.settled(now, TTL, 100, Some(spent), lives);
    }
    assert!(asked < 30, "{asked} times for 5000 calls");
    let ask = Ask { need: 10, extra: 1_000_000, ..Ask::default() };
    assert_eq!(decide(100, 0, 0, None, &ask), 10 + 45, "half of what is left stays for others");
}
