//! What may go wrong with a fleet, done to a real one under load, and what became of every message meanwhile.
//!
//! Two tenants with a real bot each, at two processes of every role. Clients write all the time, and send again under its
//! key what nobody acknowledged. Then something breaks, stays broken, and is mended; and everything that was acknowledged
//! is looked up. The load says nothing of speed: the bots are asked one question after the other.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value, json};

use crate::{
    client::Api,
    fleet::{Fleet, FleetOptions, Load, ROLES},
    toxiproxy::Toxiproxy,
};

/// Clients of each tenant.
const CLIENTS: usize = 3;
const PAUSE: Duration = Duration::from_millis(100);
/// Messages of each tenant that are acknowledged before something breaks, and after it is mended.
const CALM: usize = 3;
/// How long something stays broken where nothing else is said.
const BROKEN: Duration = Duration::from_secs(5);
/// Longer than the lives of all leases.
const BEYOND_LEASES: Duration = Duration::from_secs(15);
/// How long whatever is on its way may take afterwards.
const PATIENCE: Duration = Duration::from_mins(3);
const TENANTS: [&str; 2] = ["acme", "globex"];
/// Room for two bots, and little more.
const DISK_MEGABYTES: u32 = 256;
/// The library that tells a process another time than the kernel does.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    /// `kill -9` of a process of this role, which is started again after a while.
    Kill(&'static str),
    /// `kill -9` of the database, which is started again at once.
    RestartPostgres,
    /// `kill -9` of Redis, which is started again after a while.
    KillRedis,
    /// Everything in Redis is forgotten.
    FlushRedis,
    /// `kill -9` of the storage of files, which is started again after a while.
    KillS3,
    /// The keeper of the bots and a process that has queues stand still until after their leases ran out.
    Freeze,
    /// A process that has queues is an hour ahead of all others.
    Clock,
    /// No room is left on the disk that the fleet shares.
    FillDisk,
    /// Answers of whatever has a name that begins so come late.
    Delay(&'static str, Duration),
    /// Whatever has a name that begins so is refused.
    Cut(&'static str, Duration),
    /// Connections to whatever has a name that begins so are reset.
    Reset(&'static str, Duration),
    /// Whatever has a name that begins so says nothing any more.
    Silence(&'static str, Duration),
}

/// A thing that may go wrong.
#[derive(Clone, Debug)]
pub struct Fault {
    /// What the table calls it.
    pub name: String,
    deed: Deed,
}

/// All of them.
#[must_use]
pub fn all() -> Vec<Fault> {
    let killed = ROLES.into_iter().map(|role| (format!("{role} killed"), Deed::Kill(role)));
    let roles = ["auth", "tenant", "session", "message", "manager"];
    let slow = Duration::from_millis(200);
    let backends = [("postgres", "PostgreSQL"), ("redis", "Redis"), ("s3", "S3")];
    let between = backends.into_iter().flat_map(|(name, called)| {
        [
            (format!("{called} delayed by 500 ms"), Deed::Delay(name, Duration::from_millis(500))),
            (format!("{called} reset"), Deed::Reset(name, BROKEN)),
            (format!("{called} silent"), Deed::Silence(name, BROKEN)),
        ]
    });
    let to_roles = roles.into_iter().flat_map(|role| {
        [
            (format!("gateway to {role} delayed by 200 ms"), Deed::Delay(role, slow)),
            (format!("gateway to {role} cut"), Deed::Cut(role, BROKEN)),
            (format!("gateway to {role} reset"), Deed::Reset(role, BROKEN)),
        ]
    });
    let others = [
        ("PostgreSQL restarted", Deed::RestartPostgres),
        ("PostgreSQL cut off for 30 s", Deed::Cut("postgres", Duration::from_secs(30))),
        ("Redis killed", Deed::KillRedis),
        ("Redis flushed", Deed::FlushRedis),
        ("S3 away", Deed::KillS3),
        ("two processes frozen beyond their leases", Deed::Freeze),
        ("a clock an hour ahead", Deed::Clock),
        ("disk full", Deed::FillDisk),
    ];
    let others = others.into_iter().map(|(name, deed)| (name.to_owned(), deed));
    killed.chain(others).chain(between).chain(to_roles).map(|(name, deed)| Fault { name, deed }).collect()
}

/// A few of them, of every kind: for tests.
#[must_use]
pub fn some() -> Vec<Fault> {
    let wanted = [
        "message killed",
        "manager killed",
        "PostgreSQL restarted",
        "Redis killed",
        "two processes frozen beyond their leases",
        "gateway to message reset",
    ];
    all().into_iter().filter(|fault| wanted.contains(&&*fault.name)).collect()
}

/// What became of the messages of one fault.
#[derive(Clone, Debug, Default)]
pub struct Row {
    /// What went wrong.
    pub fault: String,
    /// Acknowledged.
    pub accepted: usize,
    /// With an answer in the end.
    pub answered: usize,
    /// Ended without one, and said so.
    pub failed: usize,
    /// Acknowledged, and not there, or never at an end. Must be none.
    pub lost: usize,
    /// Stored or answered twice. Must be none.
    pub doubled: usize,
    /// Words of one tenant that another one can read. Must be none.
    pub leaked: usize,
    /// Tries that were refused, or that nobody answered.
    pub refused: usize,
    /// The longest time in which nothing was acknowledged to a tenant.
    pub outage: Duration,
}

impl Row {
    /// Whether nothing happened that must not.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.accepted > 0 && self.answered > 0 && (self.lost, self.doubled, self.leaked) == (0, 0, 0)
    }

    /// As the file of figures has it.
    #[must_use]
    pub fn json(&self) -> Value {
        json!({
            "fault": self.fault,
            "accepted": self.accepted,
            "answered": self.answered,
            "failed": self.failed,
            "lost": self.lost,
            "doubled": self.doubled,
            "leaked": self.leaked,
            "refused": self.refused,
            "outage_ms": u64::try_from(self.outage.as_millis()).unwrap_or(u64::MAX),
        })
    }
}

/// A fleet that things are done to.
pub struct Field {
    fleet: Fleet,
    between: Toxiproxy,
    names: Vec<String>,
    keys: BTreeMap<&'static str, Api>,
}

impl Field {
    /// Starts a fleet with two bots, and something in between everywhere.
    ///
    /// # Panics
    /// When it does not start. To be called on a runtime of several threads.
    pub async fn prepare() -> Self {
        let between = std::sync::Arc::new(Toxiproxy::start().await);
        let names = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let (proxy, seen) = (std::sync::Arc::clone(&between), std::sync::Arc::clone(&names));
        let runtime = tokio::runtime::Handle::current();
        let via = move |name: &str, port| {
            seen.lock().unwrap().push(name.to_owned());
            tokio::task::block_in_place(|| runtime.block_on(proxy.stand_before(name, port)))
        };
        let options = FleetOptions {
            via: Box::new(via),
            with_s3: true,
            disk_megabytes: Some(DISK_MEGABYTES),
            ..FleetOptions::default()
        };
        let fleet = Fleet::start(options).await;
        let admin = fleet.admin().await;
        let mut keys = BTreeMap::new();
        for tenant in TENANTS {
            keys.insert(tenant, fleet.tenant(&admin, tenant).await.1);
        }
        let names = std::mem::take(&mut *names.lock().unwrap());
        let between = std::sync::Arc::into_inner(between).expect("the fleet keeps nothing of its start");
        Self { fleet, between, names, keys }
    }

    /// Lets one thing go wrong under load, mends it, and counts.
    ///
    /// # Panics
    /// When the fleet does not come back.
    pub async fn suffer(&mut self, fault: &Fault) -> Row {
        let mut loads = Vec::new();
        for (tenant, key) in &self.keys {
            loads.push((*tenant, Load::start(&self.fleet, key, tenant, CLIENTS, PAUSE).await));
        }
        for (_, load) in &loads {
            load.wait_for(CALM).await;
        }
        self.inflict(fault.deed).await;
        for (_, load) in &loads {
            load.wait_for(CALM).await;
        }
        let mut row = Row { fault: fault.name.clone(), ..Row::default() };
        for (tenant, load) in loads {
            let tally = load.stop().await;
            let outcome = tally.settle(&self.keys[tenant], tenant, PATIENCE).await;
            row.accepted += outcome.accepted;
            row.answered += outcome.answered;
            row.failed += outcome.failed.len();
            row.lost += outcome.lost;
            row.doubled += outcome.doubled;
            row.leaked += outcome.leaked + self.readable_by_others(tenant, tally.accepted.keys()).await;
            row.refused += tally.refused;
            row.outage = row.outage.max(tally.outage);
        }
        row
    }

    /// How many sessions of a tenant another one can read.
    async fn readable_by_others(&self, tenant: &str, sessions: impl Iterator<Item = &String>) -> usize {
        let mut readable = 0;
        for session in sessions {
            for (other, key) in self.keys.iter().filter(|(other, _)| **other != tenant) {
                for whose in [tenant, *other] {
                    let path = format!("/api/v1/tenants/{whose}/sessions/{session}/messages");
                    readable += usize::from(key.get(&path).await.status != 404);
                }
            }
        }
        readable
    }

    async fn inflict(&mut self, deed: Deed) {
        let pause = tokio::time::sleep;
        match deed {
            Deed::Kill(role) => {
                let name = if role == "manager" { self.fleet.keeper().await } else { self.fleet.of(role)[0].clone() };
                self.fleet.kill_9(&name).await;
                pause(BROKEN).await;
                self.fleet.restart(&name).await;
            }
            Deed::RestartPostgres => {
                self.fleet.postgres.kill_9();
                self.fleet.postgres.restart().await;
            }
            Deed::KillRedis => {
                self.fleet.redis.kill();
                pause(BROKEN).await;
                self.fleet.redis.restart().await;
            }
            Deed::FlushRedis => self.fleet.redis.flush().await,
            Deed::KillS3 => {
                let storage = self.fleet.s3.as_ref().expect("the fleet has one");
                storage.kill();
                pause(BROKEN).await;
                storage.restart().await;
            }
            Deed::Freeze => {
                let still = [self.fleet.keeper().await, self.fleet.of("message")[0].clone()];
                for name in &still {
                    self.fleet.freeze(name);
                }
                pause(BEYOND_LEASES).await;
                for name in &still {
                    self.fleet.thaw(name);
                }
            }
            Deed::Clock => {
                let name = self.fleet.of("message")[0].clone();
                self.fleet.kill_9(&name).await;
                let ahead = [("LD_PRELOAD", FAKETIME), ("FAKETIME", "+1h"), ("FAKETIME_DONT_FAKE_MONOTONIC", "1")];
                self.fleet.restart_with(&name, &ahead).await;
                pause(BEYOND_LEASES).await;
                self.fleet.kill_9(&name).await;
                self.fleet.restart(&name).await;
            }
            Deed::FillDisk => {
                let disk = self.fleet.disk.as_ref().expect("the fleet has a small one");
                disk.fill();
                pause(BROKEN).await;
                disk.empty();
            }
            Deed::Delay(whose, by) => {
                for name in self.called(whose) {
                    self.between.delay(name, by).await;
                }
                pause(BROKEN).await;
                self.between.heal().await;
            }
            Deed::Cut(whose, how_long) => {
                for name in self.called(whose) {
                    self.between.cut(name).await;
                }
                pause(how_long).await;
                self.between.heal().await;
            }
            Deed::Reset(whose, how_long) => {
                for name in self.called(whose) {
                    self.between.reset(name).await;
                }
                pause(how_long).await;
                self.between.heal().await;
            }
            Deed::Silence(whose, how_long) => {
                for name in self.called(whose) {
                    self.between.silence(name).await;
                }
                pause(how_long).await;
                self.between.heal().await;
            }
        }
    }

    /// Where something stands in between: of a role, its first process.
    fn called<'a>(&'a self, whose: &'a str) -> impl Iterator<Item = &'a str> {
        let first = format!("{whose}-0");
        self.names.iter().map(String::as_str).filter(move |name| *name == whose || *name == first)
    }
}
