//! Bots as child processes of one machine. A bot outlives the platform: it writes to a file, leads a process group of
//! its own, and is recorded, so that the next run of the platform finds it and takes it over.
//!
//! There is at most one process of a bot. Three things see to it: one start or stop of a bot at a time in here, a look
//! at the machine's processes before each start, and the lock of `AstrBot` itself. Nothing in here decides whether a
//! bot is to run, and nothing waits until one is ready.

mod capture;
mod journal;
mod launch;
mod limits;
mod lines;
mod linux;
mod places;
mod running;
mod search;
#[cfg(test)]
mod tests;
mod users;

use std::{
    collections::HashMap,
    fs, io,
    net::{Ipv4Addr, TcpListener},
    ops::RangeInclusive,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use astrfleet_core::{
    error::{Error, Result},
    id::InstanceId,
    ports::{BotSpec, BotStatus, Clock, FoundBot, LogLine, LogStream, Rng, Runtime},
};
use futures_util::{StreamExt, stream};
use tokio::sync::broadcast;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::astrbot::bridge;

pub use self::journal::LogLimits;
use self::{
    capture::Surroundings,
    limits::Controllers,
    places::Places,
    running::{Slot, State},
    users::Users,
};

/// Lines that a slow follower of a log may be behind before it loses some.
const FOLLOW_LINES: usize = 1_024;
/// Nobody reads more lines at once.
const LOG_LINES_MAX: usize = 10_000;

/// What the driver may use of the machine.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Holds the root of every bot, by its id. Must stay where it is: the bots' databases hold absolute paths.
    pub bots: PathBuf,
    /// The program: `bin/astrbot` of the prepared environment.
    pub astrbot: PathBuf,
    /// Its version.
    pub astrbot_version: String,
    /// Loopback ports for bots; outside the range that the machine gives to outgoing connections.
    pub ports: RangeInclusive<u16>,
    /// How long a bot may take to end by itself.
    pub stop_timeout: Duration,
    /// How much of each bot's log is kept.
    pub log: LogLimits,
    /// How much of what was read already may take up space in the file that a bot writes to, in bytes.
    pub raw_log_bytes_max: u64,
    /// A user of its own for every bot. Takes effect as root alone, and only where others can reach the bots' folder;
    /// to be set only where they can read the environment as well.
    pub isolate: bool,
    /// Limits by control groups, where the machine lets us; else by what a process may ask for.
    pub control_groups: bool,
}

impl Settings {
    /// With what suits most machines.
    #[must_use]
    pub fn new(bots: impl Into<PathBuf>, astrbot: impl Into<PathBuf>, astrbot_version: impl Into<String>) -> Self {
        Self {
            bots: bots.into(),
            astrbot: astrbot.into(),
            astrbot_version: astrbot_version.into(),
            ports: 21_000..=25_999,
            stop_timeout: Duration::from_secs(15),
            log: LogLimits { file_bytes_max: 2 << 20, files: 4 },
            raw_log_bytes_max: 1 << 20,
            isolate: false,
            control_groups: true,
        }
    }
}

/// Starts bots as child processes. Dropping it leaves them running, for the next one to find.
pub struct ProcessRuntime {
    shared: Arc<Shared>,
    _life: DropGuard,
}

/// What the tasks of the bots use, too.
struct Shared {
    settings: Settings,
    clock: Arc<dyn Clock>,
    rng: Arc<dyn Rng>,
    controllers: Controllers,
    users: Option<Users>,
    /// Of the bots' folder: no other platform on this machine has it.
    folder_number: u64,
    slots: Mutex<HashMap<InstanceId, Arc<Slot>>>,
    last_port: Mutex<u16>,
    life: CancellationToken,
}

impl ProcessRuntime {
    /// Makes the bots' folder where it is missing.
    ///
    /// # Errors
    /// [`Error::Unavailable`] where that cannot be.
    pub fn new(mut settings: Settings, clock: Arc<dyn Clock>, rng: Arc<dyn Rng>) -> Result<Self> {
        let bots = settings.bots.clone();
        let prepared = places::folder(&bots).and_then(|()| {
            settings.bots = bots.canonicalize()?;
            settings.astrbot = std::path::absolute(&settings.astrbot)?;
            Ok((users(&settings)?, fs::metadata(&settings.bots)?.ino()))
        });
        let (users, folder_number) = prepared.map_err(|error| {
            Error::unavailable("the bots' folder", format!("{}: {error}: see to its owner and mode", bots.display()))
        })?;
        let controllers = if settings.control_groups { Controllers::find() } else { Controllers::none() };
        let life = CancellationToken::new();
        let last_port = Mutex::new(*settings.ports.end());
        let slots = Mutex::default();
        let shared =
            Shared { settings, clock, rng, controllers, users, folder_number, slots, last_port, life: life.clone() };
        Ok(Self { shared: Arc::new(shared), _life: life.drop_guard() })
    }
}

fn users(settings: &Settings) -> io::Result<Option<Users>> {
    if !settings.isolate || !rustix::process::geteuid().is_root() {
        tracing::info!("all bots run as the platform's own user: only their folders' addresses keep them apart");
        return Ok(None);
    }
    // Passed by every bot on the way to its own, and read by none.
    fs::set_permissions(&settings.bots, fs::Permissions::from_mode(0o711))?;
    if !users::reachable_by_others(&settings.bots) {
        tracing::warn!(
            bots = %settings.bots.display(),
            "all bots run as the platform's own user: no other one can reach their folder, choose one that all can"
        );
        return Ok(None);
    }
    Ok(Some(Users::default()))
}

