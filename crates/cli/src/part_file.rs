//! A file that a command writes: it is there when all of it is. Until then it lies beside, as `NAME.part`, and goes when the
//! command fails or is interrupted; what one that was killed left there is in nobody's way.

use std::{
    fs::{File, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};

/// A file of which a part is written.
pub struct PartFile {
    file: File,
    part: PathBuf,
    target: PathBuf,
}

impl PartFile {
    /// Begins to write `target`, for its owner's eyes only.
    ///
    /// # Errors
    /// Where it is there already, another command writes it, or it cannot be made.
    pub fn begin(target: &Path) -> Result<Self> {
        must_be_free(target)?;
        let mut name = target.file_name().with_context(|| format!("{} is no file", target.display()))?.to_owned();
        name.push(".part");
        let part = target.with_file_name(name);
        let opened = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&part);
        let file = opened.with_context(|| format!("{} cannot be made", part.display()))?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            bail!("another command writes {}", target.display());
        }
        let begun = Self { file, part, target: target.to_owned() };
        begun.file.set_len(0).with_context(|| format!("{} cannot be written", begun.part.display()))?;
        Ok(begun)
    }

    /// All of it is written.
    ///
    /// # Errors
    /// Where it cannot be kept, or somebody else has made such a file meanwhile.
    pub fn finish(self) -> Result<()> {
        must_be_free(&self.target)?;
        self.file.sync_all().with_context(|| format!("{} cannot be written", self.part.display()))?;
        std::fs::rename(&self.part, &self.target).with_context(|| format!("{} cannot be made", self.target.display()))
    }
}

impl Write for PartFile {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

impl Drop for PartFile {
    fn drop(&mut self) {
        // After `finish` there is none.
        std::fs::remove_file(&self.part).ok();
    }
}

fn must_be_free(target: &Path) -> Result<()> {
    if target.symlink_metadata().is_ok() {
        bail!("{} is there already: name another file, or remove it first", target.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::PartFile;

    #[test]
    fn a_file_is_there_when_all_of_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let (target, part) = (folder.path().join("a.csv"), folder.path().join("a.csv.part"));
        // What was left by one that was killed.
        std::fs::write(&part, "half of an earlier try, and long").unwrap();
        let mut file = PartFile::begin(&target).unwrap();
        file.write_all(b"whole").unwrap();
        assert!(PartFile::begin(&target).is_err(), "two at once");
        assert!(!target.exists());
        file.finish().unwrap();
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "whole");
        assert!(!part.exists());
        assert!(PartFile::begin(&target).is_err(), "it is there");
    }

    #[test]
    fn what_was_given_up_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("a.csv");
        drop(PartFile::begin(&target).unwrap());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        PartFile::begin(&target).unwrap();
    }
}
