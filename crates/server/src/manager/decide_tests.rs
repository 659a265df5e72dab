//! A bot's whole life in memory: whatever happens to it, and in whichever order, the steps hold what they promise.

use astrfleet_core::{
    id::{InstanceId, TenantId},
    instance::{Desired, Event, Instance, Observed, next},
    ports::BotStatus,
    tenant::{Status, Tenant},
    time::Timestamp,
};
use proptest::prelude::*;

use super::{Step, decide};
use crate::{
    config::{ManagerConfig, seconds},
    manager::ERASED,
};

fn config() -> ManagerConfig {
    ManagerConfig {
        max_instances: 10,
        concurrent_starts: 1,
        start_timeout_s: 120,
        liveness_period_s: 10,
        liveness_failures: 2,
        restart_after_failures: 6,
        restart_backoff_s: 1,
        restart_backoff_max_s: 60,
        max_restarts: 3,
        restarts_forgotten_after_s: 300,
        llm_url: String::new(),
        lease_life_ms: 10_000,
        leave_bots: false,
    }
}

/// A tenant with this status.
pub(in crate::manager) fn tenant(status: Status) -> Tenant {
    Tenant {
        id: TenantId::parse("ten_0123456789abcdef0123456789abcdef").unwrap(),
        name: "acme".to_owned(),
        display_name: "Acme".to_owned(),
        email: "ada@example.com".to_owned(),
        plan: "free".to_owned(),
        status,
        erase_at: None,
        retention_days: None,
        created_at: Timestamp::default(),
        updated_at: Timestamp::default(),
        version: 1,
    }
}

/// A bot in a state.
pub(in crate::manager) fn instance(desired: Desired, observed: Observed) -> Instance {
    Instance {
        id: InstanceId::parse("bot_0123456789abcdef0123456789abcdef").unwrap(),
        tenant_id: tenant(Status::Active).id,
        desired,
        observed,
        generation: 1,
        reason: String::new(),
        since: Timestamp::default(),
        version: String::new(),
        port: Some(21_000),
        restarts: 0,
        secrets_version: 1,
        created_at: Timestamp::default(),
        version_lock: 1,
    }
}

fn running(generation: i64) -> BotStatus {
    BotStatus::Running { generation, port: 21_000, memory_bytes: 1, since: Timestamp::default() }
}

fn exited(generation: i64) -> BotStatus {
    BotStatus::Exited { generation, how: "exit code 3".to_owned(), last_words: "no module named x".to_owned() }
}

fn step(instance: &Instance, status: Status, seen: &BotStatus) -> Step {
    decide(instance, &tenant(status), seen, Timestamp::from_micros(10_000_000), &config(), 0)
}

#[test]
fn a_process_that_was_begun_by_an_interrupted_round_is_noted_and_not_doubled() {
    for observed in [Observed::Pending, Observed::Provisioning] {
        assert_eq!(step(&instance(Desired::Running, observed), Status::Active, &running(1)), Step::NoteStarted);
    }
}

#[test]
fn an_older_process_never_goes_on_beside_a_new_one() {
    for observed in [Observed::Pending, Observed::Provisioning, Observed::Starting, Observed::Running] {
        let mut newer = instance(Desired::Running, observed);
        newer.generation = 2;
        assert_eq!(step(&newer, Status::Active, &running(1)), Step::Stop, "{observed:?}");
    }
}

#[test]
fn the_last_words_are_kept() {
    let seen = step(&instance(Desired::Running, Observed::Starting), Status::Active, &exited(1));
    let how = "exit code 3; its last words: no module named x".to_owned();
    assert_eq!(seen, Step::NoteExit { how, give_up: false });
}

#[test]
fn an_end_counts_once() {
    let mut noted = instance(Desired::Running, Observed::Provisioning);
    noted.port = None;
    noted.restarts = 1;
    assert_eq!(step(&noted, Status::Active, &exited(1)), Step::Start);
    noted.port = Some(21_001);
    noted.generation = 2;
    assert_eq!(step(&noted, Status::Active, &exited(1)), Step::Start, "this end is that of an older one");
}

