//! What may go wrong with a fleet, done to a real one under load, and what became of everything meanwhile.
//!
//! Two tenants with a real bot each, at two processes of every role. Clients write, send files, follow answers and events,
//! are told by webhooks and run errands all the time ([`Traffic::Everything`]), so that whatever breaks is in use. Then
//! something breaks, stays broken, and is mended; and everything that was acknowledged is looked up. The load says nothing
//! of speed: the bots are asked one question after the other.

mod list;
mod row;

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use self::list::{BEYOND_LEASES, BROKEN, Deed};
use futures_util::future::join_all;

pub use self::{
    list::{Fault, all, some},
    row::Row,
};
use crate::{
    client::Api,
    fleet::{Fleet, FleetOptions, Load, Traffic, counted::way_to},
    toxiproxy::Toxiproxy,
};

const PAUSE: Duration = Duration::from_millis(100);
/// What each client does before something breaks, and after it is mended.
const CALM: usize = 2;
const AFTERWARDS: usize = 1;
/// How long whatever is on its way may take afterwards.
const PATIENCE: Duration = Duration::from_mins(3);
/// How long a disk stays full at the most until somebody notices.
const NOTICED_WITHIN: Duration = Duration::from_secs(20);
/// Between two looks at something that tells nobody when it changes.
const LOOK_EVERY: Duration = Duration::from_millis(100);
const TENANTS: [&str; 2] = ["acme", "globex"];
/// Room for two bots, and little more.
const DISK_MEGABYTES: u32 = 256;
/// Room for an empty database, some of its journal, and little more.
const DATABASE_DISK_MEGABYTES: u32 = 192;
/// How far a clock has to be off to be the one that was made wrong.
const WRONG_BY_SECONDS: u64 = 1_800;

/// A fleet that things are done to.
pub struct Field {
    fleet: Fleet,
    between: Toxiproxy,
    /// The ways that something stands in, with the bytes that were sent along them.
    ways: BTreeMap<String, Arc<AtomicU64>>,
    keys: BTreeMap<&'static str, Api>,
}

impl Field {
    /// Starts a fleet with two bots, and something in between everywhere; on small disks where one of `faults` fills them.
    ///
    /// # Panics
    /// When it does not start. To be called on a runtime of several threads.
    pub async fn prepare(faults: &[Fault]) -> Self {
        let between = Arc::new(Toxiproxy::start().await);
        let ways = Arc::<Mutex<BTreeMap<_, _>>>::default();
        let (proxy, seen) = (Arc::clone(&between), Arc::clone(&ways));
        let runtime = tokio::runtime::Handle::current();
        let via = move |name: &str, port| {
            let (port, sent) = way_to(port);
            seen.lock().unwrap().insert(name.to_owned(), sent);
            tokio::task::block_in_place(|| runtime.block_on(proxy.stand_before(name, port)))
        };
        let fills = |deed| faults.iter().any(|fault| fault.deed == deed);
        let options = FleetOptions {
            via: Box::new(via),
            with_s3: true,
            disk_megabytes: fills(Deed::FillDisk).then_some(DISK_MEGABYTES),
            database_disk_megabytes: fills(Deed::FillDatabaseDisk).then_some(DATABASE_DISK_MEGABYTES),
            ..FleetOptions::default()
        };
        let fleet = Fleet::start(options).await;
        let admin = fleet.admin().await;
        let mut keys = BTreeMap::new();
        for tenant in TENANTS {
            keys.insert(tenant, fleet.tenant(&admin, tenant).await.1);
        }
        let ways = std::mem::take(&mut *ways.lock().unwrap());
        let between = Arc::into_inner(between).expect("the fleet keeps nothing of its start");
        Self { fleet, between, ways, keys }
    }

    /// Lets one thing go wrong under load, mends it, and counts.
    ///
    /// # Panics
    /// When the fleet does not come back.
    pub async fn suffer(&mut self, fault: &Fault) -> Row {
        // A manager that stood still ends when it notices, and may have taken its time.
        self.fleet.restart_all().await;
        self.fleet.keeper().await;
        let before = self.sent();
        let mut loads = Vec::new();
        for (tenant, key) in &self.keys {
            let load = Load::start(&self.fleet, key, tenant, Traffic::Everything, PAUSE).await;
            if matches!(fault.deed, Deed::Clock(..)) {
                load.expect_wrong_clocks();
            }
            loads.push((*tenant, load));
        }
        let mut row = Row { fault: fault.name.clone(), may_fail: fault.deed.may_fail(), ..Row::default() };
        for late in late(&loads, CALM).await {
            row.note_wrong(format!("{late} did not begin"));
        }
        let broken = fault.deed.way().map(|way| self.chosen(way, &before)).unwrap_or_default();
        let was_noticed = self.inflict(fault.deed, &broken, &loads).await;
        self.between.heal().await;
        self.fleet.restart_all().await;
        for late in late(&loads, AFTERWARDS).await {
            row.note_wrong(format!("{late} did not go on"));
        }
        for (tenant, load) in loads {
            let outcome = load.end(&self.fleet, PATIENCE).await;
            row.leaked += self.readable_by_others(tenant, &outcome.sessions).await;
            row.add(outcome);
        }
        if !broken.is_empty() {
            let sent = self.sent();
            row.way_bytes = Some(broken.iter().map(|way| sent[way] - before[way]).sum());
        }
        if !was_noticed {
            row.note_wrong("nobody noticed".to_owned());
        }
        row
    }

    fn sent(&self) -> BTreeMap<String, u64> {
        self.ways.iter().map(|(name, sent)| (name.clone(), sent.load(Ordering::Relaxed))).collect()
    }

