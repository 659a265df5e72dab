//! Processes as `/proc` shows them. A process is its number and the tick it started at: numbers are used again.

use std::{
    collections::HashMap,
    ffi::OsStr,
    fs, io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    time::Duration,
};

use astrfleet_core::time::Timestamp;
use rustix::{
    fd::OwnedFd,
    io::Errno,
    process::{
        Pid, PidfdFlags, Signal, kill_process, kill_process_group, pidfd_open, pidfd_send_signal,
        test_kill_process_group,
    },
};
use serde::{Deserialize, Serialize};
use tokio::io::{Interest, unix::AsyncFd};

/// How often a process is looked at where the kernel cannot tell of its end.
const POLL: Duration = Duration::from_millis(250);

/// `USER_HZ`, which is 100 on every architecture that Rust knows on Linux.
const TICK_US: i64 = 10_000;

/// One process, ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Process {
    /// Its number.
    pub pid: i32,
    /// When it started, in ticks since the machine did.
    pub started_ticks: u64,
}

/// The fields of `/proc/<pid>/stat` that we need.
struct Stat {
    zombie: bool,
    group: i32,
    started_ticks: u64,
}

impl Process {
    /// The process of that number, also when it has ended and was not waited for yet.
    pub(super) fn of(pid: i32) -> Option<Self> {
        Some(Self { pid, started_ticks: stat(pid)?.started_ticks })
    }

    pub(super) fn is_alive(self) -> bool {
        stat(self.pid).is_some_and(|stat| stat.started_ticks == self.started_ticks && !stat.zombie)
    }

    /// Resident memory, in bytes; nothing once it has ended.
    pub(super) fn memory_bytes(self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        kib.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
    }

    pub(super) fn folder(self) -> Option<PathBuf> {
        fs::read_link(format!("/proc/{}/cwd", self.pid)).ok()
    }

    pub(super) fn environment(self) -> HashMap<String, String> {
        let content = fs::read(format!("/proc/{}/environ", self.pid)).unwrap_or_default();
        content
            .split(|byte| *byte == 0)
            .filter_map(|entry| std::str::from_utf8(entry).ok()?.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    }

    /// Whether it was started as `…/astrbot run`, be it through an interpreter.
    pub(super) fn is_astrbot(self) -> bool {
        let content = fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        let words: Vec<&[u8]> = content.split(|byte| *byte == 0).collect();
        words.windows(2).any(|pair| {
            Path::new(OsStr::from_bytes(pair[0])).file_name() == Some(OsStr::new("astrbot")) && pair[1] == b"run"
        })
    }

    /// Whether it is the first of its process group, as every bot is and what a bot starts normally is not.
    pub(super) fn leads_its_group(self) -> bool {
        stat(self.pid).is_some_and(|stat| stat.group == self.pid)
    }

    /// When it started, to a second or so.
    pub(super) fn since(self) -> Timestamp {
        let machine = fs::read_to_string("/proc/stat").unwrap_or_default();
        let boot_s: i64 = machine
            .lines()
            .find_map(|line| line.strip_prefix("btime "))
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or_default();
        let after_us = i64::try_from(self.started_ticks).unwrap_or_default().saturating_mul(TICK_US);
        Timestamp::from_micros(boot_s.saturating_mul(1_000_000).saturating_add(after_us))
    }

    /// Sends it a signal; one that has ended does not mind.
    pub(super) fn signal(self, signal: Signal) -> io::Result<()> {
        let sent = match self.handle() {
            // The number cannot come to mean another process between the look and the signal.
            Ok(handle) if self.is_alive() => pidfd_send_signal(handle, signal),
            Ok(_) | Err(Errno::SRCH) => return Ok(()),
            // A kernel before 5.3.
            Err(_) if self.is_alive() => self.pid().map_or(Ok(()), |pid| kill_process(pid, signal)),
            Err(_) => return Ok(()),
        };
        match sent {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Kills what it started and left in its process group. While one of them lives, the kernel gives the group's
    /// number to nobody else.
    pub(super) fn kill_group(self) {
        let Some(pid) = self.pid() else { return };
        let someone_else = stat(self.pid).is_some_and(|stat| stat.started_ticks != self.started_ticks);
        if !someone_else && test_kill_process_group(pid).is_ok() {
            // Whoever ended meanwhile needs no signal.
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }

    /// Waits for the end of a process that is not our child.
    #[expect(deprecated, reason = "its successor is unsafe, and what that asks for an owned descriptor upholds")]
    pub(super) async fn ended(self) {
        if let Ok(handle) = self.handle()
            && let Ok(handle) = AsyncFd::with_interest(handle, Interest::READABLE)
        {
            // The handle is of this process only if it still ran when the handle was there.
            if !self.is_alive() || handle.readable().await.is_ok() {
                return;
            }
        }
        while self.is_alive() {
            tokio::time::sleep(POLL).await;
        }
    }

    fn handle(self) -> Result<OwnedFd, Errno> {
        pidfd_open(self.pid().ok_or(Errno::SRCH)?, PidfdFlags::empty())
    }

    fn pid(self) -> Option<Pid> {
        // 1 and below would mean the whole machine.
        (self.pid > 1).then(|| Pid::from_raw(self.pid)).flatten()
    }
}

/// All processes that have not ended.
pub(super) fn processes() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let stat = stat(pid).filter(|stat| !stat.zombie)?;
            Some(Process { pid, started_ticks: stat.started_ticks })
        })
        .collect()
}

/// Another one after every start of the machine.
pub(super) fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// Whether this process ignores SIGINT, as whatever a shell starts with `&` does. Its children would, too.
pub(super) fn ignores_interrupts() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default();
    mask & (1 << (Signal::INT.as_raw() - 1)) != 0
}

fn stat(pid: i32) -> Option<Stat> {
    let content = fs::read(format!("/proc/{pid}/stat")).ok()?;
    // The name comes second, in brackets, and may itself contain anything.
    let after_name = content.iter().rposition(|byte| *byte == b')')? + 1;
    let rest = std::str::from_utf8(&content[after_name..]).ok()?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    Some(Stat {
        zombie: matches!(*fields.first()?, "Z" | "X"),
        group: fields.get(2)?.parse().ok()?,
        started_ticks: fields.get(19)?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::{Process, boot_id, processes};

    #[test]
    fn this_process_is_seen_as_it_is() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let this = Process::of(pid).unwrap();
        assert!(this.is_alive());
        assert!(this.memory_bytes().unwrap() > 100_000);
        assert_eq!(this.folder().unwrap(), std::env::current_dir().unwrap());
        assert!(processes().contains(&this));
        assert!(!boot_id().is_empty());
        assert!(!this.is_astrbot());
    }

    #[test]
    fn another_process_of_the_same_number_is_not_the_one_meant() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let earlier = Process { pid, started_ticks: 1 };
        assert!(!earlier.is_alive());
        earlier.signal(rustix::process::Signal::KILL).unwrap();
        earlier.kill_group();
    }

    #[test]
    fn the_whole_machine_is_no_process() {
        for pid in [-1, 0, 1] {
            assert!(Process { pid, started_ticks: 1 }.pid().is_none());
        }
    }
}
