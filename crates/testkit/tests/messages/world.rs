//! A platform that can be killed and started again, on a database and bots that outlive it.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use astrfleet_adapters::{blobs::FolderBlobs, bus::MemoryBus};
use astrfleet_core::{
    Result,
    id::{Ids, MessageId, SessionId, TenantId},
    instance::{Desired, Instance, Observed},
    message::{Exchange, Message, State},
    page::PageRequest,
    ports::{Bus, Clock, Rng, Store, testing::CountingRng},
    session::{Session, State as SessionState},
    tenant::{Status, Tenant},
    time::Timestamp,
};
use astrfleet_server::{
    app::{App, Ports, router},
    config::ServerConfig,
    message::{
        accept::Words,
        live::{Position, Said},
    },
    role::Role,
};
use astrfleet_store::{Db, PgSettings};
use astrfleet_testkit::{
    app::default_sections,
    backends::Backends,
    postgres::{Database, Postgres},
};
use futures_util::StreamExt;
use serde_json::json;
use tokio::task::JoinHandle;

use crate::{
    bots::{Fleet, FleetPorts},
    files::{Moods, MoodyBlobs},
};

/// Threads of a platform.
const WORKERS: usize = 2;
/// How long anything may take: only a test that hangs waits so long.
const LIMIT: Duration = Duration::from_mins(1);

/// The real time, and never the same moment twice.
pub struct TestClock(AtomicI64);

impl Clock for TestClock {
    #[expect(clippy::disallowed_methods, reason = "this is where a test takes the time from")]
    fn now(&self) -> Timestamp {
        let real = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let real = i64::try_from(real.as_micros()).unwrap();
        let last = self.0.fetch_max(real, Ordering::SeqCst);
        if last < real {
            Timestamp::from_micros(real)
        } else {
            Timestamp::from_micros(self.0.fetch_add(1, Ordering::SeqCst) + 1)
        }
    }

    fn elapsed(&self) -> Duration {
        static BEGAN: std::sync::LazyLock<std::time::Instant> = std::sync::LazyLock::new(std::time::Instant::now);
        BEGAN.elapsed()
    }
}

/// One that is behind by so much.
struct Behind(Arc<TestClock>, Duration);

impl Clock for Behind {
    fn now(&self) -> Timestamp {
        self.0.now().minus(self.1)
    }

    fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

/// What outlives a platform.
pub struct World {
    pub folder: tempfile::TempDir,
    pub clock: Arc<TestClock>,
    pub rng: Arc<dyn Rng>,
    pub fleet: Arc<Fleet>,
    pub ids: Ids,
    pub config: serde_json::Value,
    /// How the storage of files does: a folder, whatever the backends are.
    pub moods: Arc<Moods>,
    /// What its platforms stand on.
    backends: Backends,
    /// Where there is one, platforms that run beside each other are on it, or on that of the backends: events arrive.
    /// Otherwise each is told what it did itself, alone.
    bus: Option<Arc<MemoryBus>>,
    /// Instead of the backends' own.
    database: Option<Database>,
    bots: tokio::runtime::Runtime,
}

impl World {
    pub fn new() -> Self {
        let bots = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let clock = Arc::new(TestClock(AtomicI64::new(0)));
        let rng: Arc<dyn Rng> = Arc::new(CountingRng::default());
        Self {
            folder: tempfile::tempdir().unwrap(),
            ids: Ids::new(Arc::clone(&clock) as _, Arc::clone(&rng)),
            fleet: Fleet::new(Arc::clone(&clock) as _, bots.handle().clone()),
            clock,
            rng,
            config: config(),
            moods: Arc::default(),
            backends: bots.block_on(Backends::chosen()),
            bus: None,
            database: None,
            bots,
        }
    }

    /// On what is built in, whatever all others stand on.
    pub fn on_sqlite(mut self) -> Self {
        self.backends = Backends::BuiltIn;
        self
    }

    /// With PostgreSQL instead of SQLite.
    pub fn on_postgres(mut self) -> Self {
        self.database = Some(self.bots.block_on(async { Postgres::shared().await.database().await }));
        self
    }

    /// With a bus between its platforms.
    pub fn with_bus(mut self) -> Self {
        self.bus = Some(Arc::new(MemoryBus::new(10_000)));
        self
    }

    /// Changes a setting.
    pub fn set(mut self, pointer: &str, value: serde_json::Value) -> Self {
        *self.config.pointer_mut(pointer).unwrap() = value;
        self
    }

