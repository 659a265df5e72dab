//! Somebody at a shell on a machine of their own, who runs `astrfleet` as people and scripts do.

use std::{fmt::Write as _, path::Path, process::Stdio, time::Duration};

use rustix::process::{Pid, Signal, kill_process};
use secrecy::ExposeSecret;
use serde_json::Value;
use tokio::{
    io::AsyncWriteExt,
    process::{Child, Command},
};

use crate::app::{Caller, TestApp};

/// A hang is a failure, not a wait for ever.
const PATIENCE: Duration = Duration::from_mins(2);

/// What a command did.
#[derive(Debug)]
pub struct Ran {
    /// How it ended; -1 where a signal ended it.
    pub code: i32,
    /// What it printed.
    pub out: String,
    /// What it said beside that.
    pub err: String,
}

impl Ran {
    /// What it printed, as JSON.
    ///
    /// # Panics
    /// When it failed, or that is none.
    #[must_use]
    pub fn json(&self, what: &str) -> Value {
        assert_eq!(self.code, 0, "{what}: {}", self.err);
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{what}: {error}: {}", self.out))
    }
}

/// The shell.
pub struct Shell {
    /// All that was typed and printed by [`Shell::show`].
    pub transcript: String,
    program: String,
    home: tempfile::TempDir,
    variables: Vec<(String, String)>,
}

impl Shell {
    /// On a machine where nothing was ever done. `program` is the binary.
    #[must_use]
    pub fn alone(program: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        Self { transcript: String::new(), program: program.to_owned(), home, variables: Vec::new() }
    }

    /// Which uses this platform, as somebody.
    pub async fn at(program: &str, app: &TestApp, caller: &Caller) -> Self {
        let credential = caller.credential.as_ref().unwrap().expose_secret().to_owned();
        Self::alone(program).with("ASTRFLEET_URL", &app.serve().await).with("ASTRFLEET_API_KEY", &credential)
    }

    /// With a variable in the environment.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.variables.retain(|(known, _)| known != name);
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The home folder, where commands also run.
    #[must_use]
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// The environment as it is here, for another program.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("HOME", self.home()).env("PATH", "/usr/bin:/bin").current_dir(self.home());
        // Root's would be the machine's own.
        command.env("ASTRFLEET__DATA__DIR", self.home().join("data"));
        command.envs(self.variables.iter().cloned()).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Starts a command and does not wait for it.
    #[must_use]
    pub fn start(&self, words: &[&str]) -> Child {
        self.command(&self.program).args(words).spawn().unwrap()
    }

    /// Runs a command as it stands, with `input` as what is typed.
    pub async fn run_with(&self, words: &[&str], input: &str) -> Ran {
        let mut child = self.start(words);
        child.stdin.take().unwrap().write_all(input.as_bytes()).await.ok();
        ended(child, &words.join(" ")).await
    }

    /// Runs a command.
    pub async fn run(&self, line: &str) -> Ran {
        self.run_with(&line.split(' ').collect::<Vec<_>>(), "").await
    }

    /// Runs a command and notes what it printed.
    pub async fn show(&mut self, line: &str) -> Ran {
        self.show_with(line, "").await
    }

    /// The same, with `input` as what is typed.
    pub async fn show_with(&mut self, line: &str, input: &str) -> Ran {
        let ran = self.run_with(&line.split(' ').collect::<Vec<_>>(), input).await;
        let code = if ran.code == 0 { String::new() } else { format!("[exit code {}]\n", ran.code) };
        let _ = writeln!(self.transcript, "$ astrfleet {line}");
        for line in ran.out.lines().chain(ran.err.lines()) {
            let _ = writeln!(self.transcript, "{}", line.trim_end());
        }
        let _ = writeln!(self.transcript, "{code}");
        ran
    }
}

/// How a command ended that was started.
pub async fn ended(child: Child, what: &str) -> Ran {
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await;
    let output = output.unwrap_or_else(|_| panic!("astrfleet {what} did not end")).unwrap();
    Ran {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Presses Ctrl-C.
pub fn interrupt(child: &Child) {
    let pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed())).expect("it runs");
    kill_process(pid, Signal::INT).unwrap();
}
