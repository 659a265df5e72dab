//! The environment that every bot of this machine runs in: one Python, one pinned `AstrBot`, prepared once and then
//! only read. Nothing in here knows a tenant, starts a bot or reads the process environment: what it needs to know of
//! its surroundings comes in with [`Options`].
//!
//! An environment is complete when its `complete.json` is there, and that is the last thing written. Whatever ends a
//! preparation before (Ctrl-C, a full disk, a power cut) leaves a folder without it, which the next run makes anew;
//! what had been downloaded is kept until then.

mod access;
mod checks;
mod child;
mod error;
mod install;
mod lock;
mod machine;
mod marker;
mod python;
mod uv;

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use secrecy::SecretString;
use serde::Serialize;

pub use self::{
    checks::{Check, Status, checks},
    error::PrepareError,
};
use self::{lock::Lock, marker::Marker};

/// The `AstrBot` that this program is written for and tested with.
pub const ASTRBOT_VERSION: &str = "4.29.3";

/// What a bot needs of memory, in bytes: the highest resident size seen of one `AstrBot` at rest.
pub const BOT_MEMORY_BYTES: u64 = 275 * 1024 * 1024;

/// What a preparation writes at its peak: 760 MB of environment, the installer, and what is built from source.
const NEEDED_BYTES: u64 = 1_000_000_000;

/// What the caller knows and this module may not look up itself.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where environments live, for instance `<data-dir>/runtime`. Made when missing.
    pub folder: PathBuf,
    /// Use this interpreter and look for no other.
    pub python: Option<PathBuf>,
    /// Normally [`ASTRBOT_VERSION`].
    pub astrbot_version: String,
    /// A file of further `uv` overrides, one requirement a line, beside the one that `AstrBot` always needs.
    pub overrides: Option<PathBuf>,
    /// The search path for `python3`, `uv` and what they start.
    pub path: OsString,
    /// The home folder, for the versions that pyenv keeps in it.
    pub home: PathBuf,
    /// `PYENV_ROOT`, when it is not `<home>/.pyenv`.
    pub pyenv_root: Option<PathBuf>,
    /// The package index to use, if not the one that `uv` and pip find in their own configuration and environment.
    /// Secret, for it may hold a password.
    pub index_url: Option<SecretString>,
    /// How long one step (a download, an installation) and the wait for another preparation may take.
    pub step_limit: Duration,
}

impl Options {
    /// The pinned `AstrBot` in `folder`, with whatever Python there is.
    #[must_use]
    pub fn new(folder: impl Into<PathBuf>, path: impl Into<OsString>, home: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            python: None,
            astrbot_version: ASTRBOT_VERSION.to_owned(),
            overrides: None,
            path: path.into(),
            home: home.into(),
            pyenv_root: None,
            index_url: None,
            step_limit: Duration::from_mins(30),
        }
    }
}

/// What a preparation is doing now; made for a progress bar and for `--json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "step", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Progress {
    /// The environment was there already. Nothing else is reported.
    AlreadyPrepared,
    /// Another process prepares the same folder: this one waits for it, then looks again.
    WaitingForAnother,
    /// Interpreters are being tried.
    LookingForPython,
    /// This one will run the bots.
    FoundPython {
        /// The interpreter behind all links.
        path: PathBuf,
        /// For instance `3.12.1`.
        version: String,
    },
    /// `uv` is not on the search path: it is fetched for ourselves alone.
    InstallingUv,
    /// The empty environment is being made.
    CreatingEnvironment,
    /// Packages are being fetched and unpacked.
    InstallingPackages {
        /// How many are here.
        done: u64,
        /// How many there will be, as soon as that is known.
        total: Option<u64>,
    },
    /// Modules are being compiled to bytecode, which halves the time that a bot takes to start.
    Compiling {
        /// How many are compiled.
        done: u64,
        /// How many there are.
        total: u64,
    },
    /// The installed `AstrBot` is asked for its version.
    Verifying,
    /// Ready.
    Done {
        /// Since the call, in milliseconds.
        took_ms: u64,
    },
}

/// Where progress is told. Called often; must not block.
pub type Report<'a> = &'a (dyn Fn(Progress) + Send + Sync);

/// A prepared environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Environment {
    /// The folder of this environment. Never to be written to.
    pub folder: PathBuf,
    /// The interpreter inside.
    pub python: PathBuf,
    /// The program that is a bot: `astrbot run`.
    pub astrbot: PathBuf,
    /// The version of `AstrBot`.
    pub version: String,
    /// The version of Python, for instance `3.12.1`.
    pub python_version: String,
    base_executable: PathBuf,
    base_prefix: PathBuf,
}