    /// Where files lie.
    pub fn blobs_folder(&self) -> std::path::PathBuf {
        self.folder.path().join("blobs")
    }

    /// Writes to the database, which is [`World::on_sqlite`], until [`World::release_the_writer`]: everybody else waits.
    pub fn hold_the_writer(&self) -> sqlx::Transaction<'static, sqlx::Sqlite> {
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(self.folder.path().join("test.sqlite"));
        self.bots.block_on(async {
            let pool = sqlx::SqlitePool::connect_with(options).await.unwrap();
            pool.begin_with("BEGIN IMMEDIATE").await.unwrap()
        })
    }

    /// Has written nothing.
    pub fn release_the_writer(&self, writer: sqlx::Transaction<'static, sqlx::Sqlite>) {
        self.bots.block_on(writer.rollback()).unwrap();
    }

    async fn open(&self) -> Db {
        match &self.database {
            Some(database) => Db::open_postgres(&database.url().into(), &PgSettings::default()).await.unwrap(),
            None => self.backends.store(&self.folder).await,
        }
    }

    /// For a platform that is alone, or runs beside others.
    async fn bus(&self, alone: bool) -> Arc<dyn Bus> {
        match (&self.backends, &self.bus) {
            (Backends::Servers(_), bus) if alone || bus.is_some() => self.backends.bus().await,
            (_, Some(bus)) => Arc::clone(bus) as _,
            (_, None) => Arc::new(MemoryBus::new(1_000)),
        }
    }

    /// A platform with all loops running, alone with its database.
    pub fn start(&self) -> Platform {
        self.start_with(true, Arc::clone(&self.clock) as _)
    }

    /// The same, with a clock that is behind.
    pub fn start_behind(&self, by: Duration) -> Platform {
        self.start_with(true, Arc::new(Behind(Arc::clone(&self.clock), by)))
    }

    /// One that runs beside others, and is reached by them.
    pub fn start_beside(&self) -> Platform {
        self.start_with(false, Arc::clone(&self.clock) as _)
    }

    fn start_with(&self, alone: bool, clock: Arc<dyn Clock>) -> Platform {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(WORKERS).enable_all().build().unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let app = runtime.block_on(async {
            let db = self.open().await;
            db.migrate_up(self.clock.now()).await.unwrap();
            if alone {
                db.leases().free_all().await.unwrap();
            }
            let ports = Ports {
                store: Arc::new(db),
                bus: self.bus(alone).await,
                limiter: self.backends.limiter(Arc::clone(&clock)).await,
                cache: self.backends.cache().await,
                blobs: Arc::new(MoodyBlobs {
                    folder: FolderBlobs::open(&self.blobs_folder()).unwrap(),
                    moods: Arc::clone(&self.moods),
                }),
                runtime: Arc::new(FleetPorts(Arc::clone(&self.fleet))),
                bots: Arc::new(FleetPorts(Arc::clone(&self.fleet))),
                clock,
                rng: Arc::clone(&self.rng),
            };
            let mut config: ServerConfig = serde_json::from_value(self.config.clone()).unwrap();
            config.serve.advertise = format!("http://{}", listener.local_addr().unwrap());
            let app = App::new(ports, config, BTreeSet::from(Role::ALL)).unwrap();
            listener.set_nonblocking(true).unwrap();
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let service = router(app.clone()).into_make_service_with_connect_info::<SocketAddr>();
            tokio::spawn(axum::serve(listener, service).into_future());
            app.manager.set_llm_base_url("http://127.0.0.1:1/llm/v1".to_owned());
            app.manager.adopt().await.unwrap();
            app.start_loops();
            app
        });
        Platform { app, runtime }
    }

    /// A tenant whose bot is wanted.
    pub fn tenant(&self, platform: &Platform, name: &str) -> Arc<Tenant> {
        let now = self.clock.now();
        let tenant = Tenant {
            id: self.ids.tenant(),
            name: name.to_owned(),
            display_name: name.to_owned(),
            email: format!("{name}@example.com"),
            plan: "free".to_owned(),
            status: Status::Active,
            erase_at: None,
            retention_days: None,
            created_at: now,
            updated_at: now,
            version: 1,
        };
        let instance = Instance {
            id: self.ids.instance(),
            tenant_id: tenant.id.clone(),
            desired: Desired::Running,
            observed: Observed::Pending,
            generation: 0,
            reason: String::new(),
            since: now,
            version: String::new(),
            port: None,
            restarts: 0,
            secrets_version: 0,
            created_at: now,
            version_lock: 1,
        };
        platform.run(async |app| {
            app.store.tenants().insert(&tenant, &instance, None).await.unwrap();
            app.bus.publish(astrfleet_core::ports::BusEvent::TenantChanged(tenant.id.clone()));
        });
        Arc::new(tenant)
    }

