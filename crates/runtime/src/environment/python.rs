//! Finding the interpreter that will run every bot. Tries, in this order: the one that was asked for (and then no
//! other), the search path, the versions of pyenv, and what `uv` knows. Installs nothing.

use std::{
    cmp::Reverse,
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::fs::Access;
use serde::Deserialize;

use super::{Options, PrepareError, access, child};

const OLDEST: Version = Version { major: 3, minor: 12, patch: 0 };
/// `AstrBot` was seen running on these; a newer one may lack packages that are built for it.
const TESTED_MINORS: [u32; 2] = [12, 13];
const NAMES: [&str; 6] = ["python3.12", "python3.13", "python3.14", "python3.15", "python3", "python"];
const ANSWER_LIMIT: Duration = Duration::from_secs(20);
/// A search path may be of any length.
const CANDIDATES_MAX: usize = 40;

/// Understood by Python 2 as well, so that an old one can be named as too old.
const QUESTION: &str = r#"
import json, os, sys
def has(*names):
    try:
        for name in names: __import__(name)
        return True
    except Exception:
        return False
base = getattr(sys, "_base_executable", None) or sys.executable
print(json.dumps({"version": "%d.%d.%d" % tuple(sys.version_info[:3]), "executable": os.path.realpath(base),
    "prefix": os.path.realpath(getattr(sys, "base_prefix", sys.prefix)), "venv": has("venv", "ensurepip")}))
"#;

/// `3.12.1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version {
    pub major: u32,
    pub minor: u32,
    pub patch: u32,
}

impl Version {
    /// Reads `3.12.1`, `3.12` and `3.13.0rc1`, the last as `3.13.0`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.trim().split('.').map(|part| {
            let digits = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
            part[..digits].parse().ok()
        });
        let major = parts.next()??;
        let minor = parts.next()??;
        Some(Self { major, minor, patch: parts.next().flatten().unwrap_or(0) })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// An interpreter that answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Python {
    pub version: Version,
    /// Behind all links, wrappers and virtual environments.
    pub base_executable: PathBuf,
    pub base_prefix: PathBuf,
    /// Whether it can make a virtual environment with pip in it.
    pub has_venv: bool,
}

/// The best interpreter for these options.
pub(super) async fn find(options: &Options) -> Result<Python, PrepareError> {
    if let Some(path) = &options.python {
        return fit(path, options).await.map_err(|reason| PrepareError::UnfitPython { path: path.clone(), reason });
    }
    let runs_as_root = rustix::process::geteuid().is_root();
    let mut fitting: Vec<Python> = Vec::new();
    let mut unfit = Vec::new();
    for candidate in candidates(options).await {
        match fit(&candidate, options).await {
            Ok(python) if rank(&python, runs_as_root) == BEST => return Ok(python),
            Ok(python) => fitting.push(python),
            Err(reason) => unfit.push(format!("  {}: {reason}", candidate.display())),
        }
    }
    best(fitting, runs_as_root).ok_or_else(|| PrepareError::NoPython {
        found: if unfit.is_empty() { "  no python3 on the PATH, none of pyenv".to_owned() } else { unfit.join("\n") },
        install: install_line(executable("uv", options).is_some()),
    })
}

/// Executable files of this name on the search path, the first one first.
pub(super) fn executables<'a>(name: &'a str, options: &'a Options) -> impl Iterator<Item = PathBuf> + 'a {
    std::env::split_paths(&options.path)
        .filter(|folder| folder.is_absolute())
        .map(move |folder| folder.join(name))
        .filter(|file| file.is_file() && rustix::fs::access(file, Access::EXEC_OK).is_ok())
}

/// The first of [`executables`].
pub(super) fn executable(name: &str, options: &Options) -> Option<PathBuf> {
    executables(name, options).next()
}

async fn candidates(options: &Options) -> Vec<PathBuf> {
    let mut candidates: Vec<PathBuf> = NAMES.iter().flat_map(|name| executables(name, options)).collect();
    let pyenv = options.pyenv_root.clone().unwrap_or_else(|| options.home.join(".pyenv"));
    candidates.extend(of_pyenv(&pyenv));
    if let Some(uv) = executable("uv", options) {
        let mut question = child::command(uv, options);
        question.args(["python", "find", ">=3.12"]).env("UV_PYTHON_DOWNLOADS", "never");
        candidates.extend(child::ask(question, ANSWER_LIMIT).await.ok().map(PathBuf::from));
    }
    let mut seen = std::collections::HashSet::new();
    candidates.retain(|candidate| seen.insert(candidate.canonicalize().unwrap_or_else(|_| candidate.clone())));
    candidates.truncate(CANDIDATES_MAX);
    candidates
}

/// The interpreters of pyenv, the newest last: the oldest that will do is the best tested.
fn of_pyenv(root: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(root.join("versions")) else {
        return Vec::new();
    };
    let mut versions: Vec<(Option<Version>, PathBuf)> = entries
        .flatten()
        .map(|entry| (Version::parse(&entry.file_name().to_string_lossy()), entry.path().join("bin/python")))
        // A name that is no version, such as one of an environment made with pyenv, may be anything.
        .filter(|(version, python)| version.is_none_or(|version| version >= OLDEST) && python.is_file())
        .collect();
    versions.sort();
    versions.into_iter().map(|(_, python)| python).collect()
}

