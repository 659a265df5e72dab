//! The driver with a small program in the place of `AstrBot`, that does what a file in its root says.

use std::{
    fs,
    net::TcpListener,
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use astrfleet_core::{
    error::Error,
    id::{InstanceId, TenantId},
    ports::{
        BotSpec, BotStatus, FoundBot, Runtime,
        testing::{CountingRng, FixedClock},
    },
};
use futures_util::StreamExt;

use super::{LogLimits, ProcessRuntime, Settings, linux, places::Places, search};

const PROGRAM: &str = r#"#!/bin/sh
[ "$1" = run ] || exit 64
trap 'echo bye; exit 0' INT
printf '\033[32mstarted %s\033[0m on %s\n' "$ASTRFLEET_GENERATION" "$DASHBOARD_PORT"
case "$(cat mode 2>/dev/null)" in
  stubborn) trap '' INT; sleep 1000 & echo "child $!" ;;
  crash) echo 'no luck' >&2; exit 3 ;;
  killed) kill -9 $$ ;;
  greedy) x=$(head -c 1000000000 /dev/zero | tr '\0' x) ;;
  chatty) i=0; while [ $i -lt 3000 ]; do i=$((i+1)); echo "line $i"; done ;;
esac
echo ready
while :; do sleep 0.02; done
"#;

/// Folders and a program of their own. Whatever bot still runs at the end is killed.
struct World {
    folder: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("bin")).unwrap();
        let program = folder.path().join("bin/astrbot");
        // Written by another process: a file that this one has open for writing, even for a moment and in a child of
        // another test, cannot be executed.
        let mut writer = std::process::Command::new("/bin/sh");
        writer.args(["-c", r#"printf '%s' "$1" > "$0" && chmod 755 "$0""#]).arg(&program).arg(PROGRAM);
        assert!(writer.status().unwrap().success());
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Self { folder }
    }

    fn settings(&self) -> Settings {
        let astrbot = self.folder.path().join("bin/astrbot");
        Settings {
            stop_timeout: Duration::from_secs(20),
            control_groups: false,
            ..Settings::new(self.bots(), astrbot, "4.29.3")
        }
    }

    fn bots(&self) -> PathBuf {
        self.folder.path().join("bots")
    }

    fn driver(&self) -> ProcessRuntime {
        driver(self.settings())
    }

    fn places(&self, spec: &BotSpec) -> Places {
        Places::of(&self.bots().canonicalize().unwrap(), &spec.instance)
    }

    /// A bot that will do as `mode` says.
    fn bot(&self, number: u32, mode: &str) -> BotSpec {
        let spec = spec(number);
        let root = self.bots().join(spec.instance.as_str());
        fs::create_dir_all(&root).unwrap();
        fs::write(root.join("mode"), mode).unwrap();
        spec
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for process in linux::processes() {
            if process.folder().is_some_and(|folder| folder.starts_with(self.folder.path())) {
                let _ = process.signal(rustix::process::Signal::KILL);
            }
        }
    }
}

fn driver(settings: Settings) -> ProcessRuntime {
    ProcessRuntime::new(settings, Arc::new(FixedClock::at(7_000_000)), Arc::new(CountingRng::default())).unwrap()
}

fn spec(number: u32) -> BotSpec {
    BotSpec {
        instance: InstanceId::parse(&format!("bot_{number:032x}")).unwrap(),
        tenant: TenantId::parse(&format!("ten_{number:032x}")).unwrap(),
        tenant_name: "acme".to_owned(),
        generation: i64::from(number) + 100,
        port: 21_000 + u16::try_from(number).unwrap(),
        llm_base_url: "http://127.0.0.1:9/v1".to_owned(),
        llm_key: "key".into(),
        model: "fast".to_owned(),
        jwt_secret: "secret".into(),
        failure_text: "failed".to_owned(),
        bridge: astrfleet_core::ports::BridgeSpec {
            url: "http://127.0.0.1:9/bridge/v1".to_owned(),
            token: "token-of-the-bridge".into(),
            when_away: astrfleet_core::ports::WhenAway::Answer,
        },
        memory_bytes: 256 << 20,
        cpu_milli: 500,
        terms: "terms".to_owned(),
    }
}