    pub fn session(&self, platform: &Platform, tenant: &TenantId) -> SessionId {
        let now = self.clock.now();
        let session = Session {
            id: self.ids.session(),
            tenant_id: tenant.clone(),
            end_user: "ada".to_owned(),
            channel: "api".to_owned(),
            umo: None,
            state: SessionState::Bot,
            close_reason: None,
            metadata: json!({}),
            generation: 0,
            created_at: now,
            last_active_at: now,
            version: 1,
        };
        platform.run(async |app| app.store.sessions(tenant).insert(&session).await.unwrap());
        session.id
    }

    /// A platform with one tenant whose bot is ready, and one session.
    pub fn ready(&self) -> (Platform, Arc<Tenant>, SessionId) {
        self.ready_on(self.start())
    }

    /// The same on a platform that runs.
    pub fn ready_on(&self, platform: Platform) -> (Platform, Arc<Tenant>, SessionId) {
        let tenant = self.tenant(&platform, "acme");
        let session = self.session(&platform, &tenant.id);
        platform.run(async |app| app.manager.wait_ready(&tenant.id, LIMIT).await.unwrap());
        (platform, tenant, session)
    }
}

/// A process that stands still, as after SIGSTOP: no task of it goes on, at whatever it is waiting.
pub struct Frozen(Arc<(Mutex<Stand>, Condvar)>);

#[derive(Default)]
struct Stand {
    still: usize,
    goes_on: bool,
}

impl Frozen {
    /// SIGCONT.
    pub fn thaw(self) {
        drop(self);
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.0.0.lock().unwrap().goes_on = true;
        self.0.1.notify_all();
    }
}

/// A process.
pub struct Platform {
    pub app: App,
    runtime: tokio::runtime::Runtime,
}

impl Platform {
    /// Does something in it, within the limit.
    pub fn run<T>(&self, work: impl AsyncFnOnce(&App) -> T) -> T {
        self.runtime.block_on(async { tokio::time::timeout(LIMIT, work(&self.app)).await.expect("in time") })
    }

    /// Has all of its threads stand still.
    pub fn freeze(&self) -> Frozen {
        let gate = Arc::new((Mutex::new(Stand::default()), Condvar::new()));
        for _ in 0..WORKERS {
            let gate = Arc::clone(&gate);
            self.runtime.spawn(async move {
                let mut stand = gate.0.lock().unwrap();
                stand.still += 1;
                gate.1.notify_all();
                drop(gate.1.wait_while(stand, |stand| !stand.goes_on).unwrap());
            });
        }
        let stand = gate.0.lock().unwrap();
        drop(gate.1.wait_while(stand, |stand| stand.still < WORKERS).unwrap());
        Frozen(gate)
    }

    /// `kill -9`: every task ends where it stands.
    pub fn kill(self) {
        let Self { app, runtime } = self;
        runtime.shutdown_timeout(LIMIT);
        drop(app);
    }

    /// The end as it should be.
    pub fn end(self) {
        self.run(async |app| {
            app.message.drain().await;
            app.stop.cancel();
            app.tasks.close();
            app.tasks.wait().await;
        });
        self.kill();
    }

    pub fn send(&self, tenant: &Arc<Tenant>, session: &SessionId, text: &str) -> MessageId {
        self.try_send(tenant, session, text, None).unwrap()
    }

    pub fn try_send(
        &self,
        tenant: &Arc<Tenant>,
        session: &SessionId,
        text: &str,
        key: Option<&str>,
    ) -> Result<MessageId> {
        let words = Words { text: text.to_owned(), attachments: Vec::new() };
        let key = key.map(str::to_owned);
        let taken = self.run(async |app| app.message.accept(Arc::clone(tenant), session.clone(), words, key).await)?;
        Ok(taken.id().clone())
    }

    /// Waits for the end of a message.
    pub fn wait(&self, tenant: &TenantId, message: &MessageId) -> Exchange {
        self.run(async |app| app.message.wait(tenant, message, LIMIT).await.unwrap())
    }