#[test]
fn what_was_stopped_for_its_tenant_runs_again_when_the_tenant_does() {
    let mut stopped = instance(Desired::Running, Observed::Suspended);
    stopped.reason = "its tenant is suspended".to_owned();
    assert_eq!(step(&stopped, Status::Suspended, &BotStatus::Absent), Step::Rest);
    assert_eq!(step(&stopped, Status::Active, &BotStatus::Absent), Step::NoteWanted);
}

#[test]
fn a_bot_that_was_given_up_rests_and_is_not_left_running() {
    let failed = instance(Desired::Running, Observed::Failed);
    assert_eq!(step(&failed, Status::Active, &exited(1)), Step::Rest);
    assert_eq!(step(&failed, Status::Active, &running(1)), Step::Stop);
}

/// What happens outside.
#[derive(Clone, Copy, Debug)]
enum Happening {
    Crash,
    Answers,
    Wanted(Desired),
    Tenant(Status),
    Later(u64),
    TryAgain,
    /// The platform dies between an act and its note.
    Amnesia,
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        3 => Just(Happening::Crash),
        3 => Just(Happening::Answers),
        1 => Just(Happening::Wanted(Desired::Running)),
        1 => Just(Happening::Wanted(Desired::Stopped)),
        1 => Just(Happening::Tenant(Status::Suspended)),
        2 => Just(Happening::Tenant(Status::Active)),
        4 => (0_u64..90).prop_map(Happening::Later),
        1 => Just(Happening::TryAgain),
        2 => Just(Happening::Amnesia),
    ]
}

/// A bot, its process, and a keeper that does what it is told.
struct World {
    bot: Instance,
    tenant: Tenant,
    process: BotStatus,
    now: Timestamp,
    amnesia: bool,
    starts: u32,
    exits_in_a_row: u32,
}

impl World {
    fn new() -> Self {
        let mut bot = instance(Desired::Running, Observed::Pending);
        (bot.generation, bot.port) = (0, None);
        Self {
            bot,
            tenant: tenant(Status::Active),
            process: BotStatus::Absent,
            now: Timestamp::from_micros(1_000_000),
            amnesia: false,
            starts: 0,
            exits_in_a_row: 0,
        }
    }

    fn runs(&self) -> bool {
        matches!(self.process, BotStatus::Running { .. })
    }

    fn wanted(&self) -> bool {
        self.bot.desired == Desired::Running && self.tenant.status == Status::Active
    }

    fn note(&mut self, event: Event, reason: &str) {
        self.bot = self.bot.after(event, reason, self.now).unwrap();
    }

    fn happens(&mut self, happening: Happening) {
        match happening {
            Happening::Crash if self.runs() => self.process = exited(self.bot.generation),
            Happening::Answers if self.runs() && next(self.bot.observed, Event::BecameReady).is_ok() => {
                self.note(Event::BecameReady, "");
            }
            Happening::Wanted(desired) => self.bot.desired = desired,
            Happening::Tenant(status) => self.tenant.status = status,
            Happening::Later(passed_s) => self.now = self.now.plus(seconds(passed_s)),
            Happening::TryAgain if self.bot.observed == Observed::Failed => {
                self.note(Event::TryAgain, "");
                (self.bot.restarts, self.exits_in_a_row) = (0, 0);
            }
            Happening::Amnesia => self.amnesia = true,
            Happening::Crash | Happening::Answers | Happening::TryAgain => {}
        }
    }