/// Waits for what has to come, and says what did not.
async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let waiting = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), waiting).await.unwrap_or_else(|_| panic!("never came: {what}"))
}

async fn log_of(driver: &ProcessRuntime, spec: &BotSpec) -> Vec<String> {
    driver.log(&spec.instance, 10_000).await.unwrap().into_iter().map(|line| line.line).collect()
}

async fn until_logged(driver: &ProcessRuntime, spec: &BotSpec, text: &str) {
    until(text, async || log_of(driver, spec).await.iter().any(|line| line.contains(text)).then_some(())).await;
}

async fn until_exited(driver: &ProcessRuntime, spec: &BotSpec) -> (String, String) {
    until("an exit", async || match driver.status(&spec.instance).await.unwrap() {
        BotStatus::Exited { generation, how, last_words } => {
            assert_eq!(generation, spec.generation);
            Some((how, last_words))
        }
        _ => None,
    })
    .await
}

fn is_conflict<T>(result: &Result<T, Error>) -> bool {
    matches!(result, Err(Error::Conflict { .. }))
}

#[tokio::test]
async fn a_bot_starts_and_ends_in_order() {
    let world = World::new();
    let (driver, spec) = (world.driver(), world.bot(1, ""));
    assert_eq!(driver.status(&spec.instance).await.unwrap(), BotStatus::Absent);
    let mut followed = driver.follow_log(&spec.instance).await.unwrap();
    driver.start(&spec).await.unwrap();
    assert_eq!(followed.next().await.unwrap().line, "started 101 on 21001");
    assert_eq!(followed.next().await.unwrap().line, "ready");
    match driver.status(&spec.instance).await.unwrap() {
        BotStatus::Running { generation, port, memory_bytes, .. } => {
            assert_eq!((generation, port), (spec.generation, spec.port));
            assert!(memory_bytes > 0);
        }
        other => panic!("{other:?}"),
    }
    driver.stop(&spec.instance).await.unwrap();
    assert_eq!(driver.status(&spec.instance).await.unwrap(), BotStatus::Absent);
    assert_eq!(followed.next().await.unwrap().line, "bye");
    assert_eq!(log_of(&driver, &spec).await, ["started 101 on 21001", "ready", "bye"], "without colours");
    driver.stop(&spec.instance).await.unwrap();
    assert!(driver.find().await.unwrap().is_empty());
}

#[tokio::test]
async fn what_does_not_end_is_killed_with_all_that_it_started() {
    let world = World::new();
    let driver = driver(Settings { stop_timeout: Duration::from_millis(200), ..world.settings() });
    let spec = world.bot(1, "stubborn");
    driver.start(&spec).await.unwrap();
    until_logged(&driver, &spec, "ready").await;
    let child = log_of(&driver, &spec).await.iter().find_map(|line| line.strip_prefix("child ")?.parse().ok()).unwrap();
    let child = linux::Process::of(child).unwrap();
    assert!(child.is_alive());
    driver.stop(&spec.instance).await.unwrap();
    assert_eq!(driver.status(&spec.instance).await.unwrap(), BotStatus::Absent);
    until("the child's end", async || (!child.is_alive()).then_some(())).await;
}

#[tokio::test]
async fn an_end_that_nobody_asked_for_is_told_with_its_last_words() {
    let world = World::new();
    let driver = world.driver();
    let crashes = world.bot(1, "crash");
    driver.start(&crashes).await.unwrap();
    let (how, last_words) = until_exited(&driver, &crashes).await;
    assert_eq!(how, "exit code 3");
    assert!(last_words.ends_with("no luck"), "{last_words}");
    driver.stop(&crashes.instance).await.unwrap();
    assert_eq!(driver.status(&crashes.instance).await.unwrap(), BotStatus::Absent);

    let killed = world.bot(2, "killed");
    driver.start(&killed).await.unwrap();
    assert_eq!(until_exited(&driver, &killed).await.0, "killed by SIGKILL (out of memory?)");
}

