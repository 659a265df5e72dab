//! The binary run by hand, for journeys that end before anything is up, or need no bot.

use std::{
    path::Path,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use astrfleet_testkit::{binary::built_binary, parts::runtime_dir, processes::signal};
use rustix::process::Signal;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    time::timeout,
};

/// How long a start, a refusal or an end may take on a busy machine.
const PATIENCE: Duration = Duration::from_mins(2);

/// `astrfleet up --json` on a data folder.
pub struct Up {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

/// How it ended.
pub struct Ended {
    /// Its exit code.
    pub status: ExitStatus,
    /// The rest of its events.
    pub events: Vec<Value>,
    /// What it said on standard error.
    pub words: String,
}

impl Up {
    /// Starts it with further arguments. It has no settings but these.
    pub fn begin(data_dir: &Path, arguments: &[&str]) -> Self {
        let mut command = Command::new(built_binary());
        command.env_clear().env("HOME", data_dir).env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("ASTRFLEET__GATEWAY__METRICS_LISTEN", "127.0.0.1:0");
        command.args(["up", "--json", "--data-dir"]).arg(data_dir).arg("--runtime-dir").arg(runtime_dir());
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// Its next event of this name.
    ///
    /// # Panics
    /// When it ends without one.
    pub async fn event(&mut self, name: &str) -> Value {
        let find = async {
            while let Some(line) = self.lines.next_line().await.unwrap() {
                let event: Value = serde_json::from_str(&line).unwrap();
                if event["event"] == name {
                    return Some(event);
                }
            }
            None
        };
        if let Some(event) = timeout(PATIENCE, find).await.unwrap() {
            return event;
        }
        let mut words = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut words).await.unwrap();
        panic!("it ended without the event {name}: {words}");
    }

    /// Presses Ctrl-C and waits for the end.
    pub async fn interrupt(self) -> Ended {
        signal(i32::try_from(self.child.id().unwrap()).unwrap(), Signal::INT);
        self.end().await
    }

    /// Waits for the end.
    pub async fn end(mut self) -> Ended {
        let mut stderr = self.child.stderr.take().unwrap();
        let mut words = String::new();
        let events = async {
            let mut events = Vec::new();
            while let Some(line) = self.lines.next_line().await.unwrap() {
                events.push(serde_json::from_str(&line).unwrap());
            }
            events
        };
        let all = async { tokio::join!(self.child.wait(), events, stderr.read_to_string(&mut words)) };
        let (status, events, _) = timeout(PATIENCE, all).await.unwrap();
        Ended { status: status.unwrap(), events, words }
    }
}

/// Runs `up` to where it refuses to start, and gives what it says.
pub async fn refusal(data_dir: &Path, arguments: &[&str]) -> String {
    let ended = Up::begin(data_dir, arguments).end().await;
    assert_eq!(ended.status.code(), Some(1), "it does not start: {}", ended.words);
    let line = ended.words.lines().last().unwrap_or_default();
    let said: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("an error as JSON: {}", ended.words));
    assert_eq!(said["event"], "error", "{said}");
    said["error"].as_str().unwrap().to_owned()
}
