//! The platform is killed at any moment, over and over, while people start and stop bots and bots crash: there is never
//! a second process of a bot, no start has the number of an earlier one, and in the end everything is as it is wanted.
//!
//! A kill is the end of an asynchronous runtime while a call of the manager to the outside is under way, before the call
//! has done anything or after it has: whatever comes next in memory never happens.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands, in its helpers too")]

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use astrfleet_core::{
    Result,
    id::InstanceId,
    instance::{Desired, Instance, Observed},
    ports::{
        BotSpec, BotStatus, FoundBot, LogLine, LogStream, Runtime, Store,
        testing::{CountingRng, FixedClock},
    },
    tenant::Tenant,
};
use astrfleet_server::{
    app::{App, Ports},
    manager::Operation,
    role::Role,
    tenant::NewTenant,
};
use astrfleet_store::Db;
use astrfleet_testkit::{
    app::default_config, backends::Backends, contract::store::NOW, fake_bots::FakeBots, fake_runtime::FakeRuntime,
};
use async_trait::async_trait;
use proptest::prelude::*;
use tokio::sync::Notify;

/// What does not come true in this time never does.
const PATIENCE: Duration = Duration::from_mins(1);
/// Never reached.
const NEVER: i64 = i64::MAX;

/// What survives every kill: the machine with its processes.
struct World {
    folder: tempfile::TempDir,
    backends: Backends,
    runtime: Arc<FakeRuntime>,
    bots: Arc<FakeBots>,
    clock: Arc<FixedClock>,
    rng: Arc<CountingRng>,
    /// Of each bot, the numbers of its starts; and what must never happen.
    starts: Mutex<BTreeMap<InstanceId, Vec<i64>>>,
    violations: Mutex<Vec<String>>,
}

/// The machine, as one run of the platform sees it.
struct Seen {
    world: Arc<World>,
    /// Calls that are left until the kill.
    left: AtomicI64,
    killed: Notify,
}

impl Seen {
    /// Goes on, or is where the platform was killed.
    async fn pass(&self) {
        if self.left.fetch_sub(1, Ordering::SeqCst) <= 0 {
            self.killed.notify_one();
            std::future::pending::<()>().await;
        }
        tokio::task::yield_now().await;
    }
}

#[async_trait]
impl Runtime for Seen {
    fn astrbot_version(&self) -> &str {
        self.world.runtime.astrbot_version()
    }

    fn bridge_version(&self) -> &str {
        self.world.runtime.bridge_version()
    }

    async fn find(&self) -> Result<Vec<FoundBot>> {
        self.pass().await;
        self.world.runtime.find().await
    }

    async fn start(&self, spec: &BotSpec) -> Result<()> {
        self.pass().await;
        if self.world.runtime.is_running(&spec.instance) {
            self.world.violated(format!("{} was started while it ran", spec.instance));
        }
        let started = self.world.runtime.start(spec).await;
        self.world.note_start(spec);
        self.pass().await;
        started
    }

    async fn stop(&self, instance: &InstanceId) -> Result<()> {
        self.pass().await;
        let stopped = self.world.runtime.stop(instance).await;
        self.pass().await;
        stopped
    }

    async fn status(&self, instance: &InstanceId) -> Result<BotStatus> {
        self.pass().await;
        self.world.runtime.status(instance).await
    }

    async fn log(&self, instance: &InstanceId, count: usize) -> Result<Vec<LogLine>> {
        self.world.runtime.log(instance, count).await
    }

    async fn follow_log(&self, instance: &InstanceId) -> Result<LogStream> {
        self.world.runtime.follow_log(instance).await
    }

    async fn erase(&self, instance: &InstanceId) -> Result<()> {
        self.pass().await;
        self.world.runtime.erase(instance).await
    }

    async fn free_port(&self, taken: &[u16]) -> Result<u16> {
        self.pass().await;
        self.world.runtime.free_port(taken).await
    }
}

impl World {
    fn new() -> Arc<Self> {
        let clock = Arc::new(FixedClock::at(NOW.micros()));
        Arc::new(Self {
            folder: tempfile::tempdir().unwrap(),
            backends: in_a_life(Backends::chosen()),
            runtime: Arc::new(FakeRuntime::new(Arc::clone(&clock) as _)),
            bots: Arc::new(FakeBots::default()),
            clock,
            rng: Arc::new(CountingRng::default()),
            starts: Mutex::default(),
            violations: Mutex::default(),
        })
    }

    fn violated(&self, what: String) {
        self.violations.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }

    fn note_start(&self, spec: &BotSpec) {
        let mut starts = self.starts.lock().unwrap_or_else(PoisonError::into_inner);
        let numbers = starts.entry(spec.instance.clone()).or_default();
        if numbers.last().is_some_and(|last| *last >= spec.generation) {
            self.violated(format!("{} was started as {} after {numbers:?}", spec.instance, spec.generation));
        }
        numbers.push(spec.generation);
    }

