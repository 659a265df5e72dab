//! A real PostgreSQL as a child process with a folder of its own: one for all tests of a process, with a database for
//! each, or one for a test that has to kill it. Tests that need it fail where it is missing, and say how to get it.
//!
//! No server outlives its test process, however that ends: a small shell keeps it, and stops it when the pipe from the
//! test process closes.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use rustix::process::Signal;
use sqlx::{
    AssertSqlSafe, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::sync::OnceCell;

use crate::{
    parts::find,
    ports::free_port,
    processes::{wait_until_none_in, working_in},
};

/// Who may do everything; the server trusts whoever reaches it, which is this machine alone.
const USER: &str = "test";
/// Who owns every database, and is held by row-level security, as the platform is.
const OWNER: &str = "astrfleet";
/// Who may be let use tables, and owns nothing.
const GUEST: &str = "astrfleet_app";
/// A server on a small disk keeps little of its journal, and writes it to new files: a full disk stops it.
const SMALL: &[&str] = &["-c", "max_wal_size=32MB", "-c", "min_wal_size=32MB", "-c", "wal_recycle=off"];
/// How long a server may take to answer.
const PATIENCE: Duration = Duration::from_mins(1);
/// How long one look at a server that may be gone takes, and until the next one.
const LOOK_LIMIT: Duration = Duration::from_secs(1);

/// Stops the server and removes its folder when the test process is gone: `$1` is the folder, the rest the command.
const KEEPER: &str = r#"trap '' INT HUP TERM
folder=$1; shift
"$@" </dev/null & server=$!
cat >/dev/null
kill -QUIT $server 2>/dev/null
wait $server
rm -rf "$folder""#;

/// A running server.
pub struct Postgres {
    folder: PathBuf,
    port: u16,
    durable: bool,
    further: &'static [&'static str],
    keepers: Mutex<Vec<(Child, Option<ChildStdin>)>>,
    templates: Mutex<HashMap<String, Arc<OnceCell<String>>>>,
}

/// Where a server writes statements down.
pub struct StatementLog {
    path: PathBuf,
}

impl StatementLog {
    /// All of it.
    #[must_use]
    pub fn text(&self) -> String {
        std::fs::read_to_string(&self.path).unwrap()
    }
}

/// A database of one test; dropped with it.
pub struct Database {
    /// A pool of a few connections to it, of somebody who may do everything and sees everything.
    pub pool: PgPool,
    name: String,
    folder: PathBuf,
    port: u16,
}