async fn fit(path: &Path, options: &Options) -> Result<Python, String> {
    let mut question = child::command(path, options);
    question.args(["-E", "-s", "-c", QUESTION]);
    let python = read_answer(&child::ask(question, ANSWER_LIMIT).await?)?;
    if python.version < OLDEST {
        return Err(format!("it is Python {}, older than {}.{}", python.version, OLDEST.major, OLDEST.minor));
    }
    Ok(python)
}

fn read_answer(text: &str) -> Result<Python, String> {
    #[derive(Deserialize)]
    struct Answer {
        version: String,
        executable: PathBuf,
        prefix: PathBuf,
        venv: bool,
    }
    let answer: Answer = serde_json::from_str(text).map_err(|_| "it does not answer like Python".to_owned())?;
    let version = Version::parse(&answer.version).ok_or("it does not tell its version")?;
    Ok(Python { version, base_executable: answer.executable, base_prefix: answer.prefix, has_venv: answer.venv })
}

/// Tested before untested; then, where bots can have a uid of their own, what that uid could read.
type Rank = (bool, bool);
const BEST: Rank = (true, true);

fn rank(python: &Python, runs_as_root: bool) -> Rank {
    let tested = python.version.major == 3 && TESTED_MINORS.contains(&python.version.minor);
    let open =
        [&python.base_executable, &python.base_prefix].into_iter().all(|path| access::closed_to_others(path).is_none());
    (tested, open || !runs_as_root)
}

/// The highest rank; among equals the one that was found first.
fn best(fitting: Vec<Python>, runs_as_root: bool) -> Option<Python> {
    fitting.into_iter().min_by_key(|python| Reverse(rank(python, runs_as_root)))
}

fn install_line(has_uv: bool) -> &'static str {
    match (has_uv, cfg!(target_os = "macos")) {
        (true, _) => "uv python install 3.12",
        (false, true) => "brew install python@3.12",
        (false, false) => {
            "apt-get install -y python3 python3-venv   (Debian 13, Ubuntu 24.04 and newer); on older ones install uv \
             (https://docs.astral.sh/uv/), then: uv python install 3.12"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn python(version: &str, executable: &str) -> Python {
        Python {
            version: Version::parse(version).unwrap(),
            base_executable: executable.into(),
            base_prefix: "/".into(),
            has_venv: true,
        }
    }

    #[test]
    fn versions_are_read_and_compared_as_numbers() {
        assert_eq!(Version::parse("3.12.1\n").unwrap().to_string(), "3.12.1");
        assert_eq!(Version::parse("3.13").unwrap().to_string(), "3.13.0");
        assert_eq!(Version::parse("3.14.0rc2").unwrap().to_string(), "3.14.0");
        assert!(Version::parse("3.9.18").unwrap() < OLDEST);
        assert!(Version::parse("3.12.0").unwrap() >= OLDEST);
        for wrong in ["", "3", "venv", "miniconda3-3.12", "x.y.z"] {
            assert_eq!(Version::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_tested_version_is_better_than_a_newer_one_and_the_first_of_equals_wins() {
        let found = vec![python("3.15.0", "/bin/a"), python("3.13.2", "/bin/b"), python("3.12.1", "/bin/c")];
        assert_eq!(best(found, false).unwrap().base_executable, Path::new("/bin/b"));
        assert_eq!(best(vec![python("3.14.0", "/bin/a")], false).unwrap().base_executable, Path::new("/bin/a"));
        assert_eq!(best(Vec::new(), false), None);
    }

    #[test]
    fn for_root_an_interpreter_that_others_can_read_is_better() {
        let found = vec![python("3.12.1", "/nowhere/python3.12"), python("3.13.0", "/bin/sh")];
        assert_eq!(best(found.clone(), true).unwrap().base_executable, Path::new("/bin/sh"));
        assert_eq!(best(found, false).unwrap().base_executable, Path::new("/nowhere/python3.12"));
    }

    #[test]
    fn an_answer_is_read_and_nonsense_refused() {
        let text = r#"{"version":"3.12.1","executable":"/opt/p/bin/python3.12","prefix":"/opt/p","venv":false}"#;
        let python = read_answer(text).unwrap();
        assert_eq!((python.version.to_string().as_str(), python.has_venv), ("3.12.1", false));
        assert!(read_answer("hello").unwrap_err().contains("does not answer like Python"));
    }

    #[test]
    fn old_versions_of_pyenv_are_not_even_tried() {
        let root = tempfile::tempdir().unwrap();
        for version in ["3.9.18", "3.13.0", "3.12.1", "bots"] {
            let bin = root.path().join("versions").join(version).join("bin");
            std::fs::create_dir_all(&bin).unwrap();
            std::fs::write(bin.join("python"), "").unwrap();
        }
        let names: Vec<String> = of_pyenv(root.path())
            .iter()
            .map(|path| path.components().rev().nth(2).unwrap().as_os_str().to_string_lossy().into_owned())
            .collect();
        assert_eq!(names, ["bots", "3.12.1", "3.13.0"]);
        assert!(of_pyenv(&root.path().join("missing")).is_empty());
    }
}
