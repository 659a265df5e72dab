//! What this machine allows: memory, limits, users, file systems and the clock. Reads `/proc` and `/sys`; where a
//! system has none of them, it leaves the check out rather than guess. Changes nothing.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use rustix::{
    fs::Access,
    process::{Resource, getrlimit},
};

use super::{BOT_MEMORY_BYTES, Check, Environment};

const CLOCK_TOLERANCE: Duration = Duration::from_mins(1);
/// 2026-11-01, before the first release of this program: no clock that is right says less.
const BUILT_AFTER: Duration = Duration::from_hours(24 * 20_758);

/// All but the clock, which needs somebody to compare with. `folder` is where data will lie.
pub(super) fn checks(folder: &Path, prepared: Option<&Environment>) -> Vec<Check> {
    let own_cgroup = own_cgroup();
    let mut checks = Vec::new();
    checks.extend(available_memory(own_cgroup.as_deref()).map(memory));
    if cfg!(target_os = "linux") {
        checks.push(cgroup(own_cgroup.as_deref()));
    }
    checks.push(users(prepared));
    checks.push(open_files(getrlimit(Resource::Nofile).current));
    checks.extend(file_system(folder));
    checks
}

/// The folder itself or the nearest one above it that is there.
pub(super) fn nearest_existing(folder: &Path) -> &Path {
    folder.ancestors().find(|ancestor| ancestor.is_dir()).unwrap_or_else(|| Path::new("."))
}

/// Compares `now` with what a server on the network says, if one answered.
pub(super) fn clock(now: SystemTime, server: Option<SystemTime>) -> Check {
    const NAME: &str = "clock";
    const REMEDY: &str = "set the clock (timedatectl set-ntp true): tokens and certificates are refused otherwise";
    if now < SystemTime::UNIX_EPOCH + BUILT_AFTER {
        return Check::fail(NAME, "this machine believes to be in a time before this program was made", REMEDY);
    }
    let Some(server) = server else {
        return Check::ok(NAME, "plausible; no server answered to compare with");
    };
    let off = now.duration_since(server).unwrap_or_else(|error| error.duration());
    if off > CLOCK_TOLERANCE {
        let detail = format!("{} s away from what the package index says", off.as_secs());
        return Check::warn(NAME, detail, REMEDY);
    }
    Check::ok(NAME, "agrees with the package index to the minute")
}

fn memory(available: u64) -> Check {
    const NAME: &str = "memory";
    const REMEDY: &str = "stop other programs, add memory, or lower MAX_ASTRBOT_INSTANCES";
    let bots = available / BOT_MEMORY_BYTES;
    let detail = format!("{} MiB available: room for about {bots} bots of 275 MiB", available >> 20);
    match bots {
        0 => Check::fail(NAME, detail, REMEDY),
        1..=3 => Check::warn(NAME, detail, REMEDY),
        _ => Check::ok(NAME, detail),
    }
}

/// What the kernel would give, or what is left of the group's limit where that is less. In bytes.
fn available_memory(own_cgroup: Option<&Path>) -> Option<u64> {
    let of_machine = read_meminfo(&fs::read_to_string("/proc/meminfo").ok()?)?;
    let number = |file: &str| fs::read_to_string(own_cgroup?.join(file)).ok()?.trim().parse::<u64>().ok();
    let of_group = number("memory.max").map(|max| max.saturating_sub(number("memory.current").unwrap_or(0)));
    Some(of_group.map_or(of_machine, |left| left.min(of_machine)))
}

