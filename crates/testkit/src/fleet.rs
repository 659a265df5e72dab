//! A platform whose roles run apart: processes of the real `astrfleet` binary on one PostgreSQL, one Redis and one folder,
//! in front of a model provider that is a fake. Each can be killed, frozen, ended in order and started again on its port.

pub(crate) mod counted;
mod load;
mod service;
mod takers;

use std::{collections::BTreeMap, path::PathBuf, process::Stdio, sync::Arc, time::Duration};

use astrfleet_core::time::Timestamp;
use rustix::process::Signal;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::{Child, Command};

pub use self::load::{Failed, Load, Outcome, Traffic, Tries};
use self::{service::Service, takers::Takers};
use crate::{
    binary::{FOREIGN, Output, built_binary, collect},
    client::Api,
    disk::SmallDisk,
    fake_provider::FakeProvider,
    parts::runtime_dir,
    ports::free_port,
    postgres::{Database, Postgres},
    processes::{signal, working_in},
    redis::Redis,
    s3::S3,
};

/// Every role.
pub const ROLES: [&str; 7] = ["gateway", "auth", "tenant", "session", "message", "llm", "manager"];
/// The first administrator.
pub const ADMIN: &str = "admin@fleet.test";
/// Everybody's.
pub const PASSWORD: &str = "only for fleets 1";
const SECRET: &str = "a secret of fleets, of at least 32 characters";
/// Ports for the bots of one fleet.
const BOT_PORTS: u32 = 20;
/// How long an end that was asked for may take.
const END_PATIENCE: Duration = Duration::from_mins(1);
/// Between two looks at something that tells nobody when it changes.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Where a port is reached by others; by default at itself. The first argument says whose it is, and by whom: `postgres`,
/// `redis`, `s3`; `models` by bots; a process's name such as `message-0` by gateways, and `peers-message-0` by those that
/// learn from the database where it is.
pub type Via = Box<dyn FnMut(&str, u16) -> u16 + Send>;

/// What a fleet consists of.
pub struct FleetOptions {
    /// How many processes of each role.
    pub counts: BTreeMap<&'static str, usize>,
    /// Further lines of the configuration file: sections that the file does not have otherwise.
    pub config: String,
    /// For something in between, that delays or cuts.
    pub via: Via,
    /// Files go to an S3 storage instead of the folder that all share.
    pub with_s3: bool,
    /// The folder that all share is a disk of so many megabytes.
    pub disk_megabytes: Option<u32>,
    /// The database is on a disk of so many megabytes.
    pub database_disk_megabytes: Option<u32>,
    /// How long all of it may take to be ready; the first time, the bots' environment may have to be prepared.
    pub ready_within: Duration,
    /// What its processes are; by default the binary that is tested.
    pub program: PathBuf,
}

impl Default for FleetOptions {
    fn default() -> Self {
        Self {
            counts: ROLES.map(|role| (role, 2)).into(),
            config: String::new(),
            via: Box::new(|_, port| port),
            with_s3: false,
            disk_megabytes: None,
            database_disk_megabytes: None,
            ready_within: Duration::from_mins(10),
            program: built_binary(),
        }
    }
}

/// One process of the platform.
struct Member {
    role: &'static str,
    name: String,
    port: u16,
    /// Where it says that others reach it.
    advertised: String,
    child: Option<Child>,
    output: Arc<Output>,
}

/// The fleet. Dropping it kills all of it.
pub struct Fleet {
    /// The database server.
    pub postgres: Postgres,
    database: Database,
    /// What carries events.
    pub redis: Redis,
    /// Where files are, if not in the folder that all share.
    pub s3: Option<S3>,
    /// What models are asked of.
    pub provider: FakeProvider,
    /// The disk of the folder that all share, if it is a small one.
    pub disk: Option<SmallDisk>,
    /// The database's, in the same way.
    pub database_disk: Option<SmallDisk>,
    folder: TempDir,
    members: Vec<Member>,
    environment: Vec<(String, String)>,
    ready_within: Duration,
    program: PathBuf,
    models: Service,
    takers: Takers,
}