    /// One round. Returns whether anything was left to do.
    fn round(&mut self) -> bool {
        let step = decide(&self.bot, &self.tenant, &self.process, self.now, &config(), 7);
        let forgets = std::mem::take(&mut self.amnesia);
        match step {
            Step::Start => {
                assert!(self.wanted(), "started though nobody wants it");
                assert!(!self.runs(), "started twice");
                assert_ne!(self.bot.observed, Observed::Failed);
                if self.bot.observed == Observed::Pending {
                    self.note(Event::ProvisioningBegan, "");
                }
                self.bot.generation += 1;
                self.bot.port = Some(21_000);
                self.starts += 1;
                self.process = running(self.bot.generation);
                if !forgets {
                    self.note(Event::ProcessStarted, "");
                }
            }
            Step::NoteStarted => self.note(Event::ProcessStarted, ""),
            Step::Probe => {
                assert!(self.runs() && self.wanted());
                return false;
            }
            Step::Stop => {
                // First nobody finds it any more; then it may be killed, or wanted again, before it is stopped.
                self.bot.port = None;
                if forgets {
                    return true;
                }
                self.process = BotStatus::Absent;
            }
            Step::NoteStopped { reason } => {
                assert!(!self.wanted() && !self.runs());
                self.note(Event::Stopped, reason);
                self.bot.port = None;
            }
            Step::NoteExit { give_up, .. } => {
                assert!(!self.runs());
                if forgets {
                    return true;
                }
                self.exits_in_a_row += 1;
                assert_eq!(give_up, self.exits_in_a_row >= config().max_restarts, "given up at another time");
                self.note(if give_up { Event::GivenUp } else { Event::Exited }, "");
                self.bot =
                    Instance { restarts: self.bot.restarts + 1, port: None, since: self.now, ..self.bot.clone() };
            }
            Step::NoteWanted => {
                self.note(Event::TryAgain, "");
                (self.bot.restarts, self.exits_in_a_row) = (0, 0);
            }
            Step::Erase => panic!("nobody wants it erased"),
            Step::Wait(_) | Step::Rest => return false,
        }
        true
    }

    fn settle(&mut self) {
        for _ in 0..20 {
            if !self.round() {
                return;
            }
        }
        panic!("never comes to rest: {:?}", self.bot);
    }
}

proptest! {
    #[test]
    fn never_twice_never_unwanted_and_given_up_in_time(happenings in prop::collection::vec(happening(), 0..60)) {
        let mut world = World::new();
        for happening in happenings {
            world.happens(happening);
            world.settle();
            prop_assert_eq!(world.runs() && !world.wanted(), false, "runs though nobody wants it");
        }
    }

    #[test]
    fn comes_to_what_is_wanted(happenings in prop::collection::vec(happening(), 0..60), desired in 0_u8..3) {
        let mut world = World::new();
        for happening in happenings {
            world.happens(happening);
            world.settle();
        }
        world.tenant.status = Status::Active;
        world.happens(Happening::TryAgain);
        let desired = [Desired::Running, Desired::Stopped, Desired::Deleted][usize::from(desired)];
        world.bot.desired = desired;
        if desired == Desired::Deleted {
            while decide(&world.bot, &world.tenant, &world.process, world.now, &config(), 0) == Step::Stop {
                world.process = BotStatus::Absent;
            }
            prop_assert_eq!(decide(&world.bot, &world.tenant, &world.process, world.now, &config(), 0), Step::Erase);
            world.note(Event::ErasureBegan, ERASED);
            prop_assert_eq!(decide(&world.bot, &world.tenant, &world.process, world.now, &config(), 0), Step::Rest);
            return Ok(());
        }
        world.happens(Happening::Later(90));
        world.settle();
        world.happens(Happening::Later(90));
        world.settle();
        prop_assert_eq!(world.runs(), desired == Desired::Running);
    }

    #[test]
    fn waits_longer_after_each_exit(restarts in 1_u32..3, disorder: u32) {
        let mut bot = instance(Desired::Running, Observed::Pending);
        (bot.restarts, bot.port) = (restarts, None);
        bot.since = Timestamp::from_micros(1_000_000);
        let after = |passed_s| {
            let now = bot.since.plus(seconds(passed_s));
            decide(&bot, &tenant(Status::Active), &exited(1), now, &config(), disorder)
        };
        prop_assert!(matches!(after(0), Step::Wait(left) if !left.is_zero() && left <= seconds(1 << (restarts - 1))));
        prop_assert_eq!(after(1 << (restarts - 1)), Step::Start);
    }
}
