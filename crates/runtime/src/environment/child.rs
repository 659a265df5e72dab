//! Child processes of a preparation: started in a group of their own, listened to line by line, and gone, with all
//! that they started, when nobody waits for them any more. Knows neither Python nor `uv`.

use std::{
    ffi::OsStr,
    io,
    path::Path,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use secrecy::ExposeSecret;
use tokio::{io::AsyncReadExt, process::Command, time::MissedTickBehavior};

use super::{Options, PrepareError, lock::Lock};

/// The last lines that are kept for an error text.
const TAIL_LINES: usize = 12;
/// Longer lines are cut.
const LINE_BYTES_MAX: usize = 1000;
const TICK: Duration = Duration::from_millis(250);

/// Set by people and tools for other programs; each would change what Python or `uv` do for us.
const FOREIGN_VARIABLES: [&str; 10] = [
    "PYTHONDONTWRITEBYTECODE",
    "PYTHONHOME",
    "PYTHONPATH",
    "PYTHONPYCACHEPREFIX",
    "PYTHONSTARTUP",
    "PYTHONOPTIMIZE",
    "VIRTUAL_ENV",
    "CONDA_PREFIX",
    "UV_COMPILE_BYTECODE",
    "UV_LINK_MODE",
];

/// What a child is doing.
pub(super) enum Event<'a> {
    /// It wrote a line to either of its outputs.
    Line(&'a str),
    /// Some time has passed: look at what it did, tell how far it is.
    Tick,
}

/// How a child ended.
pub(super) struct Finished {
    pub status: ExitStatus,
    /// The last lines of both outputs.
    pub tail: String,
}

impl Finished {
    /// Nothing, or the error for a step that failed, by what the child wrote last.
    pub(super) fn require_success(self, what: &'static str, folder: &Path, needed: u64) -> Result<(), PrepareError> {
        if self.status.success() {
            return Ok(());
        }
        Err(match cause(&self.tail) {
            Cause::Disk => super::access::disk_full(folder, needed),
            Cause::Network => PrepareError::Network { what, output: self.tail },
            Cause::Other if self.tail.is_empty() => PrepareError::Step { what, output: self.status.to_string() },
            Cause::Other => PrepareError::Step { what, output: self.tail },
        })
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Cause {
    Disk,
    Network,
    Other,
}

/// Reads the cause from the last words of `uv`, pip or Python.
fn cause(tail: &str) -> Cause {
    const DISK: [&str; 3] = ["No space left on device", "os error 28)", "Disk quota exceeded"];
    const NETWORK: [&str; 9] = [
        "error sending request",
        "Failed to fetch",
        "dns error",
        "tcp connect error",
        "operation timed out",
        "NewConnectionError",
        "ConnectTimeoutError",
        "ProxyError",
        "(from versions: none)",
    ];
    let has = |words: &[&str]| words.iter().any(|word| tail.contains(word));
    if has(&DISK) {
        Cause::Disk
    } else if has(&NETWORK) {
        Cause::Network
    } else {
        Cause::Other
    }
}

/// A command with the environment that Python and `uv` are to have, in the folder of the preparation.
pub(super) fn command(program: impl AsRef<OsStr>, options: &Options) -> Command {
    let mut command = Command::new(program);
    command.env("PATH", &options.path).env("HOME", &options.home).env("PYTHONUNBUFFERED", "1").env("NO_COLOR", "1");
    for variable in FOREIGN_VARIABLES {
        command.env_remove(variable);
    }
    if let Some(index) = &options.index_url {
        // Not as an argument, which everybody on this machine could read.
        command.env("UV_DEFAULT_INDEX", index.expose_secret()).env("PIP_INDEX_URL", index.expose_secret());
    }
    if options.folder.is_dir() {
        command.current_dir(&options.folder);
    }
    command
}

/// Runs a step of a preparation to its end. It holds the lock for as long as it lives.
pub(super) async fn step(
    what: &'static str,
    mut command: Command,
    lock: &Lock,
    limit: Duration,
    heard: &mut (dyn FnMut(Event<'_>) + Send),
) -> Result<Finished, PrepareError> {
    let failed = |error: io::Error| PrepareError::Step { what, output: error.to_string() };
    command.stdin(lock.as_stdin().map_err(failed)?);
    match tokio::time::timeout(limit, run(command, heard)).await {
        Ok(finished) => finished.map_err(failed),
        Err(_) => Err(PrepareError::TooSlow { what, limit_s: limit.as_secs() }),
    }
}

/// Runs a short command that only answers a question, and gives what it wrote. None when it cannot be started, fails
/// or takes longer than `limit`.
pub(super) async fn ask(mut command: Command, limit: Duration) -> Result<String, String> {
    command.stdin(Stdio::null());
    let mut last = String::new();
    let mut heard = |event: Event<'_>| {
        if let Event::Line(line) = event {
            line.clone_into(&mut last);
        }
    };
    let finished = tokio::time::timeout(limit, run(command, &mut heard))
        .await
        .map_err(|_| format!("did not answer within {} s", limit.as_secs()))?
        .map_err(|error| format!("does not start: {error}"))?;
    if finished.status.success() { Ok(last) } else { Err(format!("does not work: {last}")) }
}

async fn run(mut command: Command, heard: &mut (dyn FnMut(Event<'_>) + Send)) -> io::Result<Finished> {
    let mut child =
        command.process_group(0).kill_on_drop(true).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut group = Group(child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw));
    let (Some(mut stdout), Some(mut stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(io::Error::other("the child has no outputs"));
    };
    let mut lines = [Lines::default(), Lines::default()];
    let mut tail = Tail::default();
    let mut hear = |event: Event<'_>| {
        if let Event::Line(line) = event {
            tail.add(line);
        }
        heard(event);
    };
    let (mut from_stdout, mut from_stderr) = (vec![0; 8192], vec![0; 8192]);
    let mut open = [true, true];
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while open[0] || open[1] {
        tokio::select! {
            read = stdout.read(&mut from_stdout), if open[0] => {
                let read = read?;
                lines[0].push(&from_stdout[..read], &mut |line| hear(Event::Line(line)));
                open[0] = read > 0;
            }
            read = stderr.read(&mut from_stderr), if open[1] => {
                let read = read?;
                lines[1].push(&from_stderr[..read], &mut |line| hear(Event::Line(line)));
                open[1] = read > 0;
            }
            _ = ticks.tick() => hear(Event::Tick),
        }
    }
    let status = child.wait().await?;
    group.0 = None;
    Ok(Finished { status, tail: tail.text() })
}

/// Kills what is left of a process group when the one who waits is gone.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0 {
            // It may have ended in this moment: then there is nothing to do.
            kill_process_group(leader, Signal::KILL).ok();
        }
    }
}

/// Cuts a stream of bytes into lines of a bounded length. The end of the stream, an empty read, ends the last line.
#[derive(Default)]
struct Lines(Vec<u8>);

impl Lines {
    fn push(&mut self, bytes: &[u8], heard: &mut dyn FnMut(&str)) {
        if bytes.is_empty() {
            self.end(heard);
        }
        for &byte in bytes {
            match byte {
                b'\n' | b'\r' => self.end(heard),
                _ if self.0.len() < LINE_BYTES_MAX => self.0.push(byte),
                _ => {}
            }
        }
    }

    fn end(&mut self, heard: &mut dyn FnMut(&str)) {
        if !self.0.is_empty() {
            heard(&String::from_utf8_lossy(&self.0));
            self.0.clear();
        }
    }
}

#[derive(Default)]
struct Tail(std::collections::VecDeque<String>);

impl Tail {
    fn add(&mut self, line: &str) {
        if self.0.len() == TAIL_LINES {
            self.0.pop_front();
        }
        self.0.push_back(format!("  {line}"));
    }

    fn text(self) -> String {
        Vec::from(self.0).join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn lines_are_cut_and_bounded() {
        let mut heard = Vec::new();
        let mut lines = Lines::default();
        let mut hear = |line: &str| heard.push(line.to_owned());
        lines.push(b"one\ntw", &mut hear);
        lines.push(b"o\r\n\n", &mut hear);
        lines.push(&[b'x'; 5000], &mut hear);
        lines.push(b"", &mut hear);
        assert_eq!(heard, ["one".to_owned(), "two".to_owned(), "x".repeat(LINE_BYTES_MAX)]);
    }

    #[test]
    fn the_last_words_tell_the_cause() {
        for (words, expected) in [
            ("  cause: error sending request for url (https://pypi.org/simple/astrbot/)", Cause::Network),
            (
                "ERROR: Could not find a version that satisfies the requirement uv==1 (from versions: none)",
                Cause::Network,
            ),
            ("error: Failed to download `numpy`\n  cause: No space left on device (os error 28)", Cause::Disk),
            ("error: No solution found when resolving dependencies", Cause::Other),
        ] {
            assert_eq!(cause(words), expected, "{words}");
        }
    }

    #[tokio::test]
    async fn both_outputs_are_heard_and_the_end_is_told() {
        let mut heard = Vec::new();
        let mut hear = |event: Event<'_>| {
            if let Event::Line(line) = event {
                heard.push(line.to_owned());
            }
        };
        let finished = run(shell("echo out; echo err >&2; printf end; exit 3"), &mut hear).await.unwrap();
        heard.sort();
        assert_eq!(heard, ["end", "err", "out"]);
        assert_eq!(finished.status.code(), Some(3));
        assert!(finished.tail.contains("  err"));
    }

    #[tokio::test]
    async fn dropping_the_wait_kills_the_children_of_the_child_too() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("alive");
        // The file is the standard output of a grandchild: it can be locked as soon as that one is gone.
        let script = format!("exec 3<>{0}; flock -n 3; sleep 600 & echo started; wait", file.display());
        let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
        let mut hear = move |event: Event<'_>| {
            if matches!(event, Event::Line("started")) {
                sender.send(()).ok();
            }
        };
        tokio::select! {
            _ = run(shell(&script), &mut hear) => panic!("it ended by itself"),
            _ = receiver.recv() => {}
        }
        let lock = std::fs::File::open(&file).unwrap();
        tokio::task::spawn_blocking(move || rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive))
            .await
            .unwrap()
            .unwrap();
    }

    #[tokio::test]
    async fn a_question_without_an_answer_ends() {
        let slow = ask(shell("exec sleep 600"), Duration::from_millis(50)).await.unwrap_err();
        assert!(slow.contains("did not answer"), "{slow}");
        let wrong = ask(shell("echo broken >&2; exit 1"), Duration::from_mins(1)).await.unwrap_err();
        assert_eq!(wrong, "does not work: broken");
        assert_eq!(ask(shell("echo 42"), Duration::from_mins(1)).await.unwrap(), "42");
    }
}
