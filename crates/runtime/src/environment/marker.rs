//! The names of environments and the file that says that one is complete. Knows nothing of how it came to be.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};

use super::{Options, PrepareError};

/// Raised when the way of preparing changes so much that what an older program prepared must be made anew.
const FORMAT: u32 = 1;
const NAME: &str = "complete.json";
const READ_LIMIT: u64 = 64 * 1024;

/// `AstrBot` 4.29.3 asks for a certifi newer than some package indexes have; any of this year's will do.
const OWN_OVERRIDES: &str = "certifi>=2026.1.4\n";

/// What is known of a complete environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Marker {
    /// Hash of what was asked for, see [`requirements`].
    pub requirements: String,
    /// The installed version.
    pub astrbot_version: String,
    /// Of the interpreter, as it was at the time.
    pub python_version: String,
    /// The interpreter behind all links.
    pub base_executable: PathBuf,
    /// Where its standard library is.
    pub base_prefix: PathBuf,
    /// The interpreter that was asked for by name, which may be a link or a wrapper script.
    pub asked_for: Option<PathBuf>,
    /// What installed it.
    pub uv_version: String,
}

impl Marker {
    /// The marker in `folder`; none when it is missing, too large or not ours.
    pub(super) fn read(folder: &Path) -> Option<Self> {
        let mut text = String::new();
        File::open(folder.join(NAME)).ok()?.take(READ_LIMIT).read_to_string(&mut text).ok()?;
        serde_json::from_str(&text).ok()
    }

    /// Writes the marker so that it is either there in full or not at all.
    pub(super) fn write(&self, folder: &Path) -> io::Result<()> {
        let new = folder.join(format!("{NAME}.new"));
        let mut file = File::create(&new)?;
        file.write_all(&serde_json::to_vec_pretty(self)?)?;
        file.sync_all()?;
        fs::rename(&new, folder.join(NAME))?;
        File::open(folder)?.sync_all()
    }

    /// Where an environment with this marker belongs.
    pub(super) fn folder_in(&self, parent: &Path) -> PathBuf {
        let inputs = [&self.requirements, &self.python_version, &*self.base_executable.to_string_lossy()].join("\n");
        parent.join(format!("{}{}", prefix(&self.astrbot_version), &hash(&inputs)[..12]))
    }

    /// Whether this environment serves somebody who asked for the interpreter `python`, or for none by name.
    pub(super) fn made_for(&self, python: Option<&Path>) -> bool {
        let Some(python) = python else {
            return true;
        };
        self.asked_for.as_deref() == Some(python)
            || python.canonicalize().is_ok_and(|real| real == self.base_executable)
    }
}

/// What the name of every environment with this `AstrBot` begins with.
pub(super) fn prefix(astrbot_version: &str) -> String {
    format!("astrbot-{astrbot_version}-")
}

/// The text of the override file for these options.
pub(super) fn overrides(options: &Options) -> Result<String, PrepareError> {
    let Some(path) = &options.overrides else {
        return Ok(OWN_OVERRIDES.to_owned());
    };
    let mut more = String::new();
    File::open(path)
        .and_then(|file| file.take(READ_LIMIT).read_to_string(&mut more))
        .map_err(|source| PrepareError::folder(path, source))?;
    // The later line does not win in uv, it contradicts: who names certifi means it.
    if more.lines().any(|line| line.trim_start().to_ascii_lowercase().starts_with("certifi")) {
        return Ok(more);
    }
    Ok(format!("{OWN_OVERRIDES}{more}"))
}

/// A hash of everything that decides which packages are installed, apart from the interpreter.
pub(super) fn requirements(options: &Options) -> Result<String, PrepareError> {
    Ok(hash(&format!("{FORMAT}\n{}\n{}", options.astrbot_version, overrides(options)?)))
}

fn hash(text: &str) -> String {
    let digest = digest::digest(&digest::SHA256, text.as_bytes());
    digest.as_ref().iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marker() -> Marker {
        Marker {
            requirements: "abc".into(),
            astrbot_version: "4.29.3".into(),
            python_version: "3.12.1".into(),
            base_executable: "/opt/python/bin/python3.12".into(),
            base_prefix: "/opt/python".into(),
            asked_for: None,
            uv_version: "0.13.9".into(),
        }
    }

    #[test]
    fn a_marker_comes_back_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Marker::read(folder.path()), None);
        marker().write(folder.path()).unwrap();
        assert_eq!(Marker::read(folder.path()), Some(marker()));
    }

    #[test]
    fn half_a_marker_is_none() {
        let folder = tempfile::tempdir().unwrap();
        marker().write(folder.path()).unwrap();
        let path = folder.path().join(NAME);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, &text[..text.len() / 2]).unwrap();
        assert_eq!(Marker::read(folder.path()), None);
    }

    #[test]
    fn the_name_follows_every_input() {
        let parent = Path::new("/data");
        let name = marker().folder_in(parent);
        assert!(name.to_string_lossy().starts_with("/data/astrbot-4.29.3-"), "{}", name.display());
        assert_eq!(name, marker().folder_in(parent));
        let other_python = Marker { python_version: "3.13.0".into(), ..marker() };
        let other_place = Marker { base_executable: "/usr/bin/python3.12".into(), ..marker() };
        let other_packages = Marker { requirements: "abd".into(), ..marker() };
        for other in [other_python, other_place, other_packages] {
            assert_ne!(other.folder_in(parent), name);
        }
    }

    #[test]
    fn requirements_follow_the_version_and_the_overrides() {
        let folder = tempfile::tempdir().unwrap();
        let options = Options::new(folder.path(), "", "/");
        let plain = requirements(&options).unwrap();
        assert_eq!(plain, requirements(&options).unwrap());
        let newer = Options { astrbot_version: "4.29.4".into(), ..options.clone() };
        assert_ne!(plain, requirements(&newer).unwrap());

        let file = folder.path().join("more.txt");
        fs::write(&file, "numpy<3\n").unwrap();
        let more = Options { overrides: Some(file.clone()), ..options };
        assert_eq!(overrides(&more).unwrap(), "certifi>=2026.1.4\nnumpy<3\n");
        assert_ne!(plain, requirements(&more).unwrap());
        fs::write(&file, "certifi==2026.2.2\n").unwrap();
        assert_eq!(overrides(&more).unwrap(), "certifi==2026.2.2\n");
        fs::remove_file(&file).unwrap();
        assert!(overrides(&more).unwrap_err().to_string().contains("more.txt"));
    }

    #[test]
    fn an_interpreter_asked_for_must_be_the_one() {
        let asked = Marker { asked_for: Some("/usr/bin/python".into()), ..marker() };
        assert!(asked.made_for(None));
        assert!(asked.made_for(Some(Path::new("/usr/bin/python"))));
        assert!(!asked.made_for(Some(Path::new("/opt/other/python"))));
    }
}
