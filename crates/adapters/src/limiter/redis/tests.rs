//! The promise of this module's first comment, in simulated time: replicas, a bucket, and messages between them that
//! take as long as they like.

use std::{collections::VecDeque, time::Duration};

use astrfleet_core::ports::{Limit, Verdict};
use proptest::prelude::*;

use super::key::{Answer, Asked, Key, LEASE_NS, Rules};

/// The script of `bucket.rs` in Rust.
#[derive(Default)]
struct Bucket {
    used: f64,
    at: i64,
}

impl Bucket {
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "as the script counts"
    )]
    fn serve(&mut self, rules: Rules, asked: Asked, now: i64) -> Answer {
        let interval = rules.interval as f64;
        let used = (self.used - (now - self.at).max(0) as f64 / interval).max(0.0);
        let used = (used - f64::from(asked.back)).max(0.0) + f64::from(asked.debt);
        let used = used.min(rules.missing_max() as f64);
        let granted = f64::from(asked.want).min((f64::from(rules.amount) - used).floor()).max(0.0);
        (self.used, self.at) = (used + granted, now);
        Answer { granted: granted as u32, full_in: (self.used * interval).ceil() as i64 }
    }
}

/// What becomes of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Answered,
    /// It never arrives.
    Lost,
    /// It arrives, and its answer does not.
    AnswerLost,
}

struct Replica {
    key: Key,
    /// On its way to the bucket, and when it arrives.
    going: Option<(i64, Asked)>,
    /// On its way back, and when it arrives, or is not waited for any more.
    coming: Option<(i64, Option<Answer>)>,
    /// When it last asked.
    asked_at: i64,
    /// Since when it has asked in vain, and the times for which it has.
    in_vain_since: Option<i64>,
    in_vain: Vec<(i64, i64)>,
}

impl Replica {
    fn new(rules: Rules, now: i64) -> Self {
        let (key, in_vain) = (Key::new(rules, now), Vec::new());
        Self { key, going: None, coming: None, asked_at: now, in_vain_since: None, in_vain }
    }

    /// For how much of a window it asked in vain.
    fn in_vain_within(&self, start: i64, end: i64) -> i64 {
        let unheard = self.in_vain_since.map(|since| (since, i64::MAX));
        let times = self.in_vain.iter().copied().chain(unheard);
        times.map(|(from, to)| (to.min(end) - from.max(start)).max(0)).sum()
    }
}

struct World {
    rules: Rules,
    now: i64,
    bucket: Bucket,
    replicas: Vec<Replica>,
    delays: VecDeque<i64>,
    fates: VecDeque<Fate>,
    allowed: Vec<i64>,
}

impl World {
    fn new(limit: Limit, replicas: u32, delays: Vec<i64>) -> Self {
        let rules = Rules::new(limit, replicas);
        let now = 1_795_402_721_000_000_000;
        let (replicas, allowed) = ((0..replicas).map(|_| Replica::new(rules, now)).collect(), Vec::new());
        let fates = [Fate::Answered].into();
        Self { rules, now, bucket: Bucket::default(), replicas, delays: delays.into(), fates, allowed }
    }

    /// With questions and answers that are lost.
    fn with_fates(self, fates: Vec<Fate>) -> Self {
        Self { fates: fates.into(), ..self }
    }

    fn fate(&mut self) -> Fate {
        self.fates.rotate_left(1);
        self.fates[0]
    }

    fn delay(&mut self) -> i64 {
        self.delays.rotate_left(1);
        self.delays[0]
    }

    fn ask(&mut self, index: usize) {
        let arrives = self.now + self.delay();
        let replica = &mut self.replicas[index];
        if let Some(asked) = replica.key.ask(self.now) {
            replica.going = Some((arrives, asked));
            replica.asked_at = self.now;
        }
    }

    /// Goes on to the next message that arrives before `until`, and delivers it.
    fn step(&mut self, until: i64) -> bool {
        let due = |replica: &Replica| match (&replica.going, &replica.coming) {
            (Some((at, _)), _) | (None, Some((at, _))) => Some(*at),
            (None, None) => None,
        };
        let next = (0..self.replicas.len()).filter_map(|index| Some((due(&self.replicas[index])?, index))).min();
        let Some((at, index)) = next.filter(|(at, _)| *at <= until) else { return false };
        self.now = self.now.max(at);
        if let Some((_, asked)) = self.replicas[index].going.take() {
            let fate = self.fate();
            let answer = (fate != Fate::Lost).then(|| self.bucket.serve(self.rules, asked, self.now));
            let answer = answer.filter(|_| fate == Fate::Answered);
            self.replicas[index].coming = Some((self.now + self.delay(), answer));
        } else if let Some((_, answer)) = self.replicas[index].coming.take() {
            let (replica, now) = (&mut self.replicas[index], self.now);
            let owes = if let Some(answer) = answer {
                replica.in_vain.extend(replica.in_vain_since.take().map(|since| (since, now)));
                replica.key.answered(answer, now)
            } else {
                replica.in_vain_since.get_or_insert(replica.asked_at);
                replica.key.unanswered()
            };
            if owes {
                self.ask(index);
            }
        }
        true
    }

