//! A small disk in memory, which can be filled up. Mounting it takes the rights of root.

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
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={megabytes}m,mode=0755"), "tmpfs"])
            .arg(folder.path())
            .output()
            .unwrap();
        let why = String::from_utf8_lossy(&mount.stderr);
        assert!(mount.status.success(), "a disk can be mounted (run this as root): {why}");
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
        Command::new("umount").arg("-l").arg(self.folder.path()).status().ok();
    }
}