impl Fleet {
    /// Starts everything and waits until every process is ready.
    ///
    /// # Panics
    /// When one is not in time; the text holds the end of its log.
    pub async fn start(mut options: FleetOptions) -> Self {
        let database_disk = options.database_disk_megabytes.map(SmallDisk::mount);
        let postgres = match &database_disk {
            Some(disk) => Postgres::start_in(disk.path()).await,
            None => Postgres::start().await,
        };
        let redis = Redis::start().await;
        let database = postgres.database().await;
        let provider = FakeProvider::start();
        let folder = tempfile::Builder::new().prefix("astrfleet-fleet-").tempdir().unwrap();
        let mut members = Vec::new();
        for role in ROLES {
            for number in 0..options.counts.get(role).copied().unwrap_or_default() {
                let (name, port, output) = (format!("{role}-{number}"), free_port(), Arc::new(Output::default()));
                let advertised = format!("http://127.0.0.1:{}", (options.via)(&format!("peers-{name}"), port));
                members.push(Member { role, name, port, advertised, child: None, output });
            }
        }
        let models = Service::start();
        let models_port = (options.via)("models", models.port);
        let config = config(&members, &provider, models_port, &mut options);
        std::fs::write(folder.path().join("astrfleet.toml"), config).unwrap();
        let s3 = if options.with_s3 { Some(S3::seaweed().await) } else { None };
        let disk = options.disk_megabytes.map(SmallDisk::mount);
        let mut environment = vec![
            ("DB_HOST", "127.0.0.1".to_owned()),
            ("DB_PORT", (options.via)("postgres", postgres.port()).to_string()),
            ("DB_NAME", database.name().to_owned()),
            ("DB_USER", postgres.owner().to_owned()),
            ("DB_PASSWORD", "not asked for".to_owned()),
            ("REDIS_HOST", "127.0.0.1".to_owned()),
            ("REDIS_PORT", (options.via)("redis", redis.port()).to_string()),
            ("JWT_SECRET", SECRET.to_owned()),
            ("ASTRFLEET_ADMIN_EMAIL", ADMIN.to_owned()),
            ("ASTRFLEET_ADMIN_PASSWORD", PASSWORD.to_owned()),
        ];
        if let Some(settings) = s3.as_ref().map(S3::settings) {
            let port = settings.endpoint.rsplit(':').next().and_then(|port| port.parse().ok()).unwrap();
            let port = (options.via)("s3", port);
            environment.extend([
                ("ASTRFLEET__BLOBS__ENDPOINT", format!("http://127.0.0.1:{port}")),
                ("ASTRFLEET__BLOBS__REGION", settings.region),
                ("ASTRFLEET__BLOBS__BUCKET", settings.bucket),
                ("MINIO_ACCESS_KEY", settings.access_key.expose_secret().to_owned()),
                ("MINIO_SECRET_KEY", settings.secret_key.expose_secret().to_owned()),
            ]);
        }
        let environment = environment.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let (ready_within, program) = (options.ready_within, options.program);
        let mut fleet = Self {
            postgres,
            database,
            redis,
            s3,
            provider,
            disk,
            database_disk,
            folder,
            members,
            environment,
            ready_within,
            program,
            models,
            takers: Takers::default(),
        };
        for index in 0..fleet.members.len() {
            fleet.spawn(index, &[]);
        }
        for index in 0..fleet.members.len() {
            fleet.wait_until_ready(index).await;
        }
        fleet
    }

