//! Getting `uv`, which installs packages: the one on the search path, or one of our own, installed beside the
//! environments with pip. Nothing is installed outside the folder of the preparation.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    NEEDED_BYTES, Options, PrepareError, Progress, Report, access, child,
    install::blocking,
    lock::Lock,
    python::{self, Python, Version},
};

/// Fetched when there is none.
const PINNED: &str = "0.13.9";
/// Older ones lack options that are used here.
const OLDEST: Version = Version { major: 0, minor: 5, patch: 0 };
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// A working `uv`.
#[derive(Debug, Clone)]
pub(super) struct Uv {
    pub program: PathBuf,
    pub version: String,
}

/// A `uv` that is here already, on the search path or from an earlier preparation.
pub(super) async fn present(options: &Options) -> Option<Uv> {
    if let Some(program) = python::executable("uv", options)
        && let Some(uv) = working(&program, options).await
    {
        return Some(uv);
    }
    working(&folder(options).join("bin/uv"), options).await
}

/// A working `uv`, installed if need be.
pub(super) async fn get(
    options: &Options,
    python: &Python,
    lock: &Lock,
    report: Report<'_>,
) -> Result<Uv, PrepareError> {
    if let Some(uv) = present(options).await {
        return Ok(uv);
    }
    if !python.has_venv {
        return Err(PrepareError::NoVenv { python: python.base_executable.clone() });
    }
    report(Progress::InstallingUv);
    let folder = folder(options);
    let what = "making a private environment for uv";
    let remains = folder.clone();
    blocking(&folder, lock, move || access::remove(&remains)).await?;
    let mut venv = child::command(&python.base_executable, options);
    venv.args(["-m", "venv"]).arg(&folder);
    child::step(what, venv, lock, options.step_limit, &mut |_| {}).await?.require_success(
        what,
        &options.folder,
        NEEDED_BYTES,
    )?;

    let what = "installing uv";
    let mut pip = child::command(folder.join("bin/python"), options);
    // pip's own patience is minutes with a network that drops everything.
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries", "2", "--timeout", "20"])
        .arg(format!("uv=={PINNED}"));
    child::step(what, pip, lock, options.step_limit, &mut |_| {}).await?.require_success(
        what,
        &options.folder,
        NEEDED_BYTES,
    )?;
    working(&folder.join("bin/uv"), options).await.ok_or_else(|| PrepareError::Step {
        what,
        output: format!("  {} does not run", folder.join("bin/uv").display()),
    })
}

fn folder(options: &Options) -> PathBuf {
    options.folder.join(format!("uv-{PINNED}"))
}

async fn working(program: &Path, options: &Options) -> Option<Uv> {
    if !program.is_file() {
        return None;
    }
    let mut question = child::command(program, options);
    question.arg("--version");
    let answer = child::ask(question, ANSWER_LIMIT).await.ok()?;
    let version = read_version(&answer)?;
    Some(Uv { program: program.to_path_buf(), version })
}

/// `uv 0.13.9 (x86_64-unknown-linux-gnu)`, if it is new enough.
fn read_version(answer: &str) -> Option<String> {
    let version = Version::parse(answer.strip_prefix("uv ")?.split_whitespace().next()?)?;
    (version >= OLDEST).then(|| version.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_or_strange_uv_is_not_used() {
        assert_eq!(read_version("uv 0.13.9 (x86_64-unknown-linux-gnu)").as_deref(), Some("0.13.9"));
        assert_eq!(read_version("uv 0.5.0").as_deref(), Some("0.5.0"));
        for unfit in ["uv 0.4.30", "pip 24.0", "", "uv"] {
            assert_eq!(read_version(unfit), None, "{unfit}");
        }
    }
}