impl Postgres {
    /// The server that all tests of this process share; started by the first.
    pub async fn shared() -> &'static Self {
        static SHARED: OnceLock<Postgres> = OnceLock::new();
        // Starting takes two seconds of other programs' work: not on a test's own thread.
        let server = tokio::task::spawn_blocking(|| SHARED.get_or_init(|| Self::initialise(false))).await.unwrap();
        server.wait_until_ready().await;
        server
    }

    /// A server of one test's own, for tests that kill it.
    pub async fn start() -> Self {
        Self::started(false).await
    }

    /// The same with everything on that makes a commit durable: for measuring.
    pub async fn start_durable() -> Self {
        Self::started(true).await
    }

    /// The same as [`Postgres::start`] in a folder of its own below this one, which has little room.
    pub async fn start_in(folder: &Path) -> Self {
        let folder = folder.join("postgresql");
        let server = tokio::task::spawn_blocking(move || Self::initialise_in(folder, false, SMALL)).await.unwrap();
        server.wait_until_ready().await;
        server
    }

    async fn started(durable: bool) -> Self {
        let server = tokio::task::spawn_blocking(move || Self::initialise(durable)).await.unwrap();
        server.wait_until_ready().await;
        server
    }

    fn initialise(durable: bool) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("astrfleet-pg-{}-{number}", std::process::id()));
        Self::initialise_in(folder, durable, &[])
    }

    fn initialise_in(folder: PathBuf, durable: bool, further: &'static [&'static str]) -> Self {
        std::fs::create_dir_all(&folder).unwrap();
        if is_root() {
            run(Command::new("chown").arg("postgres:").arg(&folder));
        }
        let mut initdb = as_postgres(&find("initdb"));
        run(initdb
            .args(["--no-sync", "--no-instructions", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8"])
            .arg(format!("--username={USER}"))
            .arg("-D")
            .arg(folder.join("data")));
        let port = free_port();
        let server = Self { folder, port, durable, further, keepers: Mutex::default(), templates: Mutex::default() };
        server.spawn();
        server
    }

    /// Starts the server process on its folder.
    fn spawn(&self) {
        let command = as_postgres(&find("postgres"));
        let mut keeper = Command::new("sh");
        keeper.args(["-c", KEEPER, "keeper"]).arg(&self.folder).arg(command.get_program()).args(command.get_args());
        keeper.args(["-c", "listen_addresses=127.0.0.1", "-c", "max_connections=200", "-c", "shared_buffers=64MB"]);
        if !self.durable {
            keeper.args(["-c", "fsync=off", "-c", "full_page_writes=off"]);
        }
        keeper.args(self.further);
        let log = std::fs::File::options().create(true).append(true).open(self.log_path()).unwrap();
        keeper.arg("-p").arg(self.port.to_string()).arg("-k").arg(&self.folder).arg("-D").arg(self.data());
        keeper.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log);
        let mut keeper = keeper.spawn().unwrap();
        let pipe = keeper.stdin.take();
        self.keepers.lock().unwrap().push((keeper, pipe));
    }

    async fn wait_until_ready(&self) {
        let answered = tokio::time::timeout(PATIENCE, async {
            while PgPoolOptions::new().max_connections(1).connect_with(self.options("postgres")).await.is_err() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        if answered.await.is_err() {
            let log = std::fs::read_to_string(self.log_path()).unwrap_or_default();
            panic!("PostgreSQL did not answer within {PATIENCE:?}:\n{log}");
        }
        self.make_roles().await;
    }

    async fn make_roles(&self) {
        let admin = PgPoolOptions::new().max_connections(1).connect_with(self.options("postgres")).await.unwrap();
        for role in [OWNER, GUEST] {
            // One of many that come here, or a server that was started anew, has it already.
            sqlx::raw_sql(AssertSqlSafe(format!("CREATE ROLE {role} LOGIN"))).execute(&admin).await.ok();
        }
        admin.close().await;
    }

    /// An empty database.
    pub async fn database(&self) -> Database {
        self.create("template0").await
    }

    /// A database that is a copy of what `fill` made once for this key: migrations run once a process, not once a test.
    ///
    /// # Panics
    /// When `fill` does.
    pub async fn database_like(&self, key: &str, fill: impl AsyncFnOnce(PgPool)) -> Database {
        let template = Arc::clone(self.templates.lock().unwrap().entry(key.to_owned()).or_default());
        let name = template
            .get_or_init(|| async {
                let database = self.create("template0").await;
                fill(database.pool.clone()).await;
                // A template must have no connection open.
                database.pool.close().await;
                let name = database.name.clone();
                // It stays as long as the server does.
                std::mem::forget(database);
                name
            })
            .await;
        self.create(name).await
    }

    /// An empty database of a name that is in use on another server.
    pub async fn database_named(&self, name: &str) -> Database {
        self.create_as(name.to_owned(), "template0").await
    }

    async fn create(&self, template: &str) -> Database {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        self.create_as(format!("test_{}", COUNT.fetch_add(1, Ordering::Relaxed)), template).await
    }

    async fn create_as(&self, name: String, template: &str) -> Database {
        let admin = PgPoolOptions::new().max_connections(1).connect_with(self.options("postgres")).await.unwrap();
        // Both names are our own.
        let create = AssertSqlSafe(format!("CREATE DATABASE {name} TEMPLATE {template} OWNER {OWNER}"));
        sqlx::raw_sql(create).execute(&admin).await.unwrap();
        admin.close().await;
        let pool = PgPoolOptions::new().max_connections(8).connect_with(self.options(&name)).await.unwrap();
        Database { pool, name, folder: self.folder.clone(), port: self.port }
    }

    /// Where its data lies, and all of its processes work.
    #[must_use]
    pub fn data_folder(&self) -> PathBuf {
        self.data()
    }

    /// The port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Who may do everything there; no password is asked for.
    #[must_use]
    pub fn user(&self) -> &'static str {
        USER
    }

    /// Who is held by row-level security.
    #[must_use]
    pub fn owner(&self) -> &'static str {
        OWNER
    }

    /// From here on, the server writes down every statement in `database`, with its values, a line of JSON each.
    pub async fn write_statements_down(&self, database: &Database) -> StatementLog {
        for setting in [
            "ALTER SYSTEM SET logging_collector = on".to_owned(),
            "ALTER SYSTEM SET log_destination = 'jsonlog'".to_owned(),
            "ALTER SYSTEM SET log_filename = 'statements'".to_owned(),
            format!("ALTER DATABASE {} SET log_statement = 'all'", database.name),
        ] {
            sqlx::raw_sql(AssertSqlSafe(setting)).execute(&database.pool).await.unwrap();
        }
        // The collector starts with the server alone.
        self.kill_9();
        self.restart().await;
        StatementLog { path: self.data().join("log").join("statements.json") }
    }

    /// How to connect to a database of this server.
    #[must_use]
    pub fn options(&self, database: &str) -> PgConnectOptions {
        options(&self.folder, self.port, database)
    }

    /// Kills the server at once, as a power cut would.
    pub fn kill_9(&self) {
        self.signal(Signal::KILL);
    }

    /// Asks it to end as an administrator does who restarts it: sessions are told, nothing is left to be recovered.
    pub fn end_in_order(&self) {
        self.signal(Signal::INT);
    }

    fn signal(&self, which: Signal) {
        let pid = std::fs::read_to_string(self.data().join("postmaster.pid")).unwrap();
        let pid = pid.lines().next().and_then(|pid| pid.parse().ok()).and_then(rustix::process::Pid::from_raw).unwrap();
        rustix::process::kill_process(pid, which).unwrap();
    }

    /// Starts it again if it has ended by itself, as whoever supervises it would, and waits until it answers.
    ///
    /// # Panics
    /// When it does not.
    pub async fn revive(&self) {
        let answers = async || {
            let asked = PgPoolOptions::new().max_connections(1).acquire_timeout(LOOK_LIMIT);
            asked.connect_with(self.options("postgres")).await.is_ok()
        };
        let revived = tokio::time::timeout(PATIENCE, async {
            while !answers().await {
                if working_in(&self.data()).is_empty() {
                    self.spawn();
                }
                tokio::time::sleep(LOOK_LIMIT).await;
            }
        });
        let log = || std::fs::read_to_string(self.log_path()).unwrap_or_default();
        assert!(revived.await.is_ok(), "PostgreSQL did not come back:\n{}", log());
    }

    /// Starts it again after [`Postgres::kill_9`] or [`Postgres::end_in_order`], on the same port with the same data.
    pub async fn restart(&self) {
        // Its children notice that it is gone, and hold its memory until then; all of them work in the data folder.
        wait_until_none_in(&self.data()).await;
        self.spawn();
        self.wait_until_ready().await;
    }

    /// Starts it anew as a standby, which only reads, and hears of nothing new.
    pub async fn become_standby(&self) {
        self.kill_9();
        std::fs::write(self.data().join("standby.signal"), "").unwrap();
        // It has to be told from where, and nobody is there.
        self.restart().await;
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn log_path(&self) -> PathBuf {
        self.folder.join("log")
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let mut keepers = std::mem::take(&mut *self.keepers.lock().unwrap());
        for (_, pipe) in &mut keepers {
            pipe.take();
        }
        for (keeper, _) in &mut keepers {
            keeper.wait().ok();
        }
        std::fs::remove_dir_all(&self.folder).ok();
    }
}

impl Database {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where its server listens, on the loopback address.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Who owns its tables, and is held by row-level security all the same.
    #[must_use]
    pub fn owner(&self) -> &'static str {
        OWNER
    }

    /// How to connect to it, by the socket in the server's folder.
    #[must_use]
    pub fn options(&self) -> PgConnectOptions {
        options(&self.folder, self.port, &self.name)
    }

    /// All that is in it, as text.
    ///
    /// # Panics
    /// When it cannot be read.
    #[must_use]
    pub fn dump(&self) -> Vec<u8> {
        let dumped = Command::new(find("pg_dump")).arg(self.url_of_superuser()).output().unwrap();
        assert!(dumped.status.success(), "{}", String::from_utf8_lossy(&dumped.stderr));
        dumped.stdout
    }

    /// Its address for other programs, as its owner.
    #[must_use]
    pub fn url(&self) -> String {
        self.url_of(OWNER)
    }

    /// The same as somebody who may do everything.
    #[must_use]
    pub fn url_of_superuser(&self) -> String {
        self.url_of(USER)
    }

    /// The same as [`Database::guest`].
    #[must_use]
    pub fn url_of_guest(&self) -> String {
        self.url_of(GUEST)
    }

    /// A role that owns nothing, and has no right that nobody gave it.
    #[must_use]
    pub fn guest(&self) -> &'static str {
        GUEST
    }

    fn url_of(&self, user: &str) -> String {
        format!("postgres://{user}@127.0.0.1:{}/{}", self.port, self.name)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let mut drop = Command::new(find("psql"));
        drop.args(["-q", "-U", USER, "-d", "postgres", "-p"]).arg(self.port.to_string()).arg("-h").arg(&self.folder);
        drop.arg("-c").arg(format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name));
        // A server that was killed has nothing to drop.
        drop.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().ok();
    }
}