    fn wait(&mut self, how_long: i64) {
        let until = self.now + how_long;
        while self.step(until) {}
        self.now = until;
    }

    fn take(&mut self, index: usize) -> Verdict {
        let key = &mut self.replicas[index].key;
        let verdict = key.take(self.rules, self.now);
        if matches!(verdict, Verdict::Allowed { .. }) {
            self.allowed.push(self.now);
        }
        if key.needs_asking(self.now) {
            self.ask(index);
        }
        verdict
    }

    /// The most that one window holds beyond what is promised for its length; negative where there is room.
    fn excess(&self, delay_max: i64) -> i64 {
        let (amount, replicas) = (i64::from(self.rules.amount), i64::try_from(self.replicas.len()).unwrap());
        // One more: a window includes both its ends.
        let base = amount + amount.max(replicas) + 1;
        let mut most = i64::MIN;
        for (first, start) in self.allowed.iter().enumerate() {
            for (last, end) in self.allowed.iter().enumerate().skip(first) {
                let in_vain: i64 = self.replicas.iter().map(|replica| replica.in_vain_within(*start, *end)).sum();
                let time = end - start + LEASE_NS + delay_max + in_vain / replicas;
                let promised = base + time / self.rules.interval;
                most = most.max(i64::try_from(last - first + 1).unwrap() - promised);
            }
        }
        most
    }
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![6 => Just(Fate::Answered), 1 => Just(Fate::Lost), 1 => Just(Fate::AnswerLost)]
}

proptest! {
    #[test]
    fn no_window_holds_more_than_promised(
        amount in 1_u32..40,
        per_ms in 100_u64..100_000,
        replicas in 1_u32..5,
        delays in proptest::collection::vec(0_i64..50_000_000, 1..20),
        fates in proptest::collection::vec(fate(), 1..20),
        steps in proptest::collection::vec((0_usize..4, 0_i64..400, 1_u32..12), 1..120),
    ) {
        let limit = Limit { amount, per: Duration::from_millis(per_ms) };
        let mut world = World::new(limit, replicas, delays).with_fates(fates);
        for (index, wait_ms, takes) in steps {
            world.wait(wait_ms * wait_ms * 10_000);
            for _ in 0..takes {
                world.take(index % replicas as usize);
            }
        }
        // A message there and back, and one more for what was allowed meanwhile.
        prop_assert!(world.excess(4 * 50_000_000) <= 0, "{} too many", world.excess(4 * 50_000_000));
    }

    /// However often a debt was told: once Redis answers, a replica waits for no more than what all together can owe.
    #[test]
    fn lost_answers_are_paid_off_in_the_time_of_one(
        amount in 1_u32..40,
        per_ms in 1_000_u64..100_000,
        replicas in 1_u32..5,
        delays in proptest::collection::vec(0_i64..50_000_000, 1..20),
        fates in proptest::collection::vec(fate(), 1..20),
        steps in proptest::collection::vec((0_usize..4, 0_i64..400), 1..200),
    ) {
        let limit = Limit { amount, per: Duration::from_millis(per_ms) };
        let mut world = World::new(limit, replicas, delays).with_fates(fates);
        for (index, wait_ms) in steps {
            world.take(index % replicas as usize);
            world.wait(wait_ms * 1_000_000);
        }
        let mut world = world.with_fates(vec![Fate::Answered]);
        // What it owes is told once more, and the answer heard.
        world.take(0);
        world.wait(4 * 50_000_000);
        world.wait(world.rules.interval * (world.rules.missing_max() + 1));
        prop_assert!(matches!(world.take(0), Verdict::Allowed { .. }), "{} are missing", world.bucket.used);
    }

    /// Nobody is refused without need: one replica that is asked evenly at the rate that is allowed never refuses.
    #[test]
    fn what_is_allowed_is_had(amount in 2_u32..200, replicas in 1_u32..4, delay in 0_i64..5_000_000) {
        let limit = Limit { amount, per: Duration::from_secs(10) };
        let mut world = World::new(limit, replicas, vec![delay]);
        let every = world.rules.interval + 1_000;
        for number in 0..3 * amount {
            let verdict = world.take(0);
            prop_assert!(matches!(verdict, Verdict::Allowed { .. }), "refused the {number}. time: {verdict:?}");
            world.wait(every);
        }
    }
}