    /// Waits until a message is in a state.
    pub fn until(&self, tenant: &TenantId, message: &MessageId, state: State) -> Exchange {
        self.run(async |app| {
            loop {
                let exchange = app.store.messages(tenant).exchange(message).await.unwrap();
                if exchange.message.state == state {
                    return exchange;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
    }

    /// The whole stream after a position.
    pub fn stream(&self, tenant: &TenantId, message: &MessageId, after: Option<&str>) -> Vec<Said> {
        let position = after.map_or_else(Position::default, |after| after.parse().unwrap());
        self.run(async |app| app.message.stream(tenant, message, position).await.unwrap().collect().await)
    }

    /// The stream so far, up to the first event of this name.
    pub fn stream_until(&self, tenant: &TenantId, message: &MessageId, name: &str) -> Vec<Said> {
        self.run(async |app| {
            let mut stream = Box::pin(app.message.stream(tenant, message, Position::default()).await.unwrap());
            let mut said = Vec::new();
            while let Some(event) = stream.next().await {
                said.push(event);
                if said.last().is_some_and(|event| event.name == name) {
                    break;
                }
            }
            said
        })
    }

    /// Does something in it beside the test.
    pub fn spawn<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
        self.runtime.spawn(work)
    }

    /// Everything that was said in a session.
    pub fn said(&self, tenant: &TenantId, session: &SessionId) -> Vec<Message> {
        self.run(async |app| app.store.messages(tenant).list(session, &PageRequest::first()).await.unwrap().items)
    }
}

/// Waits until a condition holds.
pub fn until(condition: impl Fn() -> bool) {
    let begun = std::time::Instant::now();
    while !condition() {
        assert!(begun.elapsed() < LIMIT, "it never came so far");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The defaults, but where a test depends on a value.
fn config() -> serde_json::Value {
    let mut config = serde_json::to_value(default_sections()).unwrap();
    let ours = json!({
        "serve": { "advertise": "" },
        "gateway": {
            "listen": "127.0.0.1:0", "metrics_listen": "none", "workers": 1, "public_url": "",
            "dashboard_domain": "localhost", "rate_limit_per_minute": 100_000,
            "anonymous_rate_limit_per_minute": 1_000, "max_body_bytes": 262_144, "max_attachment_bytes": 1_000,
            "max_forwarded_body_bytes": 1_000_000, "request_timeout_s": 30, "upstream_timeout_s": 60,
            "drain_timeout_s": 10, "max_connections": 100, "trust_forwarded": false, "remote": {},
        },
        "auth": {
            "jwt_secret": "0123456789abcdef0123456789abcdef", "previous_jwt_secret": null, "access_token_ttl_s": 900,
            "refresh_token_ttl_s": 1_000, "invitation_ttl_s": 1_000, "login_attempts": 10, "login_window_s": 300,
            "cache_ttl_s": 10,
        },
        "tenant": { "default_plan": "free", "deletion_grace_s": 1_000 },
        "plans": { "free": {
            "concurrent_chats": 4, "messages_per_day": 1_000, "tokens_per_month": 1_000_000, "storage_bytes": 1_500,
            "bot_memory_bytes": 1_000_000, "bot_cpu_milli": 1_000,
        } },
        "session": { "idle_timeout_s": 3_600 },
        "message": {
            "concurrent_chats": 8, "queue_length": 50, "answer_timeout_s": 30, "wait_for_bot_s": 30,
            "stream_memory_s": 60, "max_attempts": 3, "lease_life_ms": 10_000, "idempotency_ttl_s": 86_400,
        },
        "events": { "retention_s": 604_800, "streams_per_tenant": 100 },
        "webhooks": {
            "timeout_s": 5, "allow_private": true, "allow_http": true, "max_per_tenant": 10, "pending_max": 1_000,
            "concurrency": 4, "concurrency_per_webhook": 2, "secret_overlap_s": 60, "disable_after_s": 432_000,
            "retention_s": 604_800,
        },
        "llm": {
            "api_key": null, "base_url": "https://api.example.com/v1", "model": "demo", "upstreams": [],
            "max_request_bytes": 1_000_000, "max_answer_bytes": 1_000_000, "concurrent_calls": 4,
            "cache": {"max_bytes": 0, "max_answer_bytes": 1, "ttl_s": 1, "answers": "repeatable"},
        },
        "manager": {
            "max_instances": 10, "concurrent_starts": 2, "start_timeout_s": 60, "liveness_period_s": 1,
            "liveness_failures": 2, "restart_after_failures": 5, "restart_backoff_s": 0, "restart_backoff_max_s": 0,
            "max_restarts": 100, "restarts_forgotten_after_s": 600,
        },
    });
    for (section, values) in ours.as_object().unwrap() {
        for (key, value) in values.as_object().unwrap() {
            config[section][key] = value.clone();
        }
    }
    config
}
