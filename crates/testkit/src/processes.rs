//! What runs in a folder, read from `/proc`, and its end. It kills nothing but what it is given by folder or by parent,
//! and never this process itself.

use std::{
    collections::{HashMap, HashSet},
    os::unix::ffi::OsStrExt,
    path::Path,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

/// The processes that work in a folder or below it.
#[must_use]
pub fn working_in(folder: &Path) -> HashSet<i32> {
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    all()
        .filter(|pid| std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| is_inside(&cwd, &folder)))
        .collect()
}

/// The processes that a process started, directly or not, as far as they were not adopted by another since.
#[must_use]
pub fn descendants_of(root: i32) -> HashSet<i32> {
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    for pid in all() {
        if let Some(parent) = parent_of(pid) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let (mut found, mut open) = (HashSet::new(), vec![root]);
    while let Some(parent) = open.pop() {
        for child in children.remove(&parent).unwrap_or_default() {
            if found.insert(child) {
                open.push(child);
            }
        }
    }
    found
}

/// Sends a signal; a process that is gone is no error.
pub fn signal(pid: i32, signal: Signal) {
    let own = i32::try_from(std::process::id()).ok();
    if let Some(pid) = Pid::from_raw(pid).filter(|pid| Some(pid.as_raw_nonzero().get()) != own) {
        kill_process(pid, signal).ok();
    }
}

/// Waits until no living process works in a folder any more.
///
/// # Panics
/// When some still do after half a minute.
pub async fn wait_until_none_in(folder: &Path) {
    let gone = async {
        while !working_in(folder).is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let ended = tokio::time::timeout(Duration::from_secs(30), gone).await;
    ended.unwrap_or_else(|_| panic!("still working in {}: {:?}", folder.display(), working_in(folder)));
}

/// Every process that lives; those that only wait to be reaped have no folder and no command.
fn all() -> impl Iterator<Item = i32> {
    let entries = std::fs::read_dir("/proc").expect("/proc is there").flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The kernel appends a note to the folder of a process when that was removed.
fn is_inside(cwd: &Path, folder: &Path) -> bool {
    let gone =
        cwd.as_os_str().as_bytes().strip_suffix(b" (deleted)").map(|path| Path::new(std::ffi::OsStr::from_bytes(path)));
    gone.unwrap_or(cwd).starts_with(folder)
}

/// The fourth field of `stat`, after the command's name in brackets, which may hold anything.
fn parent_of(pid: i32) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[tokio::test]
    async fn what_runs_in_a_folder_is_found_and_ended() {
        let folder = tempfile::tempdir().unwrap();
        let below = folder.path().join("bot");
        std::fs::create_dir(&below).unwrap();
        let mut child = Command::new("sleep").arg("600").current_dir(&below).stdin(Stdio::null()).spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        assert_eq!(working_in(folder.path()), HashSet::from([pid]));
        assert!(descendants_of(i32::try_from(std::process::id()).unwrap()).contains(&pid));
        std::fs::remove_dir(&below).unwrap();
        assert_eq!(working_in(folder.path()), HashSet::from([pid]), "its folder removed, it still works there");

        signal(pid, Signal::KILL);
        child.wait().unwrap();
        wait_until_none_in(folder.path()).await;
    }

    #[test]
    fn a_folder_beside_is_not_inside() {
        assert!(!is_inside(Path::new("/tmp/data-2"), Path::new("/tmp/data")));
        assert!(is_inside(Path::new("/tmp/data/bots/a"), Path::new("/tmp/data")));
    }
}