#[tokio::test]
async fn a_bot_never_runs_twice_and_is_not_erased_while_it_runs() {
    let world = World::new();
    let (driver, spec) = (world.driver(), world.bot(1, ""));
    driver.start(&spec).await.unwrap();
    until_logged(&driver, &spec, "ready").await;
    assert!(is_conflict(&driver.start(&spec).await));
    assert!(is_conflict(&driver.erase(&spec.instance).await));
    let another = world.driver();
    assert!(is_conflict(&another.start(&spec).await), "also for a driver that never looked");
    assert!(is_conflict(&another.erase(&spec.instance).await));
    driver.stop(&spec.instance).await.unwrap();
}

#[tokio::test]
async fn two_starts_at_once_give_one_bot() {
    let world = World::new();
    let (driver, spec) = (world.driver(), world.bot(1, ""));
    let (one, other) = tokio::join!(driver.start(&spec), driver.start(&spec));
    assert!(one.is_ok() != other.is_ok());
    assert_eq!(search::processes_of(&world.places(&spec)).len(), 1);
    driver.stop(&spec.instance).await.unwrap();
}

#[tokio::test]
async fn a_bot_that_another_program_locked_is_not_started() {
    let world = World::new();
    let (driver, spec) = (world.driver(), world.bot(1, ""));
    let lock = fs::File::create(world.bots().join(spec.instance.as_str()).join("astrbot.lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    assert!(is_conflict(&driver.start(&spec).await));
    drop(lock);
    driver.start(&spec).await.unwrap();
    driver.stop(&spec.instance).await.unwrap();
}

#[tokio::test]
async fn the_next_driver_takes_over_what_runs() {
    let world = World::new();
    let (recorded, unrecorded) = (world.bot(1, ""), world.bot(2, ""));
    let first = world.driver();
    for spec in [&recorded, &unrecorded] {
        first.start(spec).await.unwrap();
        until_logged(&first, spec, "ready").await;
    }
    drop(first);
    fs::remove_file(world.places(&unrecorded).state.join("process.json")).unwrap();

    let second = world.driver();
    let found = second.find().await.unwrap();
    let expected = [&recorded, &unrecorded].map(|spec| FoundBot {
        instance: spec.instance.clone(),
        generation: spec.generation,
        port: spec.port,
        terms: spec.terms.clone(),
    });
    assert_eq!(found, expected);
    assert!(is_conflict(&second.start(&recorded).await));
    for spec in [&recorded, &unrecorded] {
        assert!(matches!(second.status(&spec.instance).await.unwrap(), BotStatus::Running { .. }));
        second.stop(&spec.instance).await.unwrap();
        assert_eq!(second.status(&spec.instance).await.unwrap(), BotStatus::Absent);
        assert_eq!(log_of(&second, spec).await.last().unwrap(), "bye");
    }
    second.start(&recorded).await.unwrap();
    second.stop(&recorded.instance).await.unwrap();
}

#[tokio::test]
async fn the_end_of_a_bot_that_was_taken_over_is_seen() {
    let world = World::new();
    let spec = world.bot(1, "");
    let first = world.driver();
    first.start(&spec).await.unwrap();
    until_logged(&first, &spec, "ready").await;
    drop(first);
    let second = world.driver();
    second.find().await.unwrap();
    search::processes_of(&world.places(&spec))[0].signal(rustix::process::Signal::KILL).unwrap();
    assert!(until_exited(&second, &spec).await.0.contains("not known how"));
}

#[tokio::test]
async fn the_last_words_of_a_bot_that_ended_while_nobody_watched_are_in_its_log() {
    let world = World::new();
    let spec = world.bot(1, "");
    let first = driver(Settings { control_groups: true, ..world.settings() });
    first.start(&spec).await.unwrap();
    until_logged(&first, &spec, "ready").await;
    drop(first);
    let groups = world.places(&spec).read_record().unwrap().groups;
    let process = search::processes_of(&world.places(&spec))[0];
    process.signal(rustix::process::Signal::INT).unwrap();
    process.ended().await;
    let second = world.driver();
    assert!(second.find().await.unwrap().is_empty());
    assert!(groups.folders().iter().all(|folder: &PathBuf| !Path::exists(folder)), "removed with it");
    assert_eq!(second.status(&spec.instance).await.unwrap(), BotStatus::Absent);
    assert_eq!(log_of(&second, &spec).await.last().unwrap(), "bye");
}

#[tokio::test]
async fn of_two_processes_of_one_bot_the_recorded_one_stays() {
    let world = World::new();
    let spec = world.bot(1, "");
    let first = world.driver();
    first.start(&spec).await.unwrap();
    until_logged(&first, &spec, "ready").await;
    drop(first);
    let places = world.places(&spec);
    let recorded = search::processes_of(&places)[0];
    let mut surplus = std::process::Command::new(world.folder.path().join("bin/astrbot"))
        .arg("run")
        .current_dir(&places.root)
        .env("ASTRFLEET_GENERATION", "999")
        .stdout(std::process::Stdio::null())
        .process_group(0)
        .spawn()
        .unwrap();
    until("two processes", async || (search::processes_of(&places).len() == 2).then_some(())).await;
    let second = world.driver();
    assert_eq!(second.find().await.unwrap()[0].generation, spec.generation);
    assert!(!surplus.wait().unwrap().success());
    assert_eq!(search::processes_of(&places), [recorded]);
    second.stop(&spec.instance).await.unwrap();
}

#[tokio::test]
async fn what_a_bot_writes_is_bounded_and_nothing_of_it_is_lost_in_between() {
    let world = World::new();
    let log = LogLimits { file_bytes_max: 64 * 1024, files: 10 };
    let driver = driver(Settings { log, raw_log_bytes_max: 4 * 1024, ..world.settings() });
    let spec = world.bot(1, "chatty");
    driver.start(&spec).await.unwrap();
    until_logged(&driver, &spec, "ready").await;
    driver.stop(&spec.instance).await.unwrap();
    let seen = log_of(&driver, &spec).await;
    let wanted: Vec<String> = ["started 101 on 21001".to_owned()]
        .into_iter()
        .chain((1..=3_000).map(|number| format!("line {number}")))
        .chain(["ready".to_owned(), "bye".to_owned()])
        .collect();
    assert_eq!(seen, wanted);
    assert_eq!(driver.log(&spec.instance, 2).await.unwrap()[1].line, "bye");
    let state = world.places(&spec).state;
    assert!(state.join("bot.log.1").is_file(), "rotated");
    let raw_bytes = fs::metadata(state.join("raw")).unwrap().blocks() * 512;
    assert!(raw_bytes <= 16 * 1024, "what was read takes no space: {raw_bytes}");
}

#[tokio::test]
async fn no_port_is_given_twice() {
    let world = World::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let busy = listener.local_addr().unwrap().port();
    let settings = Settings { ports: busy..=busy, ..world.settings() };
    assert!(matches!(driver(settings).free_port(&[]).await, Err(Error::Unavailable { .. })), "it is listened on");

    let driver = driver(Settings { ports: 20_100..=20_400, ..world.settings() });
    let (one, other) = (driver.free_port(&[]).await.unwrap(), driver.free_port(&[]).await.unwrap());
    assert_ne!(one, other, "asked twice before anybody listens");
    let taken: Vec<u16> = (20_100..20_400).collect();
    assert_eq!(driver.free_port(&taken).await.unwrap(), 20_400);

    let spec = BotSpec { port: 20_400, ..world.bot(1, "") };
    driver.start(&spec).await.unwrap();
    assert!(driver.free_port(&taken).await.is_err(), "a bot has it, though it does not listen yet");
    driver.stop(&spec.instance).await.unwrap();
}

#[tokio::test]
async fn an_erasure_leaves_nothing_and_is_gone_on_with_after_a_sudden_end() {
    let world = World::new();
    let (driver, spec) = (world.driver(), world.bot(1, ""));
    driver.start(&spec).await.unwrap();
    driver.stop(&spec.instance).await.unwrap();
    driver.erase(&spec.instance).await.unwrap();
    driver.erase(&spec.instance).await.unwrap();
    let places = world.places(&spec);
    assert!(!places.root.exists() && !places.state.exists());
    assert!(driver.log(&spec.instance, 10).await.unwrap().is_empty());

    let left = world.bots().join(".trash/bot_x.root/data");
    fs::create_dir_all(&left).unwrap();
    driver.find().await.unwrap();
    assert!(!left.exists());
}

#[tokio::test]
async fn a_program_that_is_missing_is_said_to_be() {
    let world = World::new();
    let driver = driver(Settings { astrbot: world.folder.path().join("bin/none"), ..world.settings() });
    let spec = world.bot(1, "");
    match driver.start(&spec).await {
        Err(Error::Unavailable { source, .. }) => assert!(source.to_string().contains("prepare the environment again")),
        other => panic!("{other:?}"),
    }
    assert_eq!(driver.status(&spec.instance).await.unwrap(), BotStatus::Absent);
}

/// As root every bot has a user of its own; as somebody else there is nobody to become.
#[tokio::test]
async fn a_bot_owns_its_folder_and_nothing_else() {
    let world = World::new();
    let driver = driver(Settings { isolate: true, ..world.settings() });
    let spec = world.bot(1, "");
    driver.start(&spec).await.unwrap();
    until_logged(&driver, &spec, "ready").await;
    let places = world.places(&spec);
    let process = search::processes_of(&places)[0];
    let user = fs::metadata(format!("/proc/{}", process.pid)).unwrap().uid();
    let own = rustix::process::geteuid().as_raw();
    assert_eq!(user, if own == 0 { 210_000 } else { own });
    let root = fs::metadata(&places.root).unwrap();
    assert_eq!((root.uid(), root.mode() & 0o777), (user, 0o700));
    assert_eq!(fs::metadata(places.root.join("data/cmd_config.json")).unwrap().uid(), user);
    assert_eq!(fs::metadata(&places.state).unwrap().uid(), own);
    driver.stop(&spec.instance).await.unwrap();
    driver.start(&spec).await.unwrap();
    assert_eq!(fs::metadata(&places.root).unwrap().uid(), user, "the same one again");
    driver.stop(&spec.instance).await.unwrap();
}

/// The kernel ends it, or its own memory allocation fails; either way it is told.
#[tokio::test]
async fn a_bot_that_takes_too_much_memory_is_ended() {
    let world = World::new();
    let driver = driver(Settings { control_groups: true, ..world.settings() });
    let spec = BotSpec { memory_bytes: 24 << 20, ..world.bot(2, "greedy") };
    driver.start(&spec).await.unwrap();
    let (how, last_words) = until_exited(&driver, &spec).await;
    assert!(how.contains("out of memory") || how == "exit code 2", "{how} {last_words}");
}

/// By control groups where we may make them, by what it may ask for where we may not.
#[tokio::test]
async fn a_bot_is_limited() {
    let world = World::new();
    let driver = driver(Settings { control_groups: true, ..world.settings() });
    let spec = world.bot(1, "");
    driver.start(&spec).await.unwrap();
    let pid = search::processes_of(&world.places(&spec))[0].pid;
    let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
    let in_group = read("cgroup").contains(&format!("/astrfleet/{}", driver.shared.group(&spec.instance)));
    let by_asking = read("limits").lines().any(|line| line.starts_with("Max data size") && !line.contains("unlimited"));
    assert!(in_group || by_asking, "{} {}", read("cgroup"), read("limits"));
    assert_eq!(read("oom_score_adj").trim(), "500");
    let groups = super::limits::Groups::of(linux::Process::of(pid).unwrap(), &driver.shared.group(&spec.instance));
    driver.stop(&spec.instance).await.unwrap();
    assert!(groups.folders().iter().all(|folder: &PathBuf| !Path::exists(folder)), "removed with it");
}