#[test]
fn the_first_burst_of_one_alone_is_all_of_it_however_late_the_answers_are() {
    let limit = Limit { amount: 3, per: Duration::from_mins(1) };
    for delay in [1_000_000, 30_000_000, 400_000_000] {
        for between in 0..20 {
            let mut world = World::new(limit, 1, vec![delay]);
            for _ in 0..8 {
                world.take(0);
                world.wait(between * 10_000_000);
            }
            assert_eq!(world.allowed.len(), 3, "answers after {delay} ns, requests every {between}0 ms");
        }
    }
}

#[test]
fn one_after_another_uses_all_of_it() {
    let limit = Limit { amount: 300, per: Duration::from_hours(1) };
    let mut world = World::new(limit, 3, vec![1_000_000]);
    for _ in 0..2_000 {
        for index in 0..3 {
            world.take(index);
        }
        world.wait(100_000);
    }
    let allowed = world.allowed.len();
    // What is on its way for two milliseconds is twenty requests of each.
    assert!((300..=360).contains(&allowed), "{allowed}: all of it, and little more");
}

#[test]
fn a_debt_is_paid() {
    let limit = Limit { amount: 30, per: Duration::from_mins(1) };
    let mut world = World::new(limit, 3, vec![1_000_000]);
    // One empties the bucket; the others come unprepared, and take their share on top.
    for _ in 0..200 {
        world.take(0);
        world.wait(1_000_000);
    }
    for index in [1, 2] {
        for _ in 0..50 {
            world.take(index);
        }
        world.wait(10_000_000);
    }
    assert_eq!(world.allowed.len(), 30 + 10 + 10);
    let Verdict::Refused { retry_after } = world.take(2) else { panic!("nothing is left") };
    assert!(retry_after > Duration::from_secs(40), "{retry_after:?}: closed until the debt is paid");
    world.wait(i64::try_from(retry_after.as_nanos()).unwrap());
    assert!(matches!(world.take(2), Verdict::Allowed { .. }), "what it says about waiting is true");
}

/// A Redis that does what it is asked and answers too late, for a while.
#[test]
fn a_debt_that_is_told_again_and_again_is_one_debt() {
    let limit = Limit { amount: 30, per: Duration::from_mins(1) };
    let mut world = World::new(limit, 3, vec![1_000_000]).with_fates(vec![Fate::AnswerLost]);
    for _ in 0..500 {
        world.take(0);
        world.wait(500_000_000);
    }
    let mut world = world.with_fates(vec![Fate::Answered]);
    world.take(0);
    world.wait(10_000_000);
    assert!(world.bucket.used <= 60.0, "{} are missing of 30", world.bucket.used);
    world.wait(64_000_000_000);
    assert!(matches!(world.take(0), Verdict::Allowed { .. }));
}

#[test]
fn leases_that_nobody_uses_go_back() {
    let limit = Limit { amount: 100, per: Duration::from_hours(1) };
    let mut world = World::new(limit, 1, vec![1_000_000]);
    for _ in 0..20 {
        world.take(0);
        world.wait(2_000_000);
    }
    let held = world.bucket.used - 20.0;
    assert!(held >= 1.0, "something is leased ahead");
    world.wait(2 * LEASE_NS);
    world.ask(0);
    world.wait(LEASE_NS);
    assert!(world.bucket.used <= 20.1, "{} are missing, 20 were used", world.bucket.used);
}

#[test]
fn a_clock_that_is_set_back_locks_nobody_out() {
    let limit = Limit { amount: 2, per: Duration::from_secs(2) };
    let mut world = World::new(limit, 1, vec![1_000_000]);
    world.take(0);
    world.wait(10_000_000);
    world.now -= 3_600_000_000_000;
    let verdicts: Vec<_> = (0..5).map(|_| world.take(0)).collect();
    let Some(Verdict::Refused { retry_after }) = verdicts.last() else { panic!("{verdicts:?}") };
    assert!(*retry_after <= Duration::from_secs(6), "{retry_after:?}");
}