fn options(folder: &Path, port: u16, database: &str) -> PgConnectOptions {
    PgConnectOptions::new().socket(folder).port(port).username(USER).database(database)
}

/// The server refuses to run as root.
fn as_postgres(program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new(find("setpriv"));
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(program);
    command
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command:?} failed: {}", String::from_utf8_lossy(&output.stderr));
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn count(pool: &PgPool) -> i64 {
        sqlx::query_scalar("SELECT count(*) FROM things").fetch_one(pool).await.unwrap()
    }

    async fn fill(pool: PgPool) {
        sqlx::raw_sql("CREATE TABLE things (name text); INSERT INTO things VALUES ('one')")
            .execute(&pool)
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn each_test_has_a_database_of_its_own() {
        let server = Postgres::shared().await;
        let (one, other) = (server.database_like("things", fill).await, server.database_like("things", fill).await);
        sqlx::raw_sql("INSERT INTO things VALUES ('two')").execute(&one.pool).await.unwrap();
        assert_eq!((count(&one.pool).await, count(&other.pool).await), (2, 1));
        let address = one.url_of_superuser();
        assert_eq!(count(&PgPool::connect(&address).await.unwrap()).await, 2, "the address is the same database");

        let empty = server.database().await;
        let tables = "SELECT count(*) FROM pg_tables WHERE tablename = 'things'";
        assert_eq!(sqlx::query_scalar::<_, i64>(tables).fetch_one(&empty.pool).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_dropped_database_is_gone() {
        let server = Postgres::shared().await;
        let database = server.database().await;
        let name = database.name().to_owned();
        drop(database);
        let admin = PgPool::connect_with(server.options("postgres")).await.unwrap();
        let left = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM pg_database WHERE datname = $1").bind(name);
        assert_eq!(left.fetch_one(&admin).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_killed_server_comes_back_with_its_data_and_goes_with_its_folder() {
        let server = Postgres::start().await;
        let database = server.database().await;
        fill(database.pool.clone()).await;
        server.kill_9();
        server.restart().await;
        let pool = PgPool::connect_with(database.options()).await.unwrap();
        assert_eq!(count(&pool).await, 1);
        pool.close().await;
        let folder = server.folder.clone();
        drop((database, server));
        assert!(!folder.exists());
    }
}
