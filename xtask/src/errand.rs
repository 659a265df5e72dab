//! Running other programs, and where things lie. Judges nothing.

use std::{
    ffi::OsString,
    fmt::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

/// The folders of this workspace and what cargo says about it.
pub struct Workspace {
    /// The checkout.
    pub root: PathBuf,
    /// Where cargo builds to.
    pub target: PathBuf,
    /// `cargo metadata --no-deps`: our own crates and what each asks for.
    pub metadata: serde_json::Value,
}

impl Workspace {
    /// Asks cargo.
    pub fn find() -> Result<Self> {
        let text = output(cargo().args(["metadata", "--format-version", "1", "--no-deps", "--offline"]))?;
        let metadata: serde_json::Value = serde_json::from_str(&text).context("cargo metadata is not JSON")?;
        let folder = |key: &str| {
            metadata[key].as_str().map(PathBuf::from).with_context(|| format!("cargo metadata says no {key}"))
        };
        Ok(Self { root: folder("workspace_root")?, target: folder("target_directory")?, metadata })
    }

    /// `cargo` in the root of the checkout.
    pub fn cargo(&self) -> Command {
        let mut command = cargo();
        command.current_dir(&self.root);
        command
    }

    /// The paths, below the root, of every file that git tracks or would track.
    pub fn files(&self) -> Result<Vec<PathBuf>> {
        let list = output(Command::new("git").current_dir(&self.root).args([
            "ls-files",
            "--cached",
            "--others",
            "--exclude-standard",
        ]))?;
        Ok(list.lines().map(PathBuf::from).filter(|path| self.root.join(path).is_file()).collect())
    }

    /// Where built tools are kept between checkouts: `$XDG_CACHE_HOME/astrfleet/tools`, or below the target folder.
    pub fn tools(&self) -> PathBuf {
        variable("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .or_else(|| variable("HOME").map(|home| Path::new(&home).join(".cache")))
            .map_or_else(|| self.target.join("tools"), |cache| cache.join("astrfleet").join("tools"))
    }
}

/// The cargo that runs us.
fn cargo() -> Command {
    Command::new(variable("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// A variable of the environment that is set and not empty.
pub fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// Runs to the end with the caller's output; anything but success is an error that names the command.
pub fn run(command: &mut Command) -> Result<()> {
    let line = spelled(command);
    println!("  $ {line}");
    let status = command.stdin(Stdio::null()).status().with_context(|| format!("cannot start `{line}`"))?;
    if !status.success() {
        bail!("`{line}` failed ({status})");
    }
    Ok(())
}

/// Runs to the end and gives what was printed; standard error goes through.
pub fn output(command: &mut Command) -> Result<String> {
    let line = spelled(command);
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start `{line}`"))?;
    if !output.status.success() {
        bail!("`{line}` failed ({})", output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{line}` printed something that is not UTF-8"))
}

/// Whether a program answers to `arguments` with success. Its output is not shown.
pub fn succeeds(program: impl AsRef<std::ffi::OsStr>, arguments: &[&str]) -> bool {
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// The command as one would type it, for messages.
pub fn spelled(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let mut line = program.file_name().unwrap_or(program.as_os_str()).to_string_lossy().into_owned();
    for argument in command.get_args() {
        let _ = write!(line, " {}", argument.to_string_lossy());
    }
    line
}

/// Does something and says how long it took.
pub fn timed<T>(what: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let done = what();
    (done, start.elapsed())
}
