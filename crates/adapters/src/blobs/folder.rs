//! Blobs in a folder of this machine. A reader must never see a part of a blob, not even after a loss of power: what
//! comes in is written beside, forced to the disk and renamed into its place.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{self, ErrorKind, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use astrfleet_core::{
    Error, Result,
    ports::{BlobStream, Blobs},
};
use futures_util::StreamExt as _;
use secrecy::SecretString;
use tokio::task::spawn_blocking;
use tokio_util::io::ReaderStream;

use super::key::{file_of, folder_of};

const WHAT: &str = "the storage of files";
const WHAT_FULL: &str = "the storage of files, whose disk is full,";
const READ_BYTES: usize = 64 * 1024;
/// How often a name is tried that somebody else takes or deletes at the same moment.
const TRIES_MAX: u32 = 16;

/// Stores below one folder: blobs in `kept`, and what is on its way in or out in `moving`.
pub struct FolderBlobs {
    kept: PathBuf,
    moving: PathBuf,
    counter: AtomicU64,
}

impl FolderBlobs {
    /// Opens `folder`, which is made if it is not there, and clears away what an earlier process left half-done.
    ///
    /// # Errors
    /// [`Error::Unavailable`] where the folder cannot be written.
    pub fn open(folder: &Path) -> Result<Self> {
        let opened = Self { kept: folder.join("kept"), moving: folder.join("moving"), counter: AtomicU64::new(0) };
        make_folder(&opened.kept).and_then(|()| make_folder(&opened.moving)).map_err(unavailable)?;
        clear(&opened.moving).map_err(unavailable)?;
        Ok(opened)
    }

    /// A new file in `moving`, locked for as long as it is open: what is not locked was left behind.
    fn begin(&self) -> io::Result<(Unfinished, File)> {
        for _ in 0..TRIES_MAX {
            let path = self.moving.join(self.name());
            match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
                Ok(file) => {
                    file.lock()?;
                    return Ok((Unfinished { path }, file));
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::other("no free name for a file on its way in"))
    }

    fn name(&self) -> String {
        format!("{}-{}", std::process::id(), self.counter.fetch_add(1, Ordering::Relaxed))
    }
}

#[async_trait::async_trait]
impl Blobs for FolderBlobs {
    async fn put(&self, key: &str, mut content: BlobStream, max_bytes: u64) -> Result<u64> {
        let path = file_of(&self.kept, key)?;
        let (unfinished, mut file) = self.begin().map_err(unavailable)?;
        let mut size = 0_u64;
        while let Some(piece) = content.next().await {
            let piece =
                piece.map_err(|_| Error::invalid("body", "it ended before all of it had come: send it again"))?;
            size += piece.len() as u64;
            if size > max_bytes {
                return Err(Error::TooLarge { what: "the file", limit_bytes: max_bytes });
            }
            file = blocking(move || file.write_all(&piece).map(|()| file)).await?;
        }
        blocking(move || {
            file.sync_all()?;
            unfinished.move_to(&path)
        })
        .await?;
        Ok(size)
    }

    async fn get(&self, key: &str) -> Result<BlobStream> {
        let path = file_of(&self.kept, key)?;
        match tokio::fs::File::open(&path).await {
            Ok(file) => Ok(ReaderStream::with_capacity(file, READ_BYTES).boxed()),
            Err(error) if is_absent(&error) => Err(Error::NotFound { what: "file" }),
            Err(error) => Err(unavailable(error)),
        }
    }

    async fn delete(&self, key: &str) -> Result<()> {
        let path = file_of(&self.kept, key)?;
        blocking(move || match std::fs::remove_file(&path) {
            Ok(()) => path.parent().map_or(Ok(()), sync_folder),
            Err(error) if is_absent(&error) => Ok(()),
            Err(error) => Err(error),
        })
        .await
    }

    async fn delete_all(&self, prefix: &str) -> Result<()> {
        let folder = folder_of(&self.kept, prefix)?;
        let aside = self.moving.join(self.name());
        blocking(move || {
            // Out of everybody's sight at once; a put at the same moment makes a new folder or none.
            match std::fs::rename(&folder, &aside) {
                Err(error) if is_absent(&error) => return Ok(()),
                moved => moved?,
            }
            folder.parent().map_or(Ok(()), sync_folder)?;
            std::fs::remove_dir_all(&aside)
        })
        .await
    }

    async fn presigned(&self, key: &str, _: &str, _: Duration) -> Result<Option<SecretString>> {
        file_of(&self.kept, key)?;
        Ok(None)
    }
}

/// A file in `moving`, which is gone when this is dropped.
struct Unfinished {
    path: PathBuf,
}

impl Unfinished {
    fn move_to(&self, path: &Path) -> io::Result<()> {
        let folder = path.parent().ok_or(ErrorKind::InvalidInput)?;
        for tried in 1.. {
            make_folder(folder)?;
            match std::fs::rename(&self.path, path) {
                // Somebody deleted the folder at this moment.
                Err(error) if is_absent(&error) && tried < TRIES_MAX => {}
                moved => {
                    moved?;
                    break;
                }
            }
        }
        sync_folder(folder)
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        match std::fs::remove_file(&self.path) {
            Err(error) if !is_absent(&error) => tracing::warn!(%error, "could not clear away a half-written file"),
            _ => {}
        }
    }
}

fn make_folder(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    // A new folder is durable when the one above it is.
    path.ancestors().skip(1).take_while(|above| !above.as_os_str().is_empty()).try_for_each(sync_folder)
}

fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn clear(moving: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(moving)? {
        let path = entry?.path();
        if path.is_dir() {
            std::fs::remove_dir_all(&path)?;
            continue;
        }
        match File::open(&path)?.try_lock() {
            Ok(()) => std::fs::remove_file(&path)?,
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
    Ok(())
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T> {
    spawn_blocking(work).await.map_err(Error::internal)?.map_err(unavailable)
}

fn unavailable(error: io::Error) -> Error {
    let full = matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded);
    Error::unavailable(if full { WHAT_FULL } else { WHAT }, error)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use astrfleet_core::ports::Blobs;
    use bytes::Bytes;
    use futures_util::{StreamExt as _, stream};

    use super::{FolderBlobs, unavailable};

    #[tokio::test]
    async fn leaves_nothing_behind_that_is_not_whole() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = FolderBlobs::open(folder.path()).unwrap();
        let broken = stream::iter([Ok(Bytes::from("half")), Err(std::io::Error::other("cut"))]).boxed();
        blobs.put("key", broken, 100).await.unwrap_err();
        assert_eq!(std::fs::read_dir(folder.path().join("moving")).unwrap().count(), 0);
        assert_eq!(std::fs::read_dir(folder.path().join("kept")).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn clears_away_what_a_killed_process_left_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = FolderBlobs::open(folder.path()).unwrap();
        std::fs::write(folder.path().join("moving/999999-0"), "half").unwrap();
        let (unfinished, mut file) = blobs.begin().unwrap();
        FolderBlobs::open(folder.path()).unwrap();
        assert!(!folder.path().join("moving/999999-0").exists());
        file.write_all(b"whole").unwrap();
        unfinished.move_to(&folder.path().join("kept/key~")).unwrap();
        assert_eq!(blobs.get("key").await.unwrap().next().await.unwrap().unwrap(), Bytes::from("whole"));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_called_one() {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap().write_all(b"x").unwrap_err();
        assert!(unavailable(full).to_string().contains("disk is full"));
    }
}
