//! The real `astrfleet` binary as a child process with a data folder of its own: started, killed, interrupted and
//! started again as its users do. It speaks to the platform only as they do too: by arguments, a configuration file,
//! signals, lines of JSON and HTTP.

use std::{
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    process::{Child, Command},
    sync::watch,
};

use crate::{
    backends::Backends,
    client::Api,
    parts::runtime_dir,
    ports::free_port,
    processes::{descendants_of, signal, wait_until_none_in, working_in},
};

/// Lines of the log that are kept.
const LOG_LINES_MAX: usize = 50_000;
/// How long an end that was asked for may take: bots get 15 s each to stop.
const END_PATIENCE: Duration = Duration::from_mins(2);
/// Settings of whoever runs the tests: none of them may reach the platform.
pub(crate) const FOREIGN: &[&str] = &[
    "API_RATE_LIMIT",
    "DB_HOST",
    "DB_NAME",
    "DB_PASSWORD",
    "DB_PORT",
    "DB_USER",
    "JWT_SECRET",
    "LLM_API_KEY",
    "LOG_LEVEL",
    "MAX_ASTRBOT_INSTANCES",
    "METRICS_ENABLED",
    "MINIO_ACCESS_KEY",
    "MINIO_SECRET_KEY",
    "REDIS_HOST",
    "REDIS_PASSWORD",
    "REDIS_PORT",
    "SESSION_TIMEOUT",
    "TRACE_SAMPLING_RATE",
    "RUST_LOG",
];

/// How to start the platform.
#[derive(Clone, Debug)]
pub struct PlatformOptions {
    /// The binary; by default `ASTRFLEET_BIN`, or `astrfleet` beside the folder of the test's own executable.
    pub program: Option<PathBuf>,
    /// The text of its configuration file; none by default.
    pub config: Option<String>,
    /// Its data folder; by default a new one that goes with the platform.
    pub data_dir: Option<PathBuf>,
    /// The prepared environments of bots, shared by all tests.
    pub runtime_dir: PathBuf,
    /// Further arguments.
    pub arguments: Vec<String>,
    /// Further environment variables.
    pub environment: Vec<(String, String)>,
    /// How long it may take to be ready; the first time, the bots' environment may have to be prepared.
    pub ready_within: Duration,
}

impl Default for PlatformOptions {
    fn default() -> Self {
        Self {
            program: None,
            config: None,
            data_dir: None,
            runtime_dir: runtime_dir(),
            arguments: Vec::new(),
            environment: Vec::new(),
            ready_within: Duration::from_mins(10),
        }
    }
}

impl PlatformOptions {
    /// With this text as its configuration file.
    #[must_use]
    pub fn with_config(config: &str) -> Self {
        Self { config: Some(config.to_owned()), ..Self::default() }
    }
}

/// The platform. Dropping it kills it and every bot at once.
pub struct Platform {
    options: PlatformOptions,
    /// Configuration, and data unless they were given a folder.
    folder: TempDir,
    data_dir: PathBuf,
    /// Where it is told to listen: the same when it starts again, because bots know it.
    listen: String,
    /// What it stands on.
    backends: Backends,
    child: Option<Child>,
    output: Arc<Output>,
    url: String,
}

/// What the child has written so far.
#[derive(Default)]
pub(crate) struct Output {
    pub(crate) lines: Mutex<Vec<String>>,
    events: watch::Sender<Vec<Value>>,
    /// How many events were read before the running child began.
    before: Mutex<usize>,
}

impl Platform {
    /// Starts the platform and waits until it is ready.
    ///
    /// # Panics
    /// When the binary is missing, ends, or is not ready in time; the text holds the end of its log.
    pub async fn start(options: PlatformOptions) -> Self {
        let folder = tempfile::Builder::new().prefix("astrfleet-test-").tempdir().unwrap();
        let data_dir = options.data_dir.clone().unwrap_or_else(|| folder.path().join("data"));
        std::fs::create_dir_all(&data_dir).unwrap();
        if let Some(config) = &options.config {
            std::fs::write(folder.path().join("astrfleet.toml"), config).unwrap();
        }
        let mut platform = Self {
            options,
            folder,
            data_dir,
            listen: format!("127.0.0.1:{}", free_port()),
            backends: Backends::chosen().await,
            child: None,
            output: Arc::default(),
            url: String::new(),
        };
        platform.spawn().await;
        platform
    }

