//! Making the environment: create, install, compile, verify, seal, and the marker last. Assumes the lock, a working
//! interpreter and a working `uv`; whatever an interrupted preparation left is replaced.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    NEEDED_BYTES, Options, PrepareError, Progress, Report, access,
    child::{self, Event},
    lock::Lock,
    marker::{self, Marker},
    python::Python,
    uv::Uv,
};

const VERIFY_LIMIT: Duration = Duration::from_mins(2);
/// More compilers than this only wait for the disk.
const COMPILERS_MAX: usize = 4;

const README: &str = "Made by astrfleet: what every bot of this machine runs. Whatever is here can be removed while astrfleet\n\
                      is stopped, and is made again by the next `astrfleet up`. It is read-only on purpose:\n\
                      chmod -R u+w . before you remove it.\n";

/// Makes the environment and gives the marker that it now has.
pub(super) async fn install(
    options: &Options,
    python: &Python,
    uv: &Uv,
    lock: &Lock,
    report: Report<'_>,
) -> Result<Marker, PrepareError> {
    let marker = Marker {
        requirements: marker::requirements(options)?,
        astrbot_version: options.astrbot_version.clone(),
        python_version: python.version.to_string(),
        base_executable: python.base_executable.clone(),
        base_prefix: python.base_prefix.clone(),
        asked_for: options.python.clone(),
        uv_version: uv.version.clone(),
    };
    let readme = options.folder.join("README.txt");
    fs::write(&readme, README).map_err(|source| PrepareError::folder(&readme, source))?;
    let folder = marker.folder_in(&options.folder);
    let step = Step { options, uv, lock, report, folder: &folder };
    step.create(python).await?;
    step.install_packages().await?;
    step.compile().await?;
    step.verify().await?;

    let (cache, written, target) = (step.cache(), marker.clone(), folder.clone());
    blocking(&folder, lock, move || {
        access::seal(&target)?;
        // Files of the environment may be links into the cache, which keep what they link to.
        access::remove(&cache)?;
        flush(&target)?;
        written.write(&target)?;
        access::close(&target)
    })
    .await?;
    Ok(marker)
}

struct Step<'a> {
    options: &'a Options,
    uv: &'a Uv,
    lock: &'a Lock,
    report: Report<'a>,
    folder: &'a Path,
}