    /// A run of the platform, which is killed behind `calls` calls.
    async fn platform(self: &Arc<Self>, calls: i64) -> (App, Arc<Seen>, Db) {
        let store = self.backends.store(&self.folder).await;
        let seen = Arc::new(Seen { world: Arc::clone(self), left: AtomicI64::new(calls), killed: Notify::new() });
        let ports = Ports {
            store: Arc::new(store.clone()),
            bus: self.backends.bus().await,
            limiter: self.backends.limiter(Arc::clone(&self.clock) as _).await,
            cache: self.backends.cache().await,
            blobs: self.backends.blobs(&self.folder),
            runtime: Arc::clone(&seen) as _,
            bots: Arc::clone(&self.bots) as _,
            clock: Arc::clone(&self.clock) as _,
            rng: Arc::clone(&self.rng) as _,
        };
        let mut config = default_config();
        // The clock stands still: nobody is to wait for it. And nothing is given up, since every life ends well.
        (config.manager.restart_backoff_s, config.manager.restart_backoff_max_s) = (0, 0);
        (config.manager.max_restarts, config.manager.concurrent_starts) = (10_000, 1);
        config.manager.max_instances = 2;
        let app = App::new(ports, config, [Role::Manager].into()).unwrap();
        app.manager.set_llm_base_url("http://127.0.0.1:1/llm/v1".to_owned());
        (app, seen, store)
    }
}

/// What happens while the platform runs.
#[derive(Clone, Debug)]
enum Happening {
    Asked(usize, Operation),
    Crash(usize),
    Calm(u8),
}

/// One run of the platform.
#[derive(Clone, Debug)]
struct Life {
    happenings: Vec<Happening>,
    calls: i64,
}

fn life() -> impl Strategy<Value = Life> {
    let operation = prop_oneof![Just(Operation::Start), Just(Operation::Stop), Just(Operation::Restart)];
    let happening = prop_oneof![
        3 => (0..TENANTS.len(), operation).prop_map(|(whose, operation)| Happening::Asked(whose, operation)),
        1 => (0..TENANTS.len()).prop_map(Happening::Crash),
        2 => (0_u8..40).prop_map(Happening::Calm),
    ];
    (prop::collection::vec(happening, 0..8), 0_i64..60).prop_map(|(happenings, calls)| Life { happenings, calls })
}

/// No more than there are places, so that in the end all who are wanted run.
const TENANTS: [&str; 2] = ["acme", "other"];

async fn lives(app: &App, life: &Life, tenants: &[Tenant], world: &World) {
    app.manager.adopt().await.unwrap();
    app.start_loops();
    for happening in &life.happenings {
        match happening {
            Happening::Asked(whose, operation) => {
                app.manager.operate(&tenants[*whose], *operation).await.unwrap();
            }
            Happening::Crash(whose) => {
                let bot = app.store.instances(&tenants[*whose].id).get().await.unwrap();
                world.runtime.crash(&bot.id, "");
                app.manager.wake(&bot.tenant_id);
            }
            Happening::Calm(turns) => {
                for _ in 0..*turns {
                    tokio::task::yield_now().await;
                }
            }
        }
    }
    converged(app, tenants, world).await;
}

async fn converged(app: &App, tenants: &[Tenant], world: &World) {
    for tenant in tenants {
        loop {
            app.manager.wake(&tenant.id);
            let bot = app.store.instances(&tenant.id).get().await.unwrap();
            if is_as_wanted(&bot, world) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

fn is_as_wanted(bot: &Instance, world: &World) -> bool {
    let runs = world.runtime.is_running(&bot.id);
    match bot.desired {
        Desired::Running => bot.observed == Observed::Running && runs,
        Desired::Stopped => bot.observed == Observed::Suspended && !runs,
        Desired::Deleted => false,
    }
}

/// Runs `work` in a runtime of its own: at its end, everything that it has begun is gone at once.
fn in_a_life<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(work)
}

fn never_two_and_as_wanted_in_the_end(all: &[Life]) {
    let world = World::new();
    let tenants = in_a_life(async {
        let (app, _, store) = world.platform(NEVER).await;
        let mut tenants = Vec::new();
        for name in TENANTS {
            let email = format!("owner@{name}.example");
            let new = NewTenant { name: name.to_owned(), email, display_name: None, plan: None };
            tenants.push(app.tenant.create(new).await.unwrap().0);
        }
        store.close().await;
        tenants
    });
    for life in all {
        in_a_life(async {
            let (app, seen, _store) = world.platform(life.calls).await;
            tokio::select! {
                () = seen.killed.notified() => {}
                ended = tokio::time::timeout(PATIENCE, lives(&app, life, &tenants, &world)) => {
                    assert!(ended.is_ok(), "never as it is wanted, in {life:?}");
                }
            }
        });
    }
    in_a_life(async {
        let (app, _, store) = world.platform(NEVER).await;
        let calm = Life { happenings: Vec::new(), calls: NEVER };
        let ended = tokio::time::timeout(PATIENCE, lives(&app, &calm, &tenants, &world)).await;
        assert!(ended.is_ok(), "never as it is wanted at last");
        app.stop.cancel();
        app.manager.stop_all(PATIENCE).await;
        for tenant in &tenants {
            let bot = store.instances(&tenant.id).get().await.unwrap();
            assert!(!world.runtime.is_running(&bot.id), "left running: {bot:?}");
        }
        store.close().await;
    });
    let violations = world.violations.lock().unwrap_or_else(PoisonError::into_inner).clone();
    assert!(violations.is_empty(), "{violations:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn however_often_it_is_killed(all in prop::collection::vec(life(), 1..8)) {
        never_two_and_as_wanted_in_the_end(&all);
    }
}

#[test]
fn wherever_it_is_killed() {
    for calls in 0..30 {
        let restart = vec![Happening::Calm(30), Happening::Asked(0, Operation::Restart)];
        never_two_and_as_wanted_in_the_end(&[Life { happenings: restart, calls }]);
    }
}