fn read_meminfo(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

/// The folder of the unified cgroup that this process is in; none on version 1 and outside Linux.
fn own_cgroup() -> Option<PathBuf> {
    let text = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let folder = Path::new("/sys/fs/cgroup").join(path);
    folder.join("cgroup.controllers").is_file().then_some(folder)
}

fn cgroup(own: Option<&Path>) -> Check {
    const NAME: &str = "cgroup limits";
    const REMEDY: &str = "run as root, or under systemd-run --user --scope -p Delegate=yes, to give each bot a limit of \
                          memory and CPU of its own";
    const WANTED: [&str; 3] = ["cpu", "memory", "pids"];
    let writable = |folder: &Path| rustix::fs::access(folder, Access::WRITE_OK).is_ok();
    if let Some(own) = own {
        let controllers = fs::read_to_string(own.join("cgroup.controllers")).unwrap_or_default();
        let missing: Vec<&str> =
            WANTED.into_iter().filter(|wanted| !controllers.split_whitespace().any(|one| one == *wanted)).collect();
        return match (missing.is_empty(), writable(own)) {
            (true, true) => Check::ok(NAME, format!("version 2, {}", own.display())),
            (false, _) => Check::warn(NAME, format!("version 2 without {}", missing.join(", ")), REMEDY),
            (true, false) => Check::warn(NAME, format!("version 2, but {} is not ours", own.display()), REMEDY),
        };
    }
    let root = Path::new("/sys/fs/cgroup");
    let missing: Vec<&str> = WANTED.into_iter().filter(|wanted| !writable(&root.join(wanted))).collect();
    if missing.is_empty() {
        return Check::ok(NAME, "version 1");
    }
    Check::warn(NAME, format!("not usable here: {}", missing.join(", ")), REMEDY)
}

fn users(prepared: Option<&Environment>) -> Check {
    const NAME: &str = "own user for each bot";
    let capabilities = fs::read_to_string("/proc/self/status").ok().and_then(|status| read_capabilities(&status));
    let may_change = match capabilities {
        Some(capabilities) => capabilities & CHANGE_USER == CHANGE_USER,
        None => rustix::process::geteuid().is_root(),
    };
    if !may_change {
        return Check::warn(
            NAME,
            "not possible: bots run under the same user as this program and could read each other's files",
            "run as root to give each bot a uid of its own, when tenants do not trust each other",
        );
    }
    match prepared.and_then(Environment::closed_to_others) {
        Some(path) => Check::warn(
            NAME,
            format!("possible, but other users cannot use the bot runtime: {} is closed to them", path.display()),
            "chmod o+x it, or use a Python of the system and a --data-dir that everybody may pass",
        ),
        None => Check::ok(NAME, "possible"),
    }
}

/// `CAP_CHOWN`, `CAP_SETGID` and `CAP_SETUID`, by their bits (linux/capability.h).
const CHANGE_USER: u64 = 1 << 0 | 1 << 6 | 1 << 7;

fn read_capabilities(status: &str) -> Option<u64> {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(effective.trim(), 16).ok()
}

fn open_files(limit: Option<u64>) -> Check {
    const NAME: &str = "open files";
    const REMEDY: &str = "ulimit -n 65536, or LimitNOFILE=65536 in the unit";
    match limit {
        None => Check::ok(NAME, "not limited"),
        Some(limit) if limit < 512 => Check::fail(NAME, format!("at most {limit}"), REMEDY),
        Some(limit) if limit < 4096 => {
            Check::warn(NAME, format!("at most {limit}: enough for few connections at a time"), REMEDY)
        }
        Some(limit) => Check::ok(NAME, format!("at most {limit}")),
    }
}

#[cfg(target_os = "linux")]
fn file_system(folder: &Path) -> Option<Check> {
    let place = nearest_existing(folder);
    let kind = rustix::fs::statfs(place).ok()?.f_type;
    // Some are negative in the kernel's signed type: only the low half means something.
    Some(of_file_system(u32::try_from(i128::from(kind) & 0xffff_ffff).ok()?, place))
}

#[cfg(not(target_os = "linux"))]
fn file_system(_folder: &Path) -> Option<Check> {
    None
}

#[cfg(target_os = "linux")]
fn of_file_system(kind: u32, place: &Path) -> Check {
    const NAME: &str = "file system";
    const REMEDY: &str = "choose a local disk with --data-dir, or PostgreSQL as the database (DB_HOST)";
    // linux/magic.h, and the own headers of those that are not in the kernel.
    let name = match kind {
        0x6969 => "NFS",
        0x517b | 0xff53_4d42 | 0xfe53_4d42 => "SMB",
        0x0102_1997 => "9p",
        0x00c3_6400 => "Ceph",
        0x0bd0_0bd0 => "Lustre",
        0x4750_4653 => "GPFS",
        0x5346_414f => "AFS",
        0x786f_4256 => "a shared folder of VirtualBox",
        0x6573_5546 => {
            let detail = format!("{} is on FUSE, whose locks may not be real", place.display());
            return Check::warn(NAME, detail, REMEDY);
        }
        _ => return Check::ok(NAME, format!("{} is local", place.display())),
    };
    Check::fail(NAME, format!("{} is on {name}: SQLite loses data there", place.display()), REMEDY)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environment::Status;

    #[test]
    fn the_clock_is_compared() {
        let now = SystemTime::UNIX_EPOCH + BUILT_AFTER + Duration::from_hours(24);
        let minutes = |minutes| Some(now - Duration::from_mins(minutes));
        assert_eq!(clock(now, None).status, Status::Ok);
        assert_eq!(clock(now, minutes(0)).status, Status::Ok);
        assert_eq!(clock(now, minutes(5)).status, Status::Warn);
        assert_eq!(clock(now, Some(now + Duration::from_hours(9))).status, Status::Warn);
        assert_eq!(clock(SystemTime::UNIX_EPOCH, None).status, Status::Fail);
    }

    #[test]
    fn memory_is_counted_in_bots() {
        assert_eq!(read_meminfo("MemTotal: 9 kB\nMemAvailable:     2048 kB\n"), Some(2 << 20));
        assert_eq!(memory(100 << 20).status, Status::Fail);
        assert_eq!(memory(600 << 20).status, Status::Warn);
        let plenty = memory(24 << 30);
        assert_eq!(plenty.status, Status::Ok);
        assert!(plenty.detail.contains("about 89 bots"), "{}", plenty.detail);
    }

    #[test]
    fn capabilities_are_read() {
        assert_eq!(read_capabilities("Name:\tx\nCapEff:\t000001ffffffffff\n"), Some(0x1ff_ffff_ffff));
        assert_eq!(read_capabilities("CapEff:\t0000000000000000\n").unwrap() & CHANGE_USER, 0);
        assert_eq!(read_capabilities("Name:\tx\n"), None);
    }

    #[test]
    fn few_open_files_are_told() {
        assert_eq!(open_files(Some(256)).status, Status::Fail);
        assert_eq!(open_files(Some(1024)).status, Status::Warn);
        assert_eq!(open_files(Some(65536)).status, Status::Ok);
        assert_eq!(open_files(None).status, Status::Ok);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn network_file_systems_are_refused() {
        let place = Path::new("/data");
        assert_eq!(of_file_system(0x6969, place).status, Status::Fail);
        assert_eq!(of_file_system(0xff53_4d42, place).status, Status::Fail);
        assert_eq!(of_file_system(0x6573_5546, place).status, Status::Warn);
        assert_eq!(of_file_system(0xef53, place).status, Status::Ok);
    }

    #[test]
    fn the_nearest_folder_is_found() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(nearest_existing(&folder.path().join("a/b")), folder.path());
    }
}