    /// Which ways are broken: to a role, the one that was used most by gateways; to its processes from each other, all.
    fn chosen(&self, way: &str, before: &BTreeMap<String, u64>) -> Vec<String> {
        if self.ways.contains_key(way) {
            return vec![way.to_owned()];
        }
        let of_role = format!("{way}-");
        let names = self.ways.keys().filter(|name| name.starts_with(&of_role)).cloned();
        if way.starts_with("peers-") {
            return names.collect();
        }
        let sent = self.sent();
        names.max_by_key(|name| sent[name] - before[name]).into_iter().collect()
    }

    /// How many sessions of a tenant another one can read.
    async fn readable_by_others(&self, tenant: &str, sessions: &[String]) -> usize {
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

    /// The process of a role that has most to lose: the keeper of the bots, the owner of a queue.
    async fn victim(&self, role: &str) -> String {
        match role {
            "manager" => self.fleet.keeper().await,
            "message" => self.fleet.owner_of(TENANTS[0]).await,
            _ => self.fleet.of(role)[0].clone(),
        }
    }

    /// Breaks something for a while, and mends what `heal` and a restart of what has ended do not. Returns whether it was
    /// noticed, where that is not certain.
    async fn inflict(&mut self, deed: Deed, ways: &[String], loads: &[(&str, Load)]) -> bool {
        let pause = tokio::time::sleep;
        match deed {
            Deed::Kill(role) => {
                let name = self.victim(role).await;
                self.fleet.kill_9(&name).await;
                pause(BROKEN).await;
                self.fleet.restart(&name).await;
            }
            Deed::KillCutOff(role, _) => {
                for way in ways {
                    self.between.cut(way).await;
                }
                let name = self.victim(role).await;
                self.fleet.kill_9(&name).await;
                pause(BROKEN).await;
            }
            Deed::KillPostgres => {
                self.fleet.postgres.kill_9();
                self.fleet.postgres.restart().await;
            }
            Deed::RestartPostgres => {
                self.fleet.postgres.end_in_order();
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
                let still = [self.victim("manager").await, self.victim("message").await];
                for name in &still {
                    self.fleet.freeze(name);
                }
                pause(BEYOND_LEASES).await;
                for name in &still {
                    self.fleet.thaw(name);
                }
            }
            Deed::Clock(role, by) => {
                let name = self.set_clock(role, by).await;
                pause(BEYOND_LEASES).await;
                self.fleet.kill_9(&name).await;
            }
            Deed::FillDisk => {
                let disk = self.fleet.disk.as_ref().expect("the fleet has a small one");
                disk.fill();
                pause(BROKEN).await;
                disk.empty();
            }
            Deed::FillDatabaseDisk => {
                let disk = self.fleet.database_disk.as_ref().expect("the database has a small one");
                let refused = || loads.iter().map(|(_, load)| load.tries().refused).sum::<usize>();
                let (before, until) = (refused(), Instant::now() + NOTICED_WITHIN);
                disk.fill();
                while refused() == before && Instant::now() < until {
                    pause(LOOK_EVERY).await;
                }
                let was_noticed = refused() > before;
                pause(BROKEN).await;
                disk.empty();
                self.fleet.postgres.revive().await;
                return was_noticed;
            }
            Deed::Delay(_, by) => {
                for way in ways {
                    self.between.delay(way, by).await;
                }
                pause(BROKEN).await;
            }
            Deed::Cut(_, how_long) => {
                for way in ways {
                    self.between.cut(way).await;
                }
                pause(how_long).await;
            }
            Deed::Reset(_) => {
                for way in ways {
                    self.between.reset(way).await;
                }
                pause(BROKEN).await;
            }
            Deed::Silence(_, how_long) => {
                for way in ways {
                    self.between.silence(way).await;
                }
                pause(how_long).await;
            }
        }
        true
    }

    /// Starts a process of a role with another clock, and lets it have what only one may have. Returns which.
    ///
    /// # Panics
    /// When its clock is as all others.
    async fn set_clock(&mut self, role: &str, by: &str) -> String {
        let [name, other] = self.fleet.of(role).try_into().expect("two of each");
        self.fleet.kill_9(&name).await;
        let library = faketime();
        let wrong = [("LD_PRELOAD", library.as_str()), ("FAKETIME", by), ("FAKETIME_DONT_FAKE_MONOTONIC", "1")];
        self.fleet.restart_with(&name, &wrong).await;
        let off = self.fleet.clock_is_off(&name).await;
        assert!(off.as_secs() > WRONG_BY_SECONDS, "{name} has the clock of all others ({off:?})");
        if matches!(role, "message" | "manager") {
            self.fleet.kill_9(&other).await;
            let has_it = async {
                while self.victim(role).await != name {
                    tokio::time::sleep(LOOK_EVERY).await;
                }
            };
            tokio::time::timeout(PATIENCE, has_it).await.expect("the only one that runs has it");
            self.fleet.restart(&other).await;
        }
        name
    }
}

/// Lets each client do all of its work so many times, and says who does not.
async fn late(loads: &[(&str, Load)], times: usize) -> Vec<String> {
    let waits = loads.iter().map(async |(tenant, load)| (tenant, load.wait_for_all(times).await));
    let waited = join_all(waits).await.into_iter();
    waited.flat_map(|(tenant, late)| late.into_iter().map(move |client| format!("{client} of {tenant}"))).collect()
}

/// The library that tells a process another time than the kernel does.
///
/// # Panics
/// When it is missing.
fn faketime() -> String {
    let folders = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let libraries = folders.map(|folder| folder.path().join("faketime").join("libfaketime.so.1"));
    let found = libraries.into_iter().find(|library: &std::path::PathBuf| Path::is_file(library));
    let found = found.expect("libfaketime is missing: apt-get install -y libfaketime");
    found.to_str().expect("a path of the system is text").to_owned()
}
