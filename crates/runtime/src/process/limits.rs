//! Memory and processor time of a bot: control groups where we may make them, below our own group so that our own
//! limits hold; else a limit on the memory that the process may ask for.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};

use serde::{Deserialize, Serialize};

use super::linux::Process;

const MOUNT: &str = "/sys/fs/cgroup";
/// All groups of bots are in this one.
const PARENT: &str = "astrfleet";
/// Version 2 allows groups with limits only below a group that no process is in: we move into this one.
const SELF: &str = "astrfleet-platform";
/// In which processor time is counted, in microseconds.
const PERIOD_US: u64 = 100_000;
/// An `AstrBot` asks for more than it ever uses, 8 MiB of stack for each of its threads to begin with: 270 MiB at
/// rest. Without control groups, this comes on top of the limit.
const UNUSED_BYTES: u64 = 512 << 20;
/// When memory ends, bots go before the platform does.
const OOM_SCORE: &str = "500";
/// The kernel is done with a group some time after its last process.
const REMOVE_TRIES: u32 = 20;
const REMOVE_PAUSE: Duration = Duration::from_millis(25);

/// How processes are limited on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Controllers {
    memory: Option<PathBuf>,
    cpu: Option<PathBuf>,
    version_2: bool,
}

/// The control groups of one bot.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Groups {
    folders: Vec<PathBuf>,
    limits_memory: bool,
}

impl Controllers {
    /// No control groups.
    pub(super) fn none() -> Self {
        Self { memory: None, cpu: None, version_2: false }
    }

    /// What is there and what we may use. Says so, once.
    pub(super) fn find() -> Self {
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let found = Self::from(Path::new(MOUNT), &own);
        let usable = |folder: &PathBuf| may_make_groups(folder);
        let found =
            Self { memory: found.memory.filter(usable), cpu: found.cpu.filter(usable), version_2: found.version_2 };
        tracing::info!(
            memory_group = found.memory.is_some(),
            cpu_group = found.cpu.is_some(),
            "how bots are limited: without a group of its own a bot's processor time is not limited, and its memory by what it asks for"
        );
        found
    }

    fn from(mount: &Path, own: &str) -> Self {
        let group = |controller: &str| {
            own.lines().find_map(|line| {
                let mut fields = line.splitn(3, ':');
                let (_, names, path) = (fields.next()?, fields.next()?, fields.next()?);
                names.split(',').any(|name| name == controller).then(|| (names.to_owned(), path.to_owned()))
            })
        };
        if mount.join("cgroup.controllers").exists() {
            let folder = group("").map(|(_, path)| mount.join(path.trim_start_matches('/')));
            let folder = folder.filter(|folder| enable(folder).is_ok());
            return Self { memory: folder.clone(), cpu: folder, version_2: true };
        }
        let version_1 = |controller: &str| {
            let (names, path) = group(controller)?;
            let mounted = [mount.join(controller), mount.join(names)].into_iter().find(|folder| folder.is_dir())?;
            // In a container the path is often that of the machine and the mount is the container's part of it.
            [mounted.join(path.trim_start_matches('/')), mounted].into_iter().find(|folder| folder.is_dir())
        };
        Self { memory: version_1("memory"), cpu: version_1("cpu"), version_2: false }
    }

    /// Makes the groups of a bot. Where one cannot be made, the bot runs without it: that is said in the log.
    pub(super) fn make(&self, bot: &str, memory_bytes: u64, cpu_milli: u32) -> Groups {
        let mut groups = Groups::default();
        let quota_us = (u64::from(cpu_milli) * PERIOD_US / 1_000).max(1_000);
        let (memory, swap) = (memory_bytes.to_string(), "memory.memsw.limit_in_bytes");
        if let Some(parent) = self.memory.as_ref().filter(|_| memory_bytes > 0) {
            let file = if self.version_2 { "memory.max" } else { "memory.limit_in_bytes" };
            if let Some(folder) = self.limited(parent, bot, file, &memory) {
                // Not everywhere: the kernel may not count swap.
                let no_swap = if self.version_2 { ("memory.swap.max", "0") } else { (swap, memory.as_str()) };
                let _ = fs::write(folder.join(no_swap.0), no_swap.1);
                groups.limits_memory = true;
                groups.folders.push(folder);
            }
        }
        if let Some(parent) = self.cpu.as_ref().filter(|_| cpu_milli > 0) {
            let (file, quota) = if self.version_2 {
                ("cpu.max", format!("{quota_us} {PERIOD_US}"))
            } else {
                ("cpu.cfs_quota_us", quota_us.to_string())
            };
            if let Some(folder) = self.limited(parent, bot, file, &quota)
                && !groups.folders.contains(&folder)
            {
                groups.folders.push(folder);
            }
        }
        groups
    }