impl Environment {
    /// The complete environment for these options, if there is one. Takes a millisecond: it believes the marker, and
    /// looks only whether the interpreter is still there.
    #[must_use]
    pub fn find(options: &Options) -> Option<Self> {
        let requirements = marker::requirements(options).ok()?;
        let prefix = marker::prefix(&options.astrbot_version);
        // The bots that get these paths run in folders of their own.
        let parent = options.folder.canonicalize().ok()?;
        let mut found: Vec<PathBuf> = std::fs::read_dir(parent)
            .ok()?
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
            .map(|entry| entry.path())
            .collect();
        found.sort();
        found.into_iter().find_map(|folder| {
            let marker = Marker::read(&folder)?;
            let fits = marker.requirements == requirements && marker.made_for(options.python.as_deref());
            if !fits {
                return None;
            }
            let environment = Self::from_marker(&folder, marker);
            // Both follow links: an interpreter that was removed since is noticed here.
            (environment.python.is_file() && environment.astrbot.is_file()).then_some(environment)
        })
    }

    /// Makes the environment unless it is there, reporting each step. Only one process at a time works in a folder:
    /// a second one waits for the first and then finds its result.
    ///
    /// Dropping the future kills every child process that it started.
    ///
    /// # Errors
    /// See [`PrepareError`]; each says what to do. After the remedy, simply call again.
    pub async fn prepare(options: &Options, report: Report<'_>) -> Result<Self, PrepareError> {
        let started = Instant::now();
        if let Some(environment) = Self::find(options) {
            report(Progress::AlreadyPrepared);
            return Ok(environment);
        }
        std::fs::create_dir_all(&options.folder).map_err(|source| PrepareError::folder(&options.folder, source))?;
        // Everything below is recorded in scripts and links, which must not depend on where we were started.
        let folder = options.folder.canonicalize().map_err(|source| PrepareError::folder(&options.folder, source))?;
        let options = &Options { folder, ..options.clone() };

        access::open(&options.folder);
        let lock = Lock::take(&options.folder, options.step_limit, report).await?;
        if let Some(environment) = Self::find(options) {
            report(Progress::AlreadyPrepared);
            return Ok(environment);
        }
        access::require_space(&options.folder, NEEDED_BYTES)?;

        report(Progress::LookingForPython);
        let python = python::find(options).await?;
        report(Progress::FoundPython { path: python.base_executable.clone(), version: python.version.to_string() });

        let uv = uv::get(options, &python, &lock, report).await?;
        let marker = install::install(options, &python, &uv, &lock, report).await?;
        let took_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::info!(
            astrbot = marker.astrbot_version,
            python = marker.python_version,
            folder = %options.folder.display(),
            took_ms,
            "the bot runtime environment is prepared"
        );
        report(Progress::Done { took_ms });
        Ok(Self::from_marker(&marker.folder_in(&options.folder), marker))
    }

    /// Whether a bot under a uid of its own could use this environment: every folder on the way to it and to the
    /// interpreter can be passed, and both can be read, by anybody.
    #[must_use]
    pub fn readable_by_others(&self) -> bool {
        self.closed_to_others().is_none()
    }

    /// The first path that stands in the way of [`Self::readable_by_others`], to be named in a message.
    #[must_use]
    pub fn closed_to_others(&self) -> Option<PathBuf> {
        [&self.folder, &self.astrbot, &self.base_executable, &self.base_prefix]
            .into_iter()
            .find_map(|path| access::closed_to_others(path))
    }

    /// Whether a bot really starts under this uid and gid: asks `astrbot --version` as that user, which takes a moment
    /// and needs the right to change users. Sees what mode bits do not tell, such as a library in a private folder.
    pub async fn runs_as(&self, uid: u32, gid: u32) -> bool {
        let mut command = tokio::process::Command::new(&self.astrbot);
        command.arg("--version").env_clear().current_dir("/").uid(uid).gid(gid);
        child::ask(command, Duration::from_mins(1)).await.is_ok_and(|answer| answer.ends_with(&self.version))
    }

    fn from_marker(folder: &Path, marker: Marker) -> Self {
        Self {
            folder: folder.to_path_buf(),
            python: folder.join("bin/python"),
            astrbot: folder.join("bin/astrbot"),
            version: marker.astrbot_version,
            python_version: marker.python_version,
            base_executable: marker.base_executable,
            base_prefix: marker.base_prefix,
        }
    }
}

#[cfg(test)]
mod tests;