impl Step<'_> {
    /// Downloads are kept here until the environment is complete: on the same file system, so that nothing is stored
    /// twice, and our own, so that sealing the environment changes nobody else's files.
    fn cache(&self) -> PathBuf {
        self.options.folder.join("cache")
    }

    fn uv(&self) -> tokio::process::Command {
        let mut command = child::command(&self.uv.program, self.options);
        command.arg("--cache-dir").arg(self.cache()).arg("--no-progress");
        command
    }

    async fn run(
        &self,
        what: &'static str,
        command: tokio::process::Command,
        heard: &mut (dyn FnMut(Event<'_>) + Send),
    ) -> Result<(), PrepareError> {
        child::step(what, command, self.lock, self.options.step_limit, heard).await?.require_success(
            what,
            self.folder,
            NEEDED_BYTES,
        )
    }

    async fn create(&self, python: &Python) -> Result<(), PrepareError> {
        (self.report)(Progress::CreatingEnvironment);
        let remains = self.folder.to_path_buf();
        blocking(self.folder, self.lock, move || access::remove(&remains)).await?;
        let mut command = self.uv();
        command.arg("venv").arg("--python").arg(&python.base_executable).arg(self.folder);
        self.run("making the environment", command, &mut |_| {}).await
    }

    async fn install_packages(&self) -> Result<(), PrepareError> {
        let overrides = self.options.folder.join("override.txt");
        fs::write(&overrides, marker::overrides(self.options)?)
            .map_err(|source| PrepareError::folder(&overrides, source))?;
        let mut command = self.uv();
        command
            .args(["pip", "install", "--link-mode", if cfg!(target_os = "macos") { "clone" } else { "hardlink" }])
            .arg("--python")
            .arg(self.folder.join("bin/python"))
            .arg("--override")
            .arg(&overrides)
            .arg(format!("astrbot=={}", self.options.astrbot_version));
        // uv unpacks each package into a folder of this name; where another uv does not, only the end is seen.
        let unpacked = self.cache().join("archive-v0");
        let mut total = None;
        let mut told = None;
        let mut tell = |done: u64, total: Option<u64>| {
            if told != Some((done, total)) {
                told = Some((done, total));
                (self.report)(Progress::InstallingPackages { done, total });
            }
        };
        let mut heard = |event: Event<'_>| match event {
            Event::Line(line) => {
                if let Some(count) = counted("Resolved ", line) {
                    total = Some(count);
                } else if let Some(count) = counted("Installed ", line) {
                    tell(count, Some(count));
                }
            }
            Event::Tick => {
                let entries = fs::read_dir(&unpacked).map_or(0, |entries| entries.count() as u64);
                tell(total.map_or(entries, |total| entries.min(total)), total);
            }
        };
        self.run("installing AstrBot", command, &mut heard).await
    }

    /// `uv` leaves this out, and a bot that compiles its program at each start needs twice the time.
    async fn compile(&self) -> Result<(), PrepareError> {
        let what = "compiling AstrBot to bytecode";
        let folder = self.folder.join("lib");
        let counted = folder.clone();
        let total = blocking(&folder, self.lock, move || sources(&counted)).await?;
        (self.report)(Progress::Compiling { done: 0, total });
        let compilers = std::thread::available_parallelism().map_or(1, usize::from).min(COMPILERS_MAX);
        let mut command = child::command(self.folder.join("bin/python"), self.options);
        // Unchecked: nobody edits these files, and a copy of the environment with other times stays compiled.
        command
            .args(["-m", "compileall", "--invalidation-mode", "unchecked-hash", "-j"])
            .arg(compilers.to_string())
            .arg(&folder);
        let mut done = 0;
        let mut told = 0;
        let mut heard = |event: Event<'_>| match event {
            Event::Line(line) => done += u64::from(line.starts_with("Compiling ")),
            // A word each hundredth is enough.
            Event::Tick if done > told + total / 100 => {
                told = done;
                (self.report)(Progress::Compiling { done: done.min(total), total });
            }
            Event::Tick => {}
        };
        let finished = child::step(what, command, self.lock, self.options.step_limit, &mut heard).await?;
        if !finished.status.success() {
            // Some packages carry templates and old code that no Python 3 can compile; nobody imports those.
            access::require_space(&self.options.folder, NEEDED_BYTES / 100)?;
            tracing::warn!(tail = finished.tail, "not every module of the bot environment could be compiled");
        }
        (self.report)(Progress::Compiling { done: total, total });
        Ok(())
    }

    async fn verify(&self) -> Result<(), PrepareError> {
        (self.report)(Progress::Verifying);
        let mut command = child::command(self.folder.join("bin/astrbot"), self.options);
        command.arg("--version");
        let answer = child::ask(command, VERIFY_LIMIT)
            .await
            .map_err(|output| PrepareError::Step { what: "asking the installed AstrBot for its version", output })?;
        let found = answer.split_whitespace().next_back().unwrap_or_default();
        if found == self.options.astrbot_version {
            return Ok(());
        }
        Err(PrepareError::WrongVersion { expected: self.options.astrbot_version.clone(), found: found.to_owned() })
    }
}

/// Runs file work outside the async threads. It keeps the lock even if nobody waits for it any more.
pub(super) async fn blocking<T: Send + 'static>(
    path: &Path,
    lock: &Lock,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, PrepareError> {
    let lock = lock.clone();
    let done = tokio::task::spawn_blocking(move || {
        let result = work();
        drop(lock);
        result
    });
    match done.await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) if error.kind() == io::ErrorKind::StorageFull => Err(access::disk_full(path, NEEDED_BYTES)),
        Ok(Err(error)) => Err(PrepareError::folder(path, error)),
        Err(panicked) => Err(PrepareError::folder(path, io::Error::other(panicked))),
    }
}

/// What a marker vouches for must survive a power cut if the marker does.
fn flush(folder: &Path) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    rustix::fs::syncfs(fs::File::open(folder)?)?;
    #[cfg(not(target_os = "linux"))]
    fs::File::open(folder)?.sync_all()?;
    Ok(())
}

/// How many Python sources there are below `folder`.
fn sources(folder: &Path) -> io::Result<u64> {
    let mut count = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            count += sources(&entry.path())?;
        } else {
            count += u64::from(entry.path().extension().is_some_and(|extension| extension == "py"));
        }
    }
    Ok(count)
}

/// The number in a line of `uv` such as `Resolved 151 packages in 2.26s`.
fn counted(verb: &str, line: &str) -> Option<u64> {
    line.strip_prefix(verb)?.split_once(" package")?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counts_of_uv_are_read() {
        assert_eq!(counted("Resolved ", "Resolved 151 packages in 2.26s"), Some(151));
        assert_eq!(counted("Installed ", "Installed 1 package in 3ms"), Some(1));
        assert_eq!(counted("Installed ", "Resolved 151 packages in 2.26s"), None);
        assert_eq!(counted("Resolved ", "Resolved many things"), None);
    }
}