    async fn spawn(&mut self) {
        let mut command = Command::new(self.options.program.clone().unwrap_or_else(built_binary));
        command.args(["up", "--listen", &self.listen, "--json", "--data-dir"]).arg(&self.data_dir);
        command.arg("--runtime-dir").arg(&self.options.runtime_dir);
        if self.options.config.is_some() {
            command.arg("--config").arg(self.folder.path().join("astrfleet.toml"));
        }
        command.args(&self.options.arguments);
        let own =
            std::env::vars_os().map(|(name, _)| name).filter(|name| name.to_string_lossy().starts_with("ASTRFLEET"));
        for name in own.collect::<Vec<_>>() {
            command.env_remove(name);
        }
        for name in FOREIGN {
            command.env_remove(name);
        }
        command.envs(self.backends.environment());
        command.envs(self.options.environment.iter().cloned());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
        self.output.begin();
        tokio::spawn(collect(child.stdout.take().unwrap(), Arc::clone(&self.output)));
        tokio::spawn(collect(child.stderr.take().unwrap(), Arc::clone(&self.output)));
        self.child = Some(child);
        let ready = self.wait_until_ready().await;
        ready["url"].as_str().expect("the ready event has a url").trim_end_matches('/').clone_into(&mut self.url);
    }

    async fn wait_until_ready(&mut self) -> Value {
        let child = self.child.as_mut().unwrap();
        let output = &self.output;
        let why = tokio::select! {
            event = output.wait_for("ready") => return event,
            status = child.wait() => format!("ended with {status:?}"),
            () = tokio::time::sleep(self.options.ready_within) => "was not ready in time".to_owned(),
        };
        panic!("the platform {why}; the end of its log:\n{}", output.end());
    }

    /// Where it listens, for example `http://127.0.0.1:40123`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A client without credentials.
    #[must_use]
    pub fn api(&self) -> Api {
        Api::new(&self.url)
    }

    /// What it stands on.
    #[must_use]
    pub fn backends(&self) -> &Backends {
        &self.backends
    }