impl Shared {
    fn slot(&self, instance: &InstanceId) -> Arc<Slot> {
        let make = || {
            let (followers, _) = broadcast::channel(FOLLOW_LINES);
            Arc::new(Slot::new(followers))
        };
        self.slots().entry(instance.clone()).or_insert_with(make).clone()
    }

    fn known_slot(&self, instance: &InstanceId) -> Option<Arc<Slot>> {
        self.slots().get(instance).cloned()
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<InstanceId, Arc<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn places(&self, instance: &InstanceId) -> Places {
        Places::of(&self.settings.bots, instance)
    }

    /// The name of a bot's control group. Another platform on this machine may have a copy of this bot, restored from
    /// the same backup: its processes are not ours to limit and to kill.
    fn group(&self, instance: &InstanceId) -> String {
        format!("{instance}.{:x}", self.folder_number)
    }

    fn surroundings(&self) -> Surroundings {
        Surroundings {
            clock: self.clock.clone(),
            log: self.settings.log,
            raw_bytes_max: self.settings.raw_log_bytes_max,
        }
    }

    /// Ports that bots have, whether they listen already or not.
    fn ports_of_bots(&self) -> Vec<u16> {
        let here: Vec<u16> = self.slots().values().filter_map(|slot| slot.running()).map(|run| run.port).collect();
        let bots = &self.settings.bots;
        let recorded = places::known(bots).into_iter().filter_map(|id| Places::of(bots, &id).read_record());
        here.into_iter().chain(recorded.map(|record| record.port)).collect()
    }

    fn free_port(&self, taken: &[u16]) -> Result<u16> {
        let of_bots = self.ports_of_bots();
        let (first, last) = (*self.settings.ports.start(), *self.settings.ports.end());
        let mut last_port = self.last_port.lock().unwrap_or_else(PoisonError::into_inner);
        // Goes round, so that two who ask at the same time are told different ones.
        let after = (*last_port).clamp(first, last);
        let mut candidates = (after..=last).skip(1).chain(first..=after);
        let free = |port: &u16| {
            !taken.contains(port) && !of_bots.contains(port) && TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok()
        };
        let Some(port) = candidates.find(free) else {
            return Err(Error::unavailable(
                "a port for the bot",
                format!("none of {first} to {last} is free: configure a wider range"),
            ));
        };
        *last_port = port;
        Ok(port)
    }
}

#[async_trait::async_trait]
impl Runtime for ProcessRuntime {
    fn astrbot_version(&self) -> &str {
        &self.shared.settings.astrbot_version
    }

    fn bridge_version(&self) -> &str {
        bridge::version()
    }

    async fn find(&self) -> Result<Vec<FoundBot>> {
        search::find(&self.shared).await
    }

    async fn start(&self, spec: &BotSpec) -> Result<()> {
        launch::start(&self.shared, spec).await
    }

    async fn stop(&self, instance: &InstanceId) -> Result<()> {
        running::stop(&self.shared, instance).await
    }

    async fn status(&self, instance: &InstanceId) -> Result<BotStatus> {
        let state = self.shared.known_slot(instance).map(|slot| slot.state());
        Ok(match state {
            None | Some(State::Idle) => BotStatus::Absent,
            Some(State::Running(run)) => BotStatus::Running {
                generation: run.generation,
                port: run.port,
                memory_bytes: run.process.memory_bytes().unwrap_or(0),
                since: run.since,
            },
            Some(State::Exited { generation, how, last_words }) => BotStatus::Exited { generation, how, last_words },
        })
    }

    async fn log(&self, instance: &InstanceId, count: usize) -> Result<Vec<LogLine>> {
        let (state, limits) = (self.shared.places(instance).state, self.shared.settings.log);
        blocking("the bot's log", move || journal::tail(&state, limits, count.min(LOG_LINES_MAX))).await
    }

    async fn follow_log(&self, instance: &InstanceId) -> Result<LogStream> {
        let lines = self.shared.slot(instance).followers.subscribe();
        Ok(stream::unfold(lines, |mut lines| async move {
            loop {
                match lines.recv().await {
                    Ok(line) => return Some((line, lines)),
                    // Too slow: goes on with what is there still.
                    Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => return None,
                }
            }
        })
        .boxed())
    }

    async fn erase(&self, instance: &InstanceId) -> Result<()> {
        let slot = self.shared.slot(instance);
        let _turn = slot.turn.lock().await;
        if slot.running().is_some() {
            return Err(Error::conflict("this bot runs: stop it before its data is erased"));
        }
        let (places, bots) = (self.shared.places(instance), self.shared.settings.bots.clone());
        blocking("the bot's folder", move || {
            if search::processes_of(&places).is_empty() { places.erase(&bots).map(|()| true) } else { Ok(false) }
        })
        .await?
        .then_some(())
        .ok_or_else(|| {
            Error::conflict("a process of this bot runs, left by an earlier run of the platform: stop it")
        })?;
        self.shared.slots().remove(instance);
        Ok(())
    }

    async fn free_port(&self, taken: &[u16]) -> Result<u16> {
        let (shared, taken) = (self.shared.clone(), taken.to_vec());
        tokio::task::spawn_blocking(move || shared.free_port(&taken)).await.map_err(Error::internal)?
    }
}

/// Does work that waits for the disk where it holds up nobody.
async fn blocking<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await.map_err(Error::internal)?;
    done.map_err(|error| Error::unavailable(what, error))
}
