//! Why an environment could not be prepared. A person reads these texts in a terminal: each says the cause and then
//! the next step. Nothing here knows how a preparation goes.

use std::{io, path::Path, path::PathBuf};

/// Every way in which preparing the environment, or looking at it, can fail.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PrepareError {
    /// No interpreter will do.
    #[error(
        "AstrBot needs Python 3.12 or newer, and there is none here.\n{found}\nInstall one: {install}\n\
         or name one with --python /path/to/python3.12"
    )]
    NoPython {
        /// What was tried and why it will not do, one a line.
        found: String,
        /// The line that installs one on this system.
        install: &'static str,
    },
    /// The interpreter that was asked for will not do.
    #[error(
        "--python {}: {reason}. Name an interpreter of version 3.12 or newer, or leave --python out so that one is \
         looked for", path.display()
    )]
    UnfitPython {
        /// As it was given.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Python cannot make the small environment that `uv` is installed into.
    #[error(
        "Python at {} has no working `venv` module, and `uv` is not on the PATH. On Debian or Ubuntu: \
         apt-get install -y python3-venv; elsewhere install uv (https://docs.astral.sh/uv/) and try again",
        python.display()
    )]
    NoVenv {
        /// The interpreter.
        python: PathBuf,
    },
    /// The package index did not answer.
    #[error(
        "{what} failed because the package index could not be reached. Check the network, or name a mirror with \
         UV_INDEX_URL (and PIP_INDEX_URL) or a proxy with HTTPS_PROXY, and try again: what is downloaded already is \
         kept.\n{output}"
    )]
    Network {
        /// The step.
        what: &'static str,
        /// The last lines of the installer.
        output: String,
    },
    /// Too little space, before or during the preparation.
    #[error(
        "{} has {free_mb} MB free and the bot runtime needs about {needed_mb} MB. Free some space there, or choose \
         another disk with --data-dir", folder.display()
    )]
    DiskFull {
        /// Where.
        folder: PathBuf,
        /// What is there, in 10^6 bytes.
        free_mb: u64,
        /// What is needed, in 10^6 bytes.
        needed_mb: u64,
    },
    /// A step failed for a reason of its own.
    #[error("{what} failed. The last lines that it wrote:\n{output}\nMend that and try again; what is done is kept")]
    Step {
        /// The step.
        what: &'static str,
        /// Its last lines.
        output: String,
    },
    /// A step did not end.
    #[error("{what} did not end within {limit_s} s. Check the network and the load of this machine and try again")]
    TooSlow {
        /// The step.
        what: &'static str,
        /// The limit, in seconds.
        limit_s: u64,
    },
    /// Another process works in the same folder and does not end.
    #[error(
        "another astrfleet has been preparing {} for more than {limit_s} s. Wait for it, or stop it, and try again",
        folder.display()
    )]
    Busy {
        /// The folder.
        folder: PathBuf,
        /// The limit, in seconds.
        limit_s: u64,
    },
    /// What was installed is not what was asked for.
    #[error(
        "AstrBot {expected} was asked for and {found} was installed. Check the override file and the package index \
         (UV_INDEX_URL, UV_OVERRIDE, UV_CONSTRAINT) and try again"
    )]
    WrongVersion {
        /// The pinned version.
        expected: String,
        /// What the installed program says.
        found: String,
    },
    /// A folder or file of ours cannot be read or written.
    #[error("cannot use {}: {source}. Check that it exists, whose it is and its mode", path.display())]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl PrepareError {
    pub(super) fn folder(path: &Path, source: io::Error) -> Self {
        Self::Folder { path: path.to_path_buf(), source }
    }
}
