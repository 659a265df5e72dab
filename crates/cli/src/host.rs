//! What this machine gives: the time, randomness, and a data folder that only one of us uses at a time where the database
//! is in it.

use std::{
    fs::{DirBuilder, File, OpenOptions},
    io::{Read, Seek, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::LazyLock,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use astrfleet_core::{
    ports::{Clock, Rng},
    time::Timestamp,
};
use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
    rand::{GetRandomFlags, getrandom},
};
use secrecy::{ExposeSecret, SecretString};

/// The machine's clock.
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the clock that everything else is handed")]
    fn now(&self) -> Timestamp {
        let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Timestamp::from_micros(i64::try_from(since_1970.as_micros()).unwrap_or(i64::MAX))
    }

    fn elapsed(&self) -> Duration {
        static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
        BEGAN.elapsed()
    }
}

/// The kernel's randomness.
pub struct SystemRng;

impl Rng for SystemRng {
    fn fill(&self, bytes: &mut [u8]) {
        let mut filled = 0;
        while filled < bytes.len() {
            // Blocks only before the kernel's pool is ready, at boot; a signal may cut a call short.
            filled += getrandom(&mut bytes[filled..], GetRandomFlags::empty()).unwrap_or(0);
        }
    }
}

/// A secret that nobody can guess: 256 bits in hex.
pub fn random_secret(rng: &dyn Rng) -> SecretString {
    let mut bytes = [0; 32];
    rng.fill(&mut bytes);
    bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}")).into()
}

/// The data folder, ours alone while this lives, unless it is shared.
pub struct DataFolder {
    path: PathBuf,
    _lock: Option<File>,
}

impl DataFolder {
    /// Makes it where there is none, for its owner's eyes only, and takes it.
    ///
    /// # Errors
    /// Where it cannot be made, or another process has it: the text says which and what to do.
    pub fn take(path: &Path) -> Result<Self> {
        make_data_folder(path)?;
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path.join("lock"))
            .with_context(|| {
                format!("the data folder {} cannot be written to: choose another with --data-dir", path.display())
            })?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let mut holder = String::new();
                lock.read_to_string(&mut holder).ok();
                bail!(
                    "another astrfleet (process {}) uses the data folder {}: stop it, or choose another folder with --data-dir",
                    holder.trim(),
                    path.display()
                );
            }
            Err(error) => return Err(error).context("the data folder cannot be locked"),
        }
        lock.set_len(0)?;
        lock.rewind()?;
        writeln!(lock, "{}", std::process::id())?;
        Ok(Self { path: path.to_owned(), _lock: Some(lock) })
    }

    /// Makes it where there is none, for several processes whose database is elsewhere: whatever they share in it can
    /// be shared.
    ///
    /// # Errors
    /// Where it cannot be made.
    pub fn share(path: &Path) -> Result<Self> {
        make_data_folder(path)?;
        Ok(Self { path: path.to_owned(), _lock: None })
    }

    /// Something in it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The secret kept in the file `name`, made at the first call.
    ///
    /// # Errors
    /// Where it cannot be read or written.
    pub fn secret(&self, name: &str, rng: &dyn Rng) -> Result<SecretString> {
        let path = self.join(name);
        match std::fs::read_to_string(&path) {
            Ok(text) if !text.trim().is_empty() => Ok(text.trim().to_owned().into()),
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("{} cannot be read", path.display()))
            }
            _ => {
                let secret = random_secret(rng);
                write_private(&path, secret.expose_secret())?;
                Ok(secret)
            }
        }
    }
}

/// Makes the data folder where there is none.
///
/// # Errors
/// Where it cannot be made.
pub fn make_data_folder(path: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        // Bots under user ids of their own pass through it; what is secret in it is closed by itself.
        .mode(0o711)
        .create(path)
        .with_context(|| format!("the data folder {} cannot be made: choose another with --data-dir", path.display()))
}

/// Writes a file that only its owner can read: all of it or nothing.
///
/// # Errors
/// Where it cannot be written.
pub fn write_private(path: &Path, text: &str) -> Result<()> {
    let write = || -> std::io::Result<()> {
        let temporary = path.with_extension("new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    };
    write().with_context(|| format!("{} cannot be written", path.display()))
}
