//! One start of a bot: its folders, its configuration, its process and the record of it, in this order.

use std::{
    ffi::OsString,
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
    process::Stdio,
    sync::Arc,
};

use astrfleet_core::{
    error::{Error, Result},
    ports::BotSpec,
};
use rustix::{
    fs::{FlockOperation, OFlags, flock},
    io::Errno,
    process::Signal,
};
use secrecy::ExposeSecret;
use tokio::{
    process::{Child, Command},
    signal::unix::{SignalKind, signal},
};

use super::{
    Shared,
    capture::Capture,
    limits::Groups,
    linux::{self, Process},
    places::{Places, Record},
    running::{self, Run},
    search, users,
};
use crate::astrbot::{bridge, config};

/// The variable that carries a start's number. A process without it is none of ours.
pub(super) const GENERATION: &str = "ASTRFLEET_GENERATION";
/// The variable that carries the port, for `AstrBot` and for us.
pub(super) const PORT: &str = "DASHBOARD_PORT";
/// The terms of the start.
pub(super) const TERMS: &str = "ASTRFLEET_TERMS";
/// Where programs are that a bot may start, after its own environment.
const SEARCH_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// All that a start needs, made before there is a process.
struct Ready {
    capture: Capture,
    output: File,
    groups: Groups,
    user: Option<u32>,
}

/// See [`astrfleet_core::ports::Runtime::start`].
pub(super) async fn start(shared: &Arc<Shared>, spec: &BotSpec) -> Result<()> {
    let slot = shared.slot(&spec.instance);
    let _turn = slot.turn.lock().await;
    if slot.running().is_some() {
        return Err(Error::conflict("this bot runs already"));
    }
    let ready = {
        let (shared, spec) = (shared.clone(), spec.clone());
        tokio::task::spawn_blocking(move || prepare(&shared, &spec)).await.map_err(Error::internal)??
    };
    if linux::ignores_interrupts() {
        // What is ignored stays so in children; what has a handler does not. And a bot must hear it to end in order.
        let _stays_after_this =
            signal(SignalKind::interrupt()).map_err(|error| Error::unavailable("the bot", error))?;
    }
    let places = shared.places(&spec.instance);
    let spawned = command(shared, &places, spec, &ready).and_then(|mut command| command.spawn());
    let child = match spawned {
        Ok(child) => child,
        Err(error) => {
            let groups = ready.groups;
            let _ = tokio::task::spawn_blocking(move || groups.remove()).await;
            let program = shared.settings.astrbot.display();
            let remedy = "if it is missing, prepare the environment again";
            return Err(Error::unavailable("the bot's program", format!("{program}: {error}: {remedy}")));
        }
    };
    let (record, child) = register(spec, &places, &ready.groups, child).await?;
    tracing::info!(
        instance = %spec.instance,
        tenant = %spec.tenant,
        generation = spec.generation,
        port = spec.port,
        pid = record.process.pid,
        "a bot was started"
    );
    let run = Run::new(record, shared.clock.now());
    running::attend(shared, &spec.instance, run, Some(child), ready.capture);
    Ok(())
}

/// Blocks: it writes to the disk and looks at all processes.
fn prepare(shared: &Shared, spec: &BotSpec) -> Result<Ready> {
    let places = shared.places(&spec.instance);
    let broken = |error: io::Error| {
        let root = places.root.display();
        Error::unavailable("the bot's folder", format!("{root}: {error}: see to its owner, its mode and free space"))
    };
    if !search::processes_of(&places).is_empty() || is_locked(&places.root) {
        return Err(Error::conflict("a process of this bot runs already, left by an earlier run of the platform"));
    }
    places.make().map_err(broken)?;
    config::write(&places.root, spec, &*shared.rng)?;
    bridge::place(&places.root)?;
    std::fs::set_permissions(&places.root, std::fs::Permissions::from_mode(0o700)).map_err(broken)?;
    let user = match &shared.users {
        None => None,
        Some(users) => {
            let user = users.of(&shared.settings.bots, &spec.instance).map_err(broken)?;
            users::hand_over(&places.root, user).map_err(broken)?;
            Some(user)
        }
    };
    let followers = shared.slot(&spec.instance).followers.clone();
    let mut capture = Capture::open(&places, shared.surroundings(), followers).map_err(broken)?;
    capture.start_over().map_err(broken)?;
    let output = OpenOptions::new().append(true).create(true).mode(0o600).open(places.raw_log()).map_err(broken)?;
    let groups = shared.controllers.make(&shared.group(&spec.instance), spec.memory_bytes, spec.cpu_milli);
    Ok(Ready { capture, output, groups, user })
}

