//! A bot that runs: who watches it, how it ends and what is told of its end.

use std::{
    os::unix::process::ExitStatusExt,
    process::ExitStatus,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use astrfleet_core::{
    error::{Error, Result},
    id::InstanceId,
    ports::LogLine,
    time::Timestamp,
};
use rustix::process::Signal;
use tokio::{
    process::Child,
    sync::{broadcast, watch},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{Shared, blocking, capture::Capture, journal, limits::Groups, linux::Process, places::Record, search};

/// Of a bot that ended by itself.
const LAST_LINES: usize = 20;
const LAST_WORDS_BYTES_MAX: usize = 8 * 1024;
/// How long the kernel may take to end a process that was killed.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// One bot, as long as the driver knows of it.
pub(super) struct Slot {
    /// Held by whoever starts, stops or erases it.
    pub turn: tokio::sync::Mutex<()>,
    /// Its log as it comes, over all its starts.
    pub followers: broadcast::Sender<LogLine>,
    state: Mutex<State>,
}

/// What is known of a bot.
#[derive(Clone)]
pub(super) enum State {
    /// No process of it.
    Idle,
    /// See [`Run`].
    Running(Run),
    /// It ended and nobody asked it to.
    Exited { generation: i64, how: String, last_words: String },
}

/// One process of a bot.
#[derive(Clone)]
pub(super) struct Run {
    pub process: Process,
    pub generation: i64,
    pub port: u16,
    pub terms: String,
    pub since: Timestamp,
    pub groups: Groups,
    /// Whether it was asked to end.
    pub asked: Arc<AtomicBool>,
    /// True once it has ended and all is tidied up.
    pub over: watch::Sender<bool>,
}

impl Slot {
    pub(super) fn new(followers: broadcast::Sender<LogLine>) -> Self {
        Self { turn: tokio::sync::Mutex::default(), followers, state: Mutex::new(State::Idle) }
    }

    pub(super) fn state(&self) -> State {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set(&self, state: State) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }

    pub(super) fn running(&self) -> Option<Run> {
        match self.state() {
            State::Running(run) => Some(run),
            State::Idle | State::Exited { .. } => None,
        }
    }
}

impl Run {
    pub(super) fn new(record: Record, since: Timestamp) -> Self {
        let Record { process, boot_id: _, generation, port, terms, groups } = record;
        Self { process, generation, port, terms, since, groups, asked: Arc::default(), over: watch::Sender::new(false) }
    }

    async fn wait_over(&self) {
        // The sender is ours, too: it cannot be gone.
        let _ = self.over.subscribe().wait_for(|over| *over).await;
    }
}

/// Takes a bot's log and waits for its end, in the background. `child` is missing where an earlier run started it.
pub(super) fn attend(shared: &Arc<Shared>, instance: &InstanceId, run: Run, child: Option<Child>, capture: Capture) {
    shared.slot(instance).set(State::Running(run.clone()));
    let end_of_capture = CancellationToken::new();
    let captured = tokio::spawn(capture.run(end_of_capture.clone()));
    let (shared, instance) = (shared.clone(), instance.clone());
    let life = shared.life.clone();
    tokio::spawn(async move {
        tokio::select! {
            biased;
            // The bot runs on, and the next driver takes its log where this one ends.
            () = life.cancelled() => captured.abort(),
            status = ended(run.process, child) => {
                tidy_up(&shared, &instance, run, status, end_of_capture, captured).await;
            }
        }
    });
}

/// Nothing where only its end is known.
async fn ended(process: Process, child: Option<Child>) -> Option<ExitStatus> {
    if let Some(mut child) = child
        && let Ok(status) = child.wait().await
    {
        return Some(status);
    }
    process.ended().await;
    None
}

async fn tidy_up(
    shared: &Arc<Shared>,
    instance: &InstanceId,
    run: Run,
    status: Option<ExitStatus>,
    end_of_capture: CancellationToken,
    captured: JoinHandle<()>,
) {
    run.process.kill_group();
    end_of_capture.cancel();
    if let Err(error) = captured.await {
        tracing::warn!(%instance, %error, "the capture of a bot's log broke off");
    }
    let (places, limits, groups) = (shared.places(instance), shared.settings.log, run.groups.clone());
    let tidied = blocking("the bot's folder", move || {
        let out_of_memory = groups.ran_out_of_memory();
        groups.remove();
        places.remove_record()?;
        Ok((out_of_memory, journal::tail(&places.state, limits, LAST_LINES)?))
    })
    .await;
    let (out_of_memory, last_lines) = tidied.unwrap_or_else(|error| {
        tracing::warn!(%instance, %error, "what a bot left that ended could not be tidied up");
        (false, Vec::new())
    });
    let state = if run.asked.load(Ordering::SeqCst) {
        tracing::info!(%instance, generation = run.generation, how = describe(status, out_of_memory), "a bot was stopped");
        State::Idle
    } else {
        let how = describe(status, out_of_memory);
        tracing::warn!(%instance, generation = run.generation, how, "a bot ended that nobody asked to");
        State::Exited { generation: run.generation, how, last_words: last_words(&last_lines) }
    };
    shared.slot(instance).set(state);
    run.over.send_replace(true);
}

fn describe(status: Option<ExitStatus>, out_of_memory: bool) -> String {
    if out_of_memory {
        return "ended by the kernel: out of memory, its limit is too low for what it does".to_owned();
    }
    let Some(status) = status else {
        return "ended, it is not known how: an earlier run of the platform had started it".to_owned();
    };
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(9)) => "killed by SIGKILL (out of memory?)".to_owned(),
        (None, Some(signal)) => format!("killed by {}", name(signal)),
        (None, None) => "ended".to_owned(),
    }
}