    /// Its data folder.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Whether it was started and neither killed nor ended since.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// Its process id.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn pid(&self) -> i32 {
        let pid = self.child.as_ref().and_then(Child::id).expect("the platform runs");
        i32::try_from(pid).unwrap()
    }

    /// The processes of its bots: whatever works in the data folder but itself.
    #[must_use]
    pub fn bots(&self) -> Vec<i32> {
        let own = self.child.as_ref().and_then(Child::id).and_then(|pid| i32::try_from(pid).ok());
        let mut bots: Vec<i32> = working_in(&self.data_dir).into_iter().filter(|pid| Some(*pid) != own).collect();
        bots.sort_unstable();
        bots
    }

    /// Every event of the running child, oldest first.
    #[must_use]
    pub fn events(&self) -> Vec<Value> {
        self.output.since_start()
    }

    /// Waits for an event of the running child, for example `ready`; one that came already counts.
    ///
    /// # Panics
    /// When it does not come within `timeout`; the text holds the end of the log.
    pub async fn wait_for_event(&self, name: &str, timeout: Duration) -> Value {
        let event = tokio::time::timeout(timeout, self.output.wait_for(name)).await;
        event.unwrap_or_else(|late| panic!("no event `{name}` came ({late}); its log ends:\n{}", self.output.end()))
    }

    /// What it has written on both of its streams, since it was first started.
    #[must_use]
    pub fn log(&self) -> Vec<String> {
        self.output.lines.lock().unwrap().clone()
    }

    /// Kills the platform at once and leaves its bots alone.
    pub async fn kill_9_platform(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().await.ok();
        }
    }

    /// Kills the platform and every bot at once, as a power cut would.
    pub async fn kill_9_everything(&mut self) {
        self.kill_all();
        self.kill_9_platform().await;
        wait_until_none_in(&self.data_dir).await;
    }

    /// Asks the platform to end (Ctrl-C), and gives how it ended.
    ///
    /// # Panics
    /// When it has not ended after two minutes.
    pub async fn interrupt(&mut self) -> ExitStatus {
        self.end_by(Signal::INT).await
    }

    /// The same by SIGTERM.
    ///
    /// # Panics
    /// When it has not ended after two minutes.
    pub async fn terminate(&mut self) -> ExitStatus {
        self.end_by(Signal::TERM).await
    }

    async fn end_by(&mut self, how: Signal) -> ExitStatus {
        signal(self.pid(), how);
        let mut child = self.child.take().unwrap();
        let ended = tokio::time::timeout(END_PATIENCE, child.wait()).await;
        ended
            .unwrap_or_else(|late| panic!("the platform runs on ({late}); its log ends:\n{}", self.output.end()))
            .unwrap()
    }

    /// Starts it again on the same data and the same port, after it was killed or has ended.
    pub async fn restart(&mut self) {
        assert!(self.child.is_none(), "end the platform before starting it again");
        self.spawn().await;
    }

    /// The platform first, so that it starts nothing again; then whatever it had started.
    fn kill_all(&mut self) {
        let mut found = working_in(&self.data_dir);
        if let Some(pid) = self.child.as_ref().and_then(Child::id).and_then(|pid| i32::try_from(pid).ok()) {
            found.extend(descendants_of(pid));
            signal(pid, Signal::KILL);
        }
        for pid in found {
            signal(pid, Signal::KILL);
        }
        // What was being started while we looked.
        for pid in working_in(&self.data_dir) {
            signal(pid, Signal::KILL);
        }
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        self.kill_all();
        if std::thread::panicking() {
            eprintln!("the end of the platform's log:\n{}", self.output.end());
        }
    }
}

impl Output {
    /// Another child begins to write.
    pub(crate) fn begin(&self) {
        *self.before.lock().unwrap() = self.events.borrow().len();
    }

    fn since_start(&self) -> Vec<Value> {
        let before = *self.before.lock().unwrap();
        self.events.borrow().iter().skip(before).cloned().collect()
    }

    pub(crate) async fn wait_for(&self, name: &str) -> Value {
        let before = *self.before.lock().unwrap();
        let find = |events: &[Value]| events.iter().skip(before).find(|event| event["event"] == name).cloned();
        let mut events = self.events.subscribe();
        let found = events.wait_for(|events| find(events).is_some()).await;
        found.ok().and_then(|events| find(&events)).expect("the sender lives as long as we do")
    }

    /// The last lines, for a test that fails.
    pub(crate) fn end(&self) -> String {
        let lines = self.lines.lock().unwrap();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }

    fn add(&self, line: String) {
        if let Ok(event @ Value::Object(_)) = serde_json::from_str::<Value>(&line)
            && event["event"].is_string()
        {
            self.events.send_modify(|events| events.push(event));
        }
        let mut lines = self.lines.lock().unwrap();
        if lines.len() == LOG_LINES_MAX {
            lines.drain(..LOG_LINES_MAX / 2);
        }
        lines.push(line);
    }
}

pub(crate) async fn collect(stream: impl AsyncRead + Unpin, output: Arc<Output>) {
    let mut lines = BufReader::new(stream).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        output.add(line);
    }
}

/// `ASTRFLEET_BIN`, or the binary that cargo built beside this test: `target/<profile>/deps/<test>`.
///
/// # Panics
/// When it was not built, with the line that builds it.
#[must_use]
pub fn built_binary() -> PathBuf {
    // Which binary to test is the one thing that the environment tells a test.
    if let Some(program) = std::env::var_os("ASTRFLEET_BIN") {
        return PathBuf::from(program);
    }
    let test = std::env::current_exe().unwrap();
    let folders = test.ancestors().skip(1).take(2);
    let built = folders.map(|folder| folder.join("astrfleet")).find(|program| program.is_file());
    built.expect("the platform's binary is missing: cargo build -p astrfleet")
}

