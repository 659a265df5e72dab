//! Where a bot's things are. Its root is the bot's own and never moves, since its database holds absolute paths. What
//! the platform keeps of it lies elsewhere, out of the bot's reach: nothing there can be a trap for us.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use astrfleet_core::id::InstanceId;
use serde::{Deserialize, Serialize};

use super::{limits::Groups, linux::Process};

/// Beside the bots' roots; no bot's id begins with a dot.
const STATES: &str = ".state";
const TRASH: &str = ".trash";

/// The places of one bot.
#[derive(Clone, Debug)]
pub(super) struct Places {
    /// The bot's root.
    pub root: PathBuf,
    /// The platform's folder for it.
    pub state: PathBuf,
}

/// A running bot, as the next run of the platform finds it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Record {
    #[serde(flatten)]
    pub process: Process,
    /// Of the machine: after another start of it, the process is gone whatever has its number.
    pub boot_id: String,
    pub generation: i64,
    pub port: u16,
    #[serde(default)]
    pub terms: String,
    /// To be removed with it.
    #[serde(default)]
    pub groups: Groups,
}

impl Places {
    pub(super) fn of(bots: &Path, instance: &InstanceId) -> Self {
        Self { root: bots.join(instance.as_str()), state: bots.join(STATES).join(instance.as_str()) }
    }

    /// What the bot's process writes to.
    pub(super) fn raw_log(&self) -> PathBuf {
        self.state.join("raw")
    }

    /// How far it was read.
    pub(super) fn raw_position(&self) -> PathBuf {
        self.state.join("raw.position")
    }

    /// The user that the bot runs as.
    pub(super) fn user(&self) -> PathBuf {
        self.state.join("user")
    }

    fn record(&self) -> PathBuf {
        self.state.join("process.json")
    }

    pub(super) fn make(&self) -> io::Result<()> {
        folder(&self.root)?;
        folder(&self.root.join("home"))?;
        folder(&self.root.join("tmp"))?;
        folder(&self.state)
    }

    pub(super) fn read_record(&self) -> Option<Record> {
        let content = fs::read(self.record()).ok()?;
        serde_json::from_slice(&content)
            .inspect_err(|error| {
                tracing::warn!(%error, path = %self.record().display(), "a bot's record is broken: it is looked for among the processes");
            })
            .ok()
    }

    pub(super) fn write_record(&self, record: &Record) -> io::Result<()> {
        write_whole(&self.record(), &serde_json::to_vec(record)?)
    }

    pub(super) fn remove_record(&self) -> io::Result<()> {
        match fs::remove_file(self.record()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Puts all of it out of use in an instant, and then erases it: interrupted, [`empty_trash`] goes on.
    pub(super) fn erase(&self, bots: &Path) -> io::Result<()> {
        folder(&bots.join(TRASH))?;
        for (place, kind) in [(&self.root, "root"), (&self.state, "state")] {
            let name = place.file_name().unwrap_or_default().to_string_lossy();
            let trash = bots.join(TRASH).join(format!("{name}.{kind}"));
            if trash.exists() {
                // From an erasure that was interrupted, of a bot whose data came back since.
                fs::remove_dir_all(&trash)?;
            }
            match fs::rename(place, &trash) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                renamed => renamed?,
            }
            fs::remove_dir_all(&trash)?;
        }
        Ok(())
    }
}

/// Erases what an interrupted erasure left.
pub(super) fn empty_trash(bots: &Path) -> io::Result<()> {
    match fs::read_dir(bots.join(TRASH)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        entries => entries?.flatten().try_for_each(|entry| fs::remove_dir_all(entry.path())),
    }
}

/// The bots of which the platform keeps something.
pub(super) fn known(bots: &Path) -> Vec<InstanceId> {
    let Ok(entries) = fs::read_dir(bots.join(STATES)) else { return Vec::new() };
    entries.flatten().filter_map(|entry| InstanceId::parse(entry.file_name().to_str()?).ok()).collect()
}

/// Makes a folder that is nobody else's, unless it is there.
pub(super) fn folder(path: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).recursive(true).create(path) {
        Err(error) if !fs::symlink_metadata(path).is_ok_and(|found| found.is_dir()) => Err(error),
        _ => Ok(()),
    }
}

/// A file that is always whole: the old one or the new one, also after a power cut.
pub(super) fn write_whole(path: &Path, content: &[u8]) -> io::Result<()> {
    let fresh = path.with_extension("new");
    let mut file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&fresh)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}