/// Whether an `AstrBot` that we do not see, in another container perhaps, holds the lock of this root.
fn is_locked(root: &Path) -> bool {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
    let lock = OpenOptions::new().read(true).custom_flags(flags.cast_signed()).open(root.join("astrbot.lock"));
    lock.is_ok_and(|lock| flock(&lock, FlockOperation::NonBlockingLockExclusive) == Err(Errno::WOULDBLOCK))
}

fn command(shared: &Shared, places: &Places, spec: &BotSpec, ready: &Ready) -> io::Result<Command> {
    let program = &shared.settings.astrbot;
    let mut search_path = OsString::from(program.parent().unwrap_or(Path::new("/usr/bin")));
    search_path.push(":");
    search_path.push(SEARCH_PATH);
    let mut command = Command::new(program);
    command
        .arg("run")
        .current_dir(&places.root)
        .env_clear()
        .env("PATH", search_path)
        .env("HOME", places.root.join("home"))
        .env("TMPDIR", places.root.join("tmp"))
        .env("LANG", "C.UTF-8")
        .env("PYTHONUTF8", "1")
        .env("PYTHONUNBUFFERED", "1")
        .env("ASTRBOT_DISABLE_METRICS", "1")
        .env("DASHBOARD_HOST", "127.0.0.1")
        .env(PORT, spec.port.to_string())
        .env(GENERATION, spec.generation.to_string())
        .env(TERMS, &spec.terms)
        .env(bridge::URL, &spec.bridge.url)
        .env(bridge::TOKEN, spec.bridge.token.expose_secret())
        .env(bridge::WHEN_AWAY, spec.bridge.when_away.word())
        // For people who look at processes.
        .env("ASTRFLEET_BOT", spec.instance.as_str())
        .env("ASTRFLEET_TENANT", spec.tenant_name.replace('\0', ""))
        .stdin(Stdio::null())
        .stdout(ready.output.try_clone()?)
        .stderr(ready.output.try_clone()?)
        // Ctrl-C in the platform's terminal is for the platform, which stops its bots one by one.
        .process_group(0);
    if let Some(user) = ready.user {
        command.uid(user).gid(user);
    }
    Ok(command)
}

/// Limits the process and records it. A process that cannot be recorded is not kept.
async fn register(spec: &BotSpec, places: &Places, groups: &Groups, mut child: Child) -> Result<(Record, Child)> {
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
    let (places, groups, memory_bytes) = (places.clone(), groups.clone(), spec.memory_bytes);
    let (generation, port, terms) = (spec.generation, spec.port, spec.terms.clone());
    let recorded = tokio::task::spawn_blocking(move || {
        let process = pid.and_then(Process::of).ok_or_else(|| io::Error::other("it ended at once"))?;
        groups.apply(process, memory_bytes);
        let record = Record { process, boot_id: linux::boot_id(), generation, port, terms, groups };
        let recorded = places.write_record(&record);
        if recorded.is_err() {
            process.signal(Signal::KILL)?;
            record.groups.remove();
        }
        recorded.map(|()| record)
    })
    .await
    .map_err(Error::internal)?;
    match recorded {
        Ok(record) => Ok((record, child)),
        Err(error) => {
            let _ = child.start_kill();
            let _ = child.wait().await;
            Err(Error::unavailable("the bot", format!("its process could not be recorded: {error}: see to free space")))
        }
    }
}
