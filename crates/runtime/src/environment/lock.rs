//! One preparation at a time in a folder, also between processes.

use std::{
    fs::{File, OpenOptions},
    io,
    path::Path,
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::fs::{FlockOperation, flock};

use super::{PrepareError, Progress, Report};

const POLL: Duration = Duration::from_millis(200);

/// Held while an environment is changed. Every child process of a preparation has it as its standard input, and every
/// blocking task a clone: the next preparation cannot begin while something of a killed one is still at work.
#[derive(Debug, Clone)]
pub(super) struct Lock(Arc<File>);

impl Lock {
    /// Waits until nobody else holds the lock of `folder`, and says so.
    pub(super) async fn take(folder: &Path, limit: Duration, report: Report<'_>) -> Result<Self, PrepareError> {
        let path = folder.join("lock");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|source| PrepareError::folder(&path, source))?;
        let started = Instant::now();
        let mut told = false;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Self(Arc::new(file))),
                Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) => {}
                Err(error) => return Err(PrepareError::folder(&path, error.into())),
            }
            if !told {
                report(Progress::WaitingForAnother);
                told = true;
            }
            if started.elapsed() > limit {
                return Err(PrepareError::Busy { folder: folder.to_path_buf(), limit_s: limit.as_secs() });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// The lock as the standard input of a child: an empty file, and held for as long as the child lives.
    pub(super) fn as_stdin(&self) -> io::Result<Stdio> {
        self.0.try_clone().map(Stdio::from)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[tokio::test]
    async fn the_second_waits_for_the_first_and_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let first = Lock::take(folder.path(), Duration::from_secs(1), &|_| {}).await.unwrap();
        let told = Mutex::new(Vec::new());
        let report = |progress| told.lock().unwrap().push(progress);

        let busy = Lock::take(folder.path(), Duration::ZERO, &report).await.unwrap_err();
        assert!(matches!(busy, PrepareError::Busy { .. }), "{busy}");
        assert_eq!(*told.lock().unwrap(), [Progress::WaitingForAnother]);

        drop(first);
        Lock::take(folder.path(), Duration::ZERO, &|_| {}).await.unwrap();
    }

    #[tokio::test]
    async fn a_child_keeps_the_lock_after_its_parent_let_go() {
        let folder = tempfile::tempdir().unwrap();
        let lock = Lock::take(folder.path(), Duration::ZERO, &|_| {}).await.unwrap();
        let mut child = std::process::Command::new("sleep").arg("600").stdin(lock.as_stdin().unwrap()).spawn().unwrap();
        drop(lock);
        let busy = Lock::take(folder.path(), Duration::ZERO, &|_| {}).await;
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(matches!(busy, Err(PrepareError::Busy { .. })));
        Lock::take(folder.path(), Duration::ZERO, &|_| {}).await.unwrap();
    }
}
