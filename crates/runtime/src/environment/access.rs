//! Modes, free space and removal: the few things that an environment needs of the file system. Knows no package and
//! no child process.

use std::{
    fs::{self, Permissions},
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use super::PrepareError;

const OTHERS_READ: u32 = 0o004;
const OTHERS_PASS: u32 = 0o001;
const ANYBODY_WRITES: u32 = 0o222;

/// Free space at `folder` for us, in bytes.
pub(super) fn free_bytes(folder: &Path) -> io::Result<u64> {
    let space = rustix::fs::statvfs(folder)?;
    Ok(space.f_bavail.saturating_mul(space.f_frsize))
}

/// Fails when there is less than `needed` bytes free at `folder`.
pub(super) fn require_space(folder: &Path, needed: u64) -> Result<(), PrepareError> {
    let free = free_bytes(folder).map_err(|source| PrepareError::folder(folder, source))?;
    if free >= needed {
        return Ok(());
    }
    Err(disk_full(folder, needed))
}

/// The error for a disk that is too full, with what is free at this moment.
pub(super) fn disk_full(folder: &Path, needed: u64) -> PrepareError {
    PrepareError::DiskFull {
        folder: folder.to_path_buf(),
        free_mb: free_bytes(folder).unwrap_or(0) / 1_000_000,
        needed_mb: needed / 1_000_000,
    }
}

/// The first path on the way from the root to `path` (links resolved) that somebody else could not pass or read.
pub(super) fn closed_to_others(path: &Path) -> Option<PathBuf> {
    let Ok(real) = path.canonicalize() else {
        return Some(path.to_path_buf());
    };
    let mut way: Vec<&Path> = real.ancestors().collect();
    way.reverse();
    way.into_iter()
        .find(|step| {
            let Ok(metadata) = fs::metadata(step) else {
                return true;
            };
            let is_end = *step == real.as_path();
            let needed = if is_end { OTHERS_READ | OTHERS_PASS } else { OTHERS_PASS };
            metadata.permissions().mode() & needed != needed
        })
        .map(Path::to_path_buf)
}

/// Makes everything below `folder` readable by anybody and writable by nobody. `folder` itself stays writable by its
/// owner, who has a marker to put there.
///
/// The owner could undo it: this is no wall against a bot under the same uid, it keeps a stray `pip install` of one
/// tenant from changing the program of all.
pub(super) fn seal(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        if metadata.is_symlink() {
            continue;
        }
        if metadata.is_dir() {
            seal(&entry.path())?;
            fs::set_permissions(entry.path(), Permissions::from_mode(0o555))?;
            continue;
        }
        let runs = metadata.permissions().mode() & 0o100 != 0;
        fs::set_permissions(entry.path(), Permissions::from_mode(if runs { 0o555 } else { 0o444 }))?;
    }
    fs::set_permissions(folder, Permissions::from_mode(0o755))
}

/// Lets anybody pass and read a folder of ours in which nothing is secret. Where that is not allowed, the caller finds
/// out with [`closed_to_others`] when it matters.
pub(super) fn open(folder: &Path) {
    if let Ok(metadata) = fs::metadata(folder) {
        let mode = metadata.permissions().mode() & 0o7777 | OTHERS_READ | OTHERS_PASS;
        fs::set_permissions(folder, Permissions::from_mode(mode)).ok();
    }
}

/// Takes the owner's leave to write from `path` as well, once there is nothing more to put there.
pub(super) fn close(path: &Path) -> io::Result<()> {
    let mode = fs::metadata(path)?.permissions().mode();
    fs::set_permissions(path, Permissions::from_mode(mode & 0o7777 & !ANYBODY_WRITES))
}

/// Removes a folder and all in it, sealed or not. A folder that is not there is removed already.
pub(super) fn remove(folder: &Path) -> io::Result<()> {
    match fs::symlink_metadata(folder) {
        Ok(metadata) if metadata.is_dir() => {}
        Ok(_) => return fs::remove_file(folder),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    }
    fs::set_permissions(folder, Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove(&entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    fs::remove_dir(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_folder_is_open_to_readers_and_can_be_removed() {
        let parent = tempfile::tempdir().unwrap();
        fs::set_permissions(parent.path(), Permissions::from_mode(0o700)).unwrap();
        let folder = parent.path().join("environment");
        fs::create_dir_all(folder.join("bin")).unwrap();
        fs::write(folder.join("bin/tool"), "#!").unwrap();
        fs::set_permissions(folder.join("bin/tool"), Permissions::from_mode(0o700)).unwrap();
        fs::write(folder.join("data"), "x").unwrap();
        fs::set_permissions(folder.join("data"), Permissions::from_mode(0o600)).unwrap();
        std::os::unix::fs::symlink("/nowhere", folder.join("link")).unwrap();
        assert_eq!(closed_to_others(&folder.join("bin/tool")), Some(parent.path().canonicalize().unwrap()));

        open(parent.path());
        seal(&folder).unwrap();
        close(&folder).unwrap();

        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&folder), 0o555);
        assert_eq!(mode(&folder.join("bin")), 0o555);
        assert_eq!(mode(&folder.join("bin/tool")), 0o555);
        assert_eq!(mode(&folder.join("data")), 0o444);
        assert_eq!(closed_to_others(&folder.join("bin/tool")), None);

        remove(&folder).unwrap();
        assert!(!folder.exists());
        remove(&folder).unwrap();
    }

    #[test]
    fn a_private_folder_on_the_way_is_named() {
        let parent = tempfile::tempdir().unwrap();
        let inner = parent.path().join("open");
        fs::create_dir(&inner).unwrap();
        fs::set_permissions(&inner, Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(parent.path(), Permissions::from_mode(0o700)).unwrap();
        assert_eq!(closed_to_others(&inner), Some(parent.path().canonicalize().unwrap()));
        assert_eq!(closed_to_others(&inner.join("missing")), Some(inner.join("missing")));
    }

    #[test]
    fn too_little_space_says_how_much_is_needed() {
        let folder = tempfile::tempdir().unwrap();
        require_space(folder.path(), 1).unwrap();
        let error = require_space(folder.path(), u64::MAX).unwrap_err().to_string();
        assert!(error.contains("MB free") && error.contains("--data-dir"), "{error}");
    }
}