fn name(signal: i32) -> String {
    let known = [(1, "HUP"), (2, "INT"), (4, "ILL"), (6, "ABRT"), (7, "BUS"), (8, "FPE"), (11, "SEGV"), (15, "TERM")];
    let name = known.iter().find(|(number, _)| *number == signal).map(|(_, name)| format!("SIG{name}"));
    name.unwrap_or_else(|| format!("signal {signal}"))
}

fn last_words(lines: &[LogLine]) -> String {
    let mut words = lines.iter().map(|line| line.line.as_str()).collect::<Vec<_>>().join("\n");
    if words.len() > LAST_WORDS_BYTES_MAX {
        words = words.split_off(words.ceil_char_boundary(words.len() - LAST_WORDS_BYTES_MAX));
    }
    words
}

/// SIGINT, which a bot ends by in order; SIGKILL for what does not end. SIGTERM would end it without any order.
pub(super) async fn stop(shared: &Arc<Shared>, instance: &InstanceId) -> Result<()> {
    let slot = shared.slot(instance);
    let _turn = slot.turn.lock().await;
    if slot.running().is_none() {
        // Nobody asked for bots of an earlier run yet, or this one was overlooked.
        search::adopt(shared, instance).await?;
    }
    let Some(run) = slot.running() else {
        slot.set(State::Idle);
        return Ok(());
    };
    run.asked.store(true, Ordering::SeqCst);
    signal(run.process, Signal::INT)?;
    if timeout(shared.settings.stop_timeout, run.wait_over()).await.is_ok() {
        return Ok(());
    }
    tracing::warn!(%instance, generation = run.generation, "a bot did not end when it was asked to: it is killed");
    signal(run.process, Signal::KILL)?;
    run.process.kill_group();
    timeout(KILL_TIMEOUT, run.wait_over()).await.map_err(|_| {
        let pid = run.process.pid;
        Error::unavailable("the bot", format!("process {pid} does not end though it was killed: look at the machine"))
    })
}

fn signal(process: Process, signal: Signal) -> Result<()> {
    process.signal(signal).map_err(|error| Error::unavailable("the bot", error))
}

#[cfg(test)]
mod tests {
    use std::{os::unix::process::ExitStatusExt, process::ExitStatus};

    use super::describe;

    #[test]
    fn an_end_is_told_in_words() {
        let told = |raw: i32| describe(Some(ExitStatus::from_raw(raw)), false);
        assert_eq!(told(0), "exit code 0");
        assert_eq!(told(3 << 8), "exit code 3");
        assert_eq!(told(9), "killed by SIGKILL (out of memory?)");
        assert_eq!(told(11), "killed by SIGSEGV");
        assert_eq!(told(50), "killed by signal 50");
        assert!(describe(None, true).contains("out of memory"));
    }
}
