//! The bridge: a plugin of ours in every bot, which asks the platform about each message of an IM channel before anything
//! else happens to it. It is placed while the bot is stopped; a file of it that was changed is replaced.
//!
//! Its text is in `bridge/` at the top of the repository, under a licence of its own. Nothing in here imports it: it is
//! carried along, and speaks to us over HTTP alone.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::OwnedFd,
    path::Path,
    sync::LazyLock,
};

use astrfleet_core::error::{Error, Result};
use aws_lc_rs::digest;
use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, fstat, fsync, mkdirat, open, openat, renameat, statat, unlinkat},
    io::Errno,
};

/// The plugin's own name, and its folder's.
pub const NAME: &str = "astrfleet_bridge";
/// The variable that carries its address.
pub const URL: &str = "ASTRFLEET_BRIDGE_URL";
/// The variable that carries its token.
pub const TOKEN: &str = "ASTRFLEET_BRIDGE_TOKEN";
/// The variable that says what it does while the platform is away.
pub const WHEN_AWAY: &str = "ASTRFLEET_BRIDGE_WHEN_AWAY";

/// What it consists of.
const FILES: [(&str, &str); 11] = [
    ("LICENSE", include_str!("../../../../bridge/LICENSE")),
    ("README.md", include_str!("../../../../bridge/README.md")),
    ("__init__.py", include_str!("../../../../bridge/__init__.py")),
    ("metadata.yaml", include_str!("../../../../bridge/metadata.yaml")),
    ("main.py", include_str!("../../../../bridge/main.py")),
    ("course.py", include_str!("../../../../bridge/course.py")),
    ("turns.py", include_str!("../../../../bridge/turns.py")),
    ("remembering.py", include_str!("../../../../bridge/remembering.py")),
    ("asking.py", include_str!("../../../../bridge/asking.py")),
    ("journal.py", include_str!("../../../../bridge/journal.py")),
    ("words.py", include_str!("../../../../bridge/words.py")),
];

/// Between the bot's root and the plugin's folder.
const FOLDERS: [&str; 3] = ["data", "plugins", NAME];
const FRESH: &str = ".new";

/// Stands for the text of all of it: a bot that runs with another one is not the one that is wanted.
#[must_use]
pub fn version() -> &'static str {
    static VERSION: LazyLock<String> = LazyLock::new(|| {
        let mut hash = digest::Context::new(&digest::SHA256);
        for (name, text) in FILES {
            hash.update(name.as_bytes());
            hash.update(&text.len().to_le_bytes());
            hash.update(text.as_bytes());
        }
        hash.finish().as_ref()[..8].iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
    });
    &VERSION
}

/// Places it in the bot's root. Blocks: it waits for the disk.
///
/// # Errors
/// [`Error::Unavailable`] where the folder cannot be written.
pub fn place(root: &Path) -> Result<()> {
    place_files(root).map_err(|error| {
        let path = root.display();
        Error::unavailable("the bot's folder", format!("{path}: {error}: see to its owner, its mode and free space"))
    })
}

fn place_files(root: &Path) -> io::Result<()> {
    let mut folder = open(root, folder_flags(), Mode::empty())?;
    for name in FOLDERS {
        folder = enter(&folder, name)?;
    }
    let mut changed = false;
    for (name, text) in FILES {
        if read(&folder, name)?.as_deref() != Some(text.as_bytes()) {
            replace(&folder, name, text.as_bytes())?;
            changed = true;
        }
    }
    if changed {
        fsync(&folder)?;
    }
    Ok(())
}

fn folder_flags() -> OFlags {
    OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC
}

/// The folder `name`, made where it is missing. What stands in its place is the bot's doing, and goes.
fn enter(folder: &OwnedFd, name: &str) -> io::Result<OwnedFd> {
    match mkdirat(folder, name, Mode::RWXU) {
        Ok(()) => {}
        Err(Errno::EXIST) => {
            if kind(folder, name)? != Some(FileType::Directory) {
                unlinkat(folder, name, AtFlags::empty())?;
                mkdirat(folder, name, Mode::RWXU)?;
            }
        }
        Err(error) => return Err(error.into()),
    }
    Ok(openat(folder, name, folder_flags(), Mode::empty())?)
}