    /// A verb of the program with the settings of the fleet, and nobody else's.
    fn command(&self, verb: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(verb).arg("--config").arg(self.folder.path().join("astrfleet.toml"));
        let own = std::env::vars_os().map(|(name, _)| name);
        for name in own.filter(|name| name.to_string_lossy().starts_with("ASTRFLEET")) {
            command.env_remove(name);
        }
        for name in FOREIGN {
            command.env_remove(name);
        }
        command.envs(self.environment.iter().cloned()).stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    fn spawn(&mut self, index: usize, further: &[(&str, &str)]) {
        let member = &self.members[index];
        let listen = format!("127.0.0.1:{}", member.port);
        let mut command = self.command(&["serve", "--roles", member.role, "--json", "--listen", &listen]);
        command.arg("--data-dir").arg(self.data_dir()).arg("--runtime-dir").arg(runtime_dir());
        command.env("ASTRFLEET__SERVE__ADVERTISE", &member.advertised);
        command.envs(further.iter().copied()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let member = &mut self.members[index];
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
        member.output.begin();
        tokio::spawn(collect(child.stdout.take().unwrap(), Arc::clone(&member.output)));
        tokio::spawn(collect(child.stderr.take().unwrap(), Arc::clone(&member.output)));
        member.child = Some(child);
    }

    async fn wait_until_ready(&mut self, index: usize) {
        let limit = self.ready_within;
        let member = &mut self.members[index];
        let child = member.child.as_mut().unwrap();
        let why = tokio::select! {
            _ = member.output.wait_for("ready") => {
                if member.role == "llm" {
                    self.models.take_in(member.port);
                }
                self.takers.take_in(&member.name, member.role, format!("http://127.0.0.1:{}", member.port));
                return;
            }
            status = child.wait() => format!("ended with {status:?}"),
            () = tokio::time::sleep(limit) => "was not ready in time".to_owned(),
        };
        panic!("{} {why}; the end of its log:\n{}", member.name, member.output.end());
    }

    /// The names of the processes of a role: `message-0`, `message-1`.
    #[must_use]
    pub fn of(&self, role: &str) -> Vec<String> {
        self.members.iter().filter(|member| member.role == role).map(|member| member.name.clone()).collect()
    }

    /// The names of all processes.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.members.iter().map(|member| member.name.clone()).collect()
    }

    fn index(&self, name: &str) -> usize {
        self.members.iter().position(|member| member.name == name).expect("there is a process of this name")
    }

    /// Where a process listens.
    #[must_use]
    pub fn url(&self, name: &str) -> String {
        format!("http://127.0.0.1:{}", self.members[self.index(name)].port)
    }

    /// The gateways, without credentials.
    #[must_use]
    pub fn gateways(&self) -> Vec<Api> {
        self.of("gateway").iter().map(|name| Api::new(&self.url(name))).collect()
    }

    /// The first administrator, at the first gateway.
    pub async fn admin(&self) -> Api {
        self.gateways()[0].log_in(ADMIN, PASSWORD).await
    }

    /// The folder that all processes share, with the bots in it.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.disk.as_ref().map_or_else(|| self.folder.path(), SmallDisk::path).join("data")
    }

    /// The database, for a look at what is stored.
    #[must_use]
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// What a process has written, since it was first started.
    #[must_use]
    pub fn log(&self, name: &str) -> Vec<String> {
        self.members[self.index(name)].output.lines.lock().unwrap().clone()
    }

    /// How far the clock of a process is off from that of the database, by the last line of its log that has a time.
    ///
    /// # Panics
    /// When there is none.
    pub async fn clock_is_off(&self, name: &str) -> Duration {
        const NOW: &str = "SELECT micros FROM database_clock";
        let lines = self.log(name);
        let mut times = lines.iter().rev().filter_map(|line| {
            let line: Value = serde_json::from_str(line).ok()?;
            serde_json::from_value::<Timestamp>(line["timestamp"].clone()).ok()
        });
        let said = times.next().expect("it has written something").micros();
        let now: i64 = sqlx::query_scalar(NOW).fetch_one(&self.database.pool).await.unwrap();
        Duration::from_micros(said.abs_diff(now))
    }

    /// What a process says of itself at `/ready`; none where it does not answer.
    pub async fn readiness(&self, name: &str) -> Option<(u16, bool)> {
        let answer = Api::new(&self.url(name)).try_send(reqwest::Method::GET, "/ready", None).await.ok()?;
        Some((answer.status, answer.headers.contains_key("x-astrfleet-stands-by")))
    }

