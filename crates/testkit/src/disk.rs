//! A small disk in memory, which can be filled up. Mounting it takes the rights of root: by `sudo` where it asks nothing.

use std::{fs::File, io::Write as _, path::Path, process::Command};

/// Unmounted when dropped.
pub struct SmallDisk {
    folder: tempfile::TempDir,
}

impl SmallDisk {
    /// Mounts one of so many megabytes.
    ///
    /// # Panics
    /// When that is not allowed.
    #[must_use]
    pub fn mount(megabytes: u32) -> Self {
        let folder = tempfile::Builder::new().prefix("astrfleet-disk-").tempdir().unwrap();
        let (user, group) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let options = format!("size={megabytes}m,mode=0755,uid={user},gid={group}");
        let mut mount = as_root("mount");
        mount.args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(folder.path());
        let said = mount.output().map_or_else(
            |error| error.to_string(),
            |mounted| {
                if mounted.status.success() {
                    String::new()
                } else {
                    String::from_utf8_lossy(&mounted.stderr).into_owned()
                }
            },
        );
        assert!(
            said.is_empty(),
            "a full disk is tried on one of its own, which only root may mount: run this as root, or let `sudo -n mount` \
             and `sudo -n umount` go without a password ({said})"
        );
        Self { folder }
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Takes all the room that is left.
    ///
    /// # Panics
    /// When nothing can be made there at all.
    pub fn fill(&self) {
        let mut file = File::create(self.folder.path().join("ballast")).unwrap();
        for size in [65_536, 4_096] {
            while file.write_all(&vec![0; size]).is_ok() {}
        }
    }

    /// Gives it back.
    pub fn empty(&self) {
        std::fs::remove_file(self.folder.path().join("ballast")).ok();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // A process that still writes there keeps it until it ends.
        as_root("umount").arg("-l").arg(self.folder.path()).status().ok();
    }
}

fn as_root(program: &str) -> Command {
    if rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.args(["-n", program]);
    command
}