    fn limited(&self, parent: &Path, bot: &str, file: &str, limit: &str) -> Option<PathBuf> {
        let folder = parent.join(PARENT).join(bot);
        let mut made = fs::create_dir_all(&folder);
        if made.is_err() {
            // Another bot's end may have taken the folder above away.
            made = fs::create_dir_all(&folder);
        }
        let made = made.and_then(|()| if self.version_2 { enable(&parent.join(PARENT)) } else { Ok(()) });
        match made.and_then(|()| fs::write(folder.join(file), limit)) {
            Ok(()) => Some(folder),
            Err(error) => {
                tracing::warn!(bot, %error, folder = %folder.display(), "a bot runs without this limit");
                None
            }
        }
    }
}

impl Groups {
    /// Those of this name that a bot of an earlier run is in.
    pub(super) fn of(process: Process, bot: &str) -> Self {
        let own = fs::read_to_string(format!("/proc/{}/cgroup", process.pid)).unwrap_or_default();
        let found = Controllers::from_existing(Path::new(MOUNT), &own, &format!("/{PARENT}/{bot}"));
        Self { limits_memory: false, folders: found }
    }

    #[cfg(test)]
    pub(super) fn folders(&self) -> &[PathBuf] {
        &self.folders
    }

    /// Puts a process into them, and does what it takes where there are none.
    pub(super) fn apply(&self, process: Process, memory_bytes: u64) {
        for folder in &self.folders {
            if let Err(error) = fs::write(folder.join("cgroup.procs"), process.pid.to_string()) {
                tracing::warn!(%error, folder = %folder.display(), "a bot runs without this limit");
            }
        }
        // May fail for a bot that ended at once.
        let _ = fs::write(format!("/proc/{}/oom_score_adj", process.pid), OOM_SCORE);
        let pid = Pid::from_raw(process.pid);
        let limit = |bytes| Rlimit { current: Some(bytes), maximum: Some(bytes) };
        // Its memory holds secrets.
        let _ = prlimit(pid, Resource::Core, limit(0));
        if !self.limits_memory && memory_bytes > 0 {
            let _ = prlimit(pid, Resource::Data, limit(memory_bytes.saturating_add(UNUSED_BYTES)));
        }
    }

    /// Whether the kernel ended a process of these groups for want of memory.
    pub(super) fn ran_out_of_memory(&self) -> bool {
        self.folders.iter().any(|folder| {
            ["memory.events", "memory.oom_control"].iter().any(|file| {
                let content = fs::read_to_string(folder.join(file)).unwrap_or_default();
                content.lines().any(|line| line.strip_prefix("oom_kill ").is_some_and(|count| count.trim() != "0"))
            })
        })
    }

    /// Kills whatever a bot left behind, and removes the groups. Blocks for as long as the kernel takes.
    pub(super) fn remove(&self) {
        for folder in &self.folders {
            if let Err(error) = remove(folder) {
                tracing::warn!(%error, folder = %folder.display(), "a control group of a bot that ended stays");
            }
            if let Some(parent) = folder.parent() {
                // Fails while another bot is in it.
                let _ = fs::remove_dir(parent);
            }
        }
    }
}

impl Controllers {
    fn from_existing(mount: &Path, own: &str, end: &str) -> Vec<PathBuf> {
        let of = |line: &str| {
            let mut fields = line.splitn(3, ':');
            let (_, names, path) = (fields.next()?, fields.next()?, fields.next()?);
            let path = path.strip_suffix(end).is_some().then(|| path.trim_start_matches('/'))?;
            let first = names.split(',').next().unwrap_or_default();
            [mount.join(first).join(path), mount.join(names).join(path)].into_iter().find(|folder| folder.is_dir())
        };
        own.lines().filter_map(of).collect()
    }
}