    /// The manager that keeps the bots. Waits until there is one.
    ///
    /// # Panics
    /// When there is none within a minute.
    pub async fn keeper(&self) -> String {
        let find = async {
            loop {
                for name in self.of("manager") {
                    if self.readiness(&name).await == Some((200, false)) {
                        return name;
                    }
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        tokio::time::timeout(Duration::from_mins(1), find).await.expect("a manager keeps the bots")
    }

    /// The process that has the queue before a tenant's bot. Waits until there is one.
    ///
    /// # Panics
    /// When there is none within a minute.
    pub async fn owner_of(&self, tenant: &str) -> String {
        const OWNER: &str = "SELECT leases.url FROM leases JOIN tenants ON leases.name = 'queue/' || tenants.id
            WHERE tenants.name = $1 AND leases.expires_at > (SELECT micros FROM database_clock)";
        let find = async {
            loop {
                let url: Option<String> =
                    sqlx::query_scalar(OWNER).bind(tenant).fetch_optional(&self.database.pool).await.unwrap();
                let found = url.and_then(|url| self.members.iter().find(|member| member.advertised == url));
                if let Some(member) = found {
                    return member.name.clone();
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        tokio::time::timeout(Duration::from_mins(1), find).await.expect("a process has the queue")
    }

    /// The metrics of a process, as text.
    pub async fn metrics(&self, name: &str) -> String {
        let ready = self.members[self.index(name)].output.wait_for("ready").await;
        let url = ready["metrics_url"].as_str().expect("metrics are on").to_owned();
        reqwest::get(url).await.unwrap().text().await.unwrap()
    }

    /// Kills a process at once.
    pub async fn kill_9(&mut self, name: &str) {
        let index = self.index(name);
        if let Some(mut child) = self.members[index].child.take() {
            child.kill().await.ok();
        }
    }

    /// Asks a process to end, and waits until it has; nobody new is sent to it meanwhile. Returns whether it ended well.
    ///
    /// # Panics
    /// When it has not after a minute.
    pub async fn terminate(&mut self, name: &str) -> bool {
        let index = self.index(name);
        let member = &mut self.members[index];
        let mut child = member.child.take().expect("the process runs");
        self.models.leave_out(member.port);
        self.takers.leave_out(name);
        signal(pid(&child), Signal::TERM);
        let ended = tokio::time::timeout(END_PATIENCE, child.wait()).await;
        ended.unwrap_or_else(|late| panic!("{name} runs on ({late}):\n{}", member.output.end())).unwrap().success()
    }

    /// Starts a process again on its port, and waits until it is ready. One that runs on is left alone.
    ///
    /// # Panics
    /// When it does not become ready.
    pub async fn restart(&mut self, name: &str) {
        self.restart_with(name, &[]).await;
    }

    /// The same with further variables in its environment.
    ///
    /// # Panics
    /// When it does not become ready.
    pub async fn restart_with(&mut self, name: &str, further: &[(&str, &str)]) {
        let index = self.index(name);
        if let Some(child) = &mut self.members[index].child
            && child.try_wait().unwrap().is_none()
        {
            return;
        }
        self.spawn(index, further);
        self.wait_until_ready(index).await;
    }

    /// What starts from now on is this program. What runs, runs on.
    pub fn go_over_to(&mut self, program: PathBuf) {
        self.program = program;
    }

    /// Runs a verb of the program to its end, as one would beside the fleet, and gives what it printed.
    ///
    /// # Panics
    /// When it fails, with what it said.
    pub async fn run(&self, verb: &[&str]) -> String {
        let output = self.command(verb).output().await.unwrap();
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{verb:?}: {}{}", said(&output.stdout), said(&output.stderr));
        said(&output.stdout)
    }

    /// What the process of this name is: the program that it was started from.
    #[must_use]
    pub fn program_of(&self, name: &str) -> PathBuf {
        let child = self.members[self.index(name)].child.as_ref().expect("the process runs");
        std::fs::read_link(format!("/proc/{}/exe", pid(child))).unwrap()
    }

    /// Starts every process again that has ended, as whatever supervises them would.
    pub async fn restart_all(&mut self) {
        for name in self.names() {
            self.restart(&name).await;
        }
    }

    /// Stops a process in the middle of whatever it does.
    pub fn freeze(&self, name: &str) {
        self.signal(name, Signal::STOP);
    }

    /// Lets it go on.
    pub fn thaw(&self, name: &str) {
        self.signal(name, Signal::CONT);
    }

    fn signal(&self, name: &str, how: Signal) {
        let child = self.members[self.index(name)].child.as_ref().expect("the process runs");
        signal(pid(child), how);
    }

    /// A tenant with a bot that is ready, its owner and a key that may chat. Both speak to the first gateway.
    ///
    /// # Panics
    /// When its bot is not ready within three minutes.
    pub async fn tenant(&self, admin: &Api, name: &str) -> (Api, Api) {
        let tenant = json!({"name": name, "email": format!("billing@{name}.test")});
        let _ = admin.post("/api/v1/tenants", tenant).await.ok();
        let email = format!("owner@{name}.test");
        let user = admin.post("/api/v1/users", json!({"email": email, "password": PASSWORD})).await.ok();
        let path = format!("/api/v1/tenants/{name}/members/{}", user["id"].as_str().unwrap());
        let _ = admin.put(&path, json!({"role": "owner"})).await.ok();
        let owner = self.gateways()[0].log_in(&email, PASSWORD).await;
        let wanted = json!({"name": "fleet", "scopes": ["chat"]});
        let made = owner.post(&format!("/api/v1/tenants/{name}/api-keys"), wanted).await.ok();
        let key = owner.as_bearer(made["secret"].as_str().unwrap());
        let mut last = Value::Null;
        let ready = async {
            loop {
                last = owner.get(&format!("/api/v1/tenants/{name}/instance")).await.body;
                if last["ready"] == true {
                    return;
                }
                tokio::time::sleep(4 * LOOK_EVERY).await;
            }
        };
        let in_time = tokio::time::timeout(Duration::from_mins(3), ready).await.is_ok();
        assert!(in_time, "the bot of {name} did not become ready: {last}");
        (owner, key)
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        let running: Vec<i32> = self.members.iter().filter_map(|member| member.child.as_ref()).map(pid).collect();
        for pid in running.into_iter().chain(working_in(&self.data_dir())) {
            signal(pid, Signal::KILL);
        }
        // What was being started while we looked.
        for pid in working_in(&self.data_dir()) {
            signal(pid, Signal::KILL);
        }
        if std::thread::panicking() {
            for member in &self.members {
                eprintln!("the end of the log of {}:\n{}", member.name, member.output.end());
            }
        }
    }
}

fn pid(child: &Child) -> i32 {
    child.id().and_then(|pid| i32::try_from(pid).ok()).unwrap_or_default()
}

fn config(members: &[Member], provider: &FakeProvider, models: u16, options: &mut FleetOptions) -> String {
    let mut remote = Vec::new();
    for role in ROLES.into_iter().filter(|role| *role != "gateway") {
        let of_role = members.iter().filter(|member| member.role == role);
        let addresses = of_role.map(|member| (options.via)(&member.name, member.port));
        let addresses: Vec<String> = addresses.map(|port| format!("\"http://127.0.0.1:{port}\"")).collect();
        remote.push(format!("{role} = [{}]", addresses.join(", ")));
    }
    let remote = remote.join("\n");
    let gateway = members.iter().find(|member| member.role == "gateway").map_or(0, |member| member.port);
    // Beside the range of a platform that somebody runs on this machine, or that other tests do.
    let ports = 18_000 + std::process::id() % 100 * BOT_PORTS;
    format!(
        r#"
        [log]
        format = "json"
        [gateway]
        metrics_listen = "127.0.0.1:0"
        workers = 1
        rate_limit_per_minute = 600000
        anonymous_rate_limit_per_minute = 60000
        [gateway.remote]
        {remote}
        [gateway.balance]
        probe_period_ms = 200
        probe_timeout_ms = 1000
        circuit_failures = 3
        circuit_open_ms = 500
        circuit_open_max_ms = 2000
        [serve]
        drain_delay_s = 1
        [database]
        max_connections = 6
        statement_timeout_s = 5
        lock_timeout_s = 3
        [webhooks]
        timeout_s = 10
        allow_private = true
        allow_http = true
        [message]
        lease_life_ms = 3000
        [bridge]
        url = "http://127.0.0.1:{gateway}/bridge/v1"
        [manager]
        llm_url = "http://127.0.0.1:{models}/llm/v1"
        lease_life_ms = 3000
        liveness_period_s = 2
        leave_bots = true
        [llm]
        model = "fast"
        [[llm.upstreams]]
        name = "fake"
        base_url = "{}"
        api_key = "sk-of-the-fleet"
        models = {{ fast = "fake-fast" }}
        timeout_s = 10
        # All faults together take more than a day's messages of a free tenant.
        [plans.free]
        messages_per_day = 1000000
        tokens_per_month = 1000000000
        [bots]
        port_first = {ports}
        port_last = {}
        {}
        "#,
        provider.url(),
        ports + BOT_PORTS - 1,
        options.config,
    )
}