/// The release before this one; its commit comes first.
const PREVIOUS_RELEASE: &str = include_str!("../../store/migrations/previous_release");

/// The program of the release before, which `make test` builds to `target/previous`.
///
/// # Panics
/// When it was not built, with the line that builds it.
#[must_use]
pub fn previous_binary() -> PathBuf {
    let built = Path::new("previous").join(&PREVIOUS_RELEASE[..12]).join("astrfleet");
    let test = std::env::current_exe().unwrap();
    let found = test.ancestors().map(|folder| folder.join(&built)).find(|program| program.is_file());
    found.unwrap_or_else(|| {
        panic!("target/{} is missing: make test ARGS=\"-p astrfleet --test upgrade\"", built.display())
    })
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::{fs::PermissionsExt, process::ExitStatusExt},
        panic::AssertUnwindSafe,
    };

    use futures_util::FutureExt as _;

    use super::*;

    /// Stands for the platform: one bot in its data folder, a ready event with the port it was given.
    const SCRIPT: &str = r#"#!/bin/sh
[ "$1 $2 $4 $5" = "up --listen --json --data-dir" ] || exit 9
mkdir -p "$6/bots/a"
cd "$6/bots/a"
sleep 600 </dev/null >/dev/null 2>&1 &
bot=$!
cd /
trap 'kill $bot; echo "{\"event\":\"stopped\"}"; exit 0' INT
echo "not an event"
echo "a line of the log" >&2
echo "{\"event\":\"ready\",\"url\":\"http://$3\",\"config\":\"$(cat "${10}")\",\"foreign\":\"$JWT_SECRET\"}"
wait $bot
"#;

    async fn start(script: &str) -> (Platform, TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("astrfleet");
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let options = PlatformOptions { program: Some(program), ..PlatformOptions::with_config("key = 1") };
        (Platform::start(options).await, folder)
    }

    #[tokio::test]
    async fn it_is_started_and_heard() {
        let (platform, _folder) = start(SCRIPT).await;
        assert!(platform.url().starts_with("http://127.0.0.1:"), "{}", platform.url());
        assert_eq!(platform.events()[0]["config"], "key = 1");
        assert_eq!(platform.bots().len(), 1);
        assert!(platform.log().iter().any(|line| line == "not an event"));
    }

    #[tokio::test]
    async fn an_interrupt_ends_it_and_a_restart_keeps_its_port() {
        let (mut platform, _folder) = start(SCRIPT).await;
        let url = platform.url().to_owned();
        assert_eq!(platform.interrupt().await.code(), Some(0));
        platform.wait_for_event("stopped", Duration::from_secs(30)).await;
        platform.restart().await;
        assert_eq!((platform.url(), platform.events().len()), (url.as_str(), 1));
    }

    #[tokio::test]
    async fn killing_the_platform_leaves_its_bots_and_killing_everything_does_not() {
        let (mut platform, _folder) = start(SCRIPT).await;
        let bots = platform.bots();
        platform.kill_9_platform().await;
        assert_eq!(platform.bots(), bots);
        platform.restart().await;
        assert_eq!(platform.bots().len(), 2);
        platform.kill_9_everything().await;
        assert_eq!(platform.bots(), [] as [i32; 0]);
    }

    #[tokio::test]
    async fn dropping_it_leaves_nothing_running() {
        let (platform, _folder) = start(SCRIPT).await;
        let data = platform.data_dir().to_owned();
        drop(platform);
        wait_until_none_in(&data).await;
    }

    #[tokio::test]
    async fn an_end_before_it_is_ready_fails_with_its_log() {
        let started = AssertUnwindSafe(start("#!/bin/sh\necho 'the reason' >&2\nexit 3\n")).catch_unwind().await;
        let text = started.err().unwrap().downcast::<String>().unwrap();
        assert!(text.contains("ended with") && text.contains("the end of its log"), "{text}");
        assert_eq!(ExitStatus::from_raw(3 << 8).code(), Some(3));
    }
}