fn kind(folder: &OwnedFd, name: &str) -> io::Result<Option<FileType>> {
    match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) => Ok(Some(FileType::from_raw_mode(found.st_mode))),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// A file as it is; nothing where there is none of ours.
fn read(folder: &OwnedFd, name: &str) -> io::Result<Option<Vec<u8>>> {
    const LARGER_THAN_ANY: u64 = 1 << 20;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match openat(folder, name, flags, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    if FileType::from_raw_mode(fstat(&file)?.st_mode) != FileType::RegularFile {
        return Ok(None);
    }
    let mut content = Vec::new();
    File::from(file).take(LARGER_THAN_ANY).read_to_end(&mut content)?;
    Ok(Some(content))
}

/// The file is always whole: the old one or the new one.
fn replace(folder: &OwnedFd, name: &str, content: &[u8]) -> io::Result<()> {
    clear(folder, FRESH)?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(openat(folder, FRESH, flags, Mode::RUSR | Mode::WUSR)?);
    file.write_all(content)?;
    file.sync_all()?;
    if kind(folder, name)? == Some(FileType::Directory) {
        // A file cannot take the place of a folder; an empty one can be removed, another one is named and left.
        unlinkat(folder, name, AtFlags::REMOVEDIR)?;
    }
    Ok(renameat(folder, FRESH, folder, name)?)
}

fn clear(folder: &OwnedFd, name: &str) -> io::Result<()> {
    match unlinkat(folder, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink, path::Path};

    use super::{FILES, NAME, place, version};

    #[test]
    fn it_is_placed_whole_and_a_changed_file_is_replaced() {
        let root = tempfile::tempdir().unwrap();
        place(root.path()).unwrap();
        let folder = root.path().join("data/plugins").join(NAME);
        let whole = || FILES.iter().all(|(name, text)| fs::read_to_string(folder.join(name)).unwrap() == *text);
        assert!(whole());
        let made = fs::metadata(folder.join("words.py")).unwrap().modified().unwrap();
        fs::write(folder.join("main.py"), "pass").unwrap();
        fs::remove_file(folder.join("journal.py")).unwrap();
        place(root.path()).unwrap();
        assert!(whole());
        assert_eq!(fs::metadata(folder.join("words.py")).unwrap().modified().unwrap(), made, "what is right stays");
    }

    #[test]
    fn no_link_leads_it_anywhere_else() {
        let (root, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir_all(root.path().join("data/plugins")).unwrap();
        symlink(elsewhere.path(), root.path().join("data/plugins").join(NAME)).unwrap();
        place(root.path()).unwrap();
        let target = elsewhere.path().join("target");
        fs::write(&target, "theirs").unwrap();
        let main = root.path().join("data/plugins").join(NAME).join("main.py");
        fs::remove_file(&main).unwrap();
        symlink(&target, &main).unwrap();
        place(root.path()).unwrap();
        assert_eq!(fs::read_to_string(&target).unwrap(), "theirs");
        assert!(!fs::symlink_metadata(&main).unwrap().is_symlink());
        assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 1);
    }

    #[test]
    fn its_files_name_their_licence_and_its_version_its_text() {
        assert_eq!(version().len(), 16);
        let is_python = |name: &str| Path::new(name).extension().is_some_and(|extension| extension == "py");
        for (name, text) in FILES.iter().filter(|(name, _)| is_python(name)) {
            assert!(text.starts_with("# SPDX-License-Identifier: AGPL-3.0-or-later\n"), "{name}");
        }
        let metadata = FILES.iter().find(|(name, _)| *name == "metadata.yaml").unwrap().1;
        assert!(metadata.contains(&format!("name: {NAME}\n")));
    }
}