fn remove(folder: &Path) -> io::Result<()> {
    for _ in 0..REMOVE_TRIES {
        for pid in fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default().lines() {
            if let Some(process) = pid.parse().ok().and_then(Process::of) {
                process.signal(Signal::KILL)?;
            }
        }
        match fs::remove_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => thread::sleep(REMOVE_PAUSE),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => return Ok(()),
        }
    }
    Err(io::ErrorKind::ResourceBusy.into())
}

/// Lets the groups below `folder` have limits, in version 2.
fn enable(folder: &Path) -> io::Result<()> {
    let switch = folder.join("cgroup.subtree_control");
    let enabled = fs::read_to_string(&switch)?;
    let has = |controller: &str| enabled.split_whitespace().any(|name| name == controller);
    if has("memory") && has("cpu") {
        return Ok(());
    }
    let refused = match fs::write(&switch, "+memory +cpu") {
        Ok(()) => return Ok(()),
        Err(error) => error,
    };
    let own = std::process::id().to_string();
    if fs::read_to_string(folder.join("cgroup.procs"))?.trim() != own {
        return Err(refused);
    }
    fs::create_dir_all(folder.join(SELF))?;
    fs::write(folder.join(SELF).join("cgroup.procs"), own)?;
    fs::write(&switch, "+memory +cpu")
}

fn may_make_groups(folder: &Path) -> bool {
    let trial = folder.join(format!("{PARENT}-{}", std::process::id()));
    match fs::create_dir(&trial) {
        // Made by another driver of this process at this moment.
        Err(error) => error.kind() == io::ErrorKind::AlreadyExists,
        Ok(()) => fs::remove_dir(&trial).is_ok(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::Controllers;

    #[test]
    fn version_1_is_found_below_our_own_group() {
        let mount = tempfile::tempdir().unwrap();
        fs::create_dir_all(mount.path().join("memory/ours")).unwrap();
        fs::create_dir_all(mount.path().join("cpu,cpuacct")).unwrap();
        let own = "4:memory:/ours\n1:cpu,cpuacct:/elsewhere\n0::/\n";
        let found = Controllers::from(mount.path(), own);
        assert_eq!(found.memory, Some(mount.path().join("memory/ours")));
        assert_eq!(found.cpu, Some(mount.path().join("cpu,cpuacct")), "the mount is what a container sees of it");
        assert!(!found.version_2);
    }

    #[test]
    fn version_2_is_used_where_its_controllers_are_on() {
        let mount = tempfile::tempdir().unwrap();
        let ours = mount.path().join("ours");
        fs::create_dir(&ours).unwrap();
        fs::write(mount.path().join("cgroup.controllers"), "cpu memory").unwrap();
        fs::write(ours.join("cgroup.subtree_control"), "cpu memory pids").unwrap();
        let found = Controllers::from(mount.path(), "0::/ours\n");
        assert_eq!(found, Controllers { memory: Some(ours.clone()), cpu: Some(ours.clone()), version_2: true });

        fs::create_dir_all(ours.join("astrfleet")).unwrap();
        fs::write(ours.join("astrfleet/cgroup.subtree_control"), "cpu memory").unwrap();
        let groups = found.make("bot_1", 1_000_000, 500);
        assert_eq!(groups.folders, [ours.join("astrfleet/bot_1")]);
        assert_eq!(fs::read_to_string(groups.folders[0].join("cpu.max")).unwrap(), "50000 100000");
        assert_eq!(fs::read_to_string(groups.folders[0].join("memory.max")).unwrap(), "1000000");
    }

    #[test]
    fn without_groups_there_are_none() {
        let mount = tempfile::tempdir().unwrap();
        let found = Controllers::from(mount.path(), "4:memory:/ours\n");
        assert_eq!(found, Controllers::none());
        assert!(found.make("bot_1", 1, 1).folders.is_empty());
    }
}
