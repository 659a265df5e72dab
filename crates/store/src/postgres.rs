//! The way to PostgreSQL: a primary and its replicas, each with a pool of connections. Every transaction begins with its
//! scope. What may be tried again is decided here and nowhere else. No table is known here.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use astrfleet_core::{Error, Result};
use secrecy::{ExposeSecret, SecretString};
use sqlx::{
    AssertSqlSafe, Connection as _, PgConnection, PgPool, Postgres, Transaction,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::time::timeout;

use crate::{
    failed::Failed,
    moments::Moments,
    scope::{Access, Scope},
    statement::{BEGIN, COMMIT, Statement, run},
};

/// Statements that a connection keeps prepared: all that there are, of those with many rows one for each number of them.
const PREPARED: usize = 256;
/// How often something that left nothing behind is tried, at the most.
const TRIES: u32 = 3;
/// The wait before the second try; it doubles.
const WAIT: Duration = Duration::from_millis(20);
/// How much longer than the server's own limit an answer is waited for, where the network has swallowed it.
const GRACE: Duration = Duration::from_secs(5);
/// How long a connection may take to say that it still works when it comes back to its pool, after a server fell silent…
const BACK_WAIT: Duration = Duration::from_secs(2);
/// …and for how long after that each is asked so. Longer than any statement may take.
const SILENCE: Duration = Duration::from_mins(5);
/// How long a replica that did not answer is left alone.
const REPLICA_AWAY: Duration = Duration::from_secs(10);
/// How long a connection to a replica is waited for: the primary can answer too.
const REPLICA_WAIT: Duration = Duration::from_secs(1);

/// For failures before there is a connection.
const OPEN: Statement = Statement { name: "database.open", what: "database", sql: "" };

/// How we deal with a PostgreSQL server.
#[derive(Clone, Debug)]
pub struct PgSettings {
    /// Connections to each server, at the most.
    pub connections_max: u32,
    /// How long anybody waits for a free connection.
    pub acquire_timeout: Duration,
    /// How long a statement may take.
    pub statement_timeout: Duration,
    /// How long a statement waits for a row or a table that somebody else holds.
    pub lock_timeout: Duration,
    /// How long a transaction may stand open without a statement in it.
    pub idle_in_transaction_timeout: Duration,
    /// Servers that only read, and may lag behind: host and port.
    pub replicas: Vec<(String, u16)>,
    /// How long, after this process has written for somebody, their reads stay with the primary.
    pub fresh_after_write: Duration,
}

impl Default for PgSettings {
    fn default() -> Self {
        Self {
            connections_max: 16,
            acquire_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(10),
            lock_timeout: Duration::from_secs(5),
            idle_in_transaction_timeout: Duration::from_secs(30),
            replicas: Vec::new(),
            fresh_after_write: Duration::from_secs(5),
        }
    }
}

/// What row-level security is worth against whoever we connect as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PgRole {
    /// Its name.
    pub name: String,
    /// Superusers and roles with `BYPASSRLS` are not held by it.
    pub bypasses_row_security: bool,
    /// Whether the tables are its own: it could switch the wall off, and may migrate.
    pub owns_tables: bool,
}

/// Who we are, and whether anything holds us.
const ROLE: Statement = Statement {
    name: "database.role",
    what: "role",
    sql: "SELECT rolname::text, rolsuper OR rolbypassrls, EXISTS (
            SELECT 1 FROM pg_tables WHERE schemaname = 'public' AND tablename = 'tenants'
            AND pg_has_role(current_user, tableowner, 'USAGE')
        ) FROM pg_roles WHERE rolname = current_user",
};

/// The servers.
#[derive(Clone)]
pub(crate) struct Servers {
    primary: PgPool,
    replicas: Arc<[Replica]>,
    next: Arc<AtomicUsize>,
    written: Arc<Moments>,
    /// Connections that are older than this lead to a server that was the primary once.
    demoted: Arc<Moments>,
    /// When an answer was last given up.
    silent: Arc<Moments>,
    settings: Arc<PgSettings>,
}

struct Replica {
    pool: PgPool,
    failed: Moments,
}

/// How often something was tried.
#[derive(Default)]
pub(crate) struct Tries(u32);

impl Tries {
    /// Whether it is tried once more; waits before that.
    pub(crate) async fn another(&mut self, allowed: bool) -> bool {
        self.0 += 1;
        if !allowed || self.0 >= TRIES {
            return false;
        }
        tracing::debug!(tries = self.0, "nothing was kept: trying again");
        tokio::time::sleep(WAIT * (1 << (self.0 - 1))).await;
        true
    }
}

impl Servers {
    /// Connects to the primary. A replica that is away is waited for by nobody.
    pub(crate) async fn open(url: &SecretString, settings: &PgSettings) -> Result<Self> {
        // The cause is not passed on: it might repeat a part of the URL, which holds the password.
        let options: PgConnectOptions = url.expose_secret().parse().map_err(|_| {
            Error::invalid(
                "database url",
                "must look like postgres://user:password@host:5432/name (details are not shown)",
            )
        })?;
        let milliseconds = |limit: Duration| limit.as_millis().to_string();
        let options = options.application_name("astrfleet").statement_cache_capacity(PREPARED).options([
            ("statement_timeout", milliseconds(settings.statement_timeout)),
            ("lock_timeout", milliseconds(settings.lock_timeout)),
            ("idle_in_transaction_session_timeout", milliseconds(settings.idle_in_transaction_timeout)),
            // What is acknowledged has reached the disk, whatever the server's default.
            ("synchronous_commit", "on".to_owned()),
        ]);
        let (demoted, silent) = (Arc::new(Moments::new(1)), Arc::new(Moments::new(1)));
        let pool = || {
            let (demoted, silent) = (Arc::clone(&demoted), Arc::clone(&silent));
            PgPoolOptions::new()
                .max_connections(settings.connections_max)
                // The `BEGIN` tells whether a connection still lives.
                .test_before_acquire(false)
                .before_acquire(move |_, connection| {
                    let usable = !demoted.within("", connection.age);
                    Box::pin(async move { Ok(usable) })
                })
                // The pool asks a connection that comes back whether it works, and waits as long as TCP does: a quarter of an
                // hour where the server's machine is gone without a word. Its place would be lost for as long.
                .after_release(move |connection, _| {
                    let suspicious = silent.within("", SILENCE);
                    Box::pin(async move {
                        if !suspicious {
                            return Ok(true);
                        }
                        match timeout(BACK_WAIT, connection.ping()).await {
                            Ok(Ok(())) => Ok(true),
                            Ok(Err(error)) => Err(error),
                            Err(_) => Err(sqlx::Error::PoolTimedOut),
                        }
                    })
                })
        };
        let replica = |(host, port): &(String, u16)| Replica {
            pool: pool()
                .acquire_timeout(settings.acquire_timeout.min(REPLICA_WAIT))
                .connect_lazy_with(options.clone().host(host).port(*port)),
            failed: Moments::new(1),
        };
        let replicas = settings.replicas.iter().map(replica).collect();
        let primary =
            run(&OPEN, pool().acquire_timeout(settings.acquire_timeout).connect_with(options.clone())).await?;
        Ok(Self {
            primary,
            replicas,
            next: Arc::default(),
            written: Arc::new(Moments::new(4_096)),
            demoted,
            silent,
            settings: Arc::new(settings.clone()),
        })
    }

    /// Waits until nobody uses the connections, and closes them.
    pub(crate) async fn close(&self) {
        for replica in &*self.replicas {
            replica.pool.close().await;
        }
        self.primary.close().await;
    }

    /// How long a statement waits for a row or a table that somebody else holds.
    pub(crate) fn lock_timeout(&self) -> Duration {
        self.settings.lock_timeout
    }

    /// A connection to the primary beside the pool, for whoever keeps one.
    pub(crate) async fn connect(&self, statement: &'static Statement) -> Result<PgConnection, Failed> {
        self.connect_with(statement, self.settings.lock_timeout).await
    }

    /// The same, for whoever waits at most `lock_timeout` for what somebody else holds.
    pub(crate) async fn connect_with(
        &self,
        statement: &'static Statement,
        lock_timeout: Duration,
    ) -> Result<PgConnection, Failed> {
        let limit = lock_timeout.min(self.settings.lock_timeout).as_millis().to_string();
        // Of a setting that is given twice, the server takes the last one.
        let options = (*self.primary.connect_options()).clone().options([("lock_timeout", limit)]);
        let connecting = run(statement, Box::pin(PgConnection::connect_with(&options)));
        self.limited(self.settings.acquire_timeout, connecting, statement).await
    }

    /// Who we are.
    pub(crate) async fn role(&self) -> Result<PgRole, Failed> {
        let ask = sqlx::query_as::<_, (String, bool, bool)>(ROLE.sql).fetch_one(&self.primary);
        let (name, bypasses_row_security, owns_tables) = run(&ROLE, ask).await?;
        Ok(PgRole { name, bypasses_row_security, owns_tables })
    }

    /// Begins to read what is true now.
    pub(crate) async fn begin_read(
        &self,
        scope: &Scope<'_>,
        _: &Tries,
    ) -> Result<Transaction<'static, Postgres>, Failed> {
        self.begin(&self.primary, scope, Access::Read).await
    }

    /// Begins to read what was true a moment ago.
    pub(crate) async fn begin_stale_read(
        &self,
        scope: &Scope<'_>,
        tries: &Tries,
    ) -> Result<Transaction<'static, Postgres>, Failed> {
        let fresh = self.written.within(scope.name(), self.settings.fresh_after_write);
        if let Some(replica) = self.replica().filter(|_| !fresh && tries.0 == 0) {
            match self.begin(&replica.pool, scope, Access::StaleRead).await {
                Ok(begun) => return Ok(begun),
                Err(failed) => {
                    replica.failed.note("");
                    tracing::warn!(error = %failed, "a replica of the database is away: the primary answers for it");
                }
            }
        }
        self.begin(&self.primary, scope, Access::Read).await
    }

    /// Begins to write.
    pub(crate) async fn begin_write(&self, scope: &Scope<'_>) -> Result<Transaction<'static, Postgres>, Failed> {
        self.begin(&self.primary, scope, Access::Write).await
    }

    /// Ends a transaction that wrote within `scope`.
    pub(crate) async fn commit(&self, begun: Transaction<'_, Postgres>, scope: &Scope<'_>) -> Result<(), Failed> {
        self.within_limit(run(&COMMIT, begun.commit()), &COMMIT).await?;
        self.wrote(scope.name());
        Ok(())
    }

    /// Notes that somebody's rows were written: their reads stay with the primary for a while.
    pub(crate) fn wrote(&self, name: &str) {
        if !self.replicas.is_empty() {
            self.written.note(name);
        }
    }

    /// Waits for an answer somewhat longer than the server itself would.
    pub(crate) async fn within_limit<T>(
        &self,
        answer: impl Future<Output = Result<T, Failed>>,
        statement: &'static Statement,
    ) -> Result<T, Failed> {
        let answered = self.limited(self.answer_limit(), answer, statement).await;
        if let Err(failed) = &answered {
            self.note(failed);
        }
        answered
    }

    /// Gives up after `limit`.
    async fn limited<T>(
        &self,
        limit: Duration,
        answer: impl Future<Output = Result<T, Failed>>,
        statement: &'static Statement,
    ) -> Result<T, Failed> {
        tokio::pin!(answer);
        if let Ok(answered) = timeout(limit, answer.as_mut()).await {
            return answered;
        }
        // Before the connection goes back to its pool.
        self.silent.note("");
        Err(Failed::new(statement, sqlx::Error::PoolTimedOut))
    }

    /// How long an answer is waited for.
    pub(crate) fn answer_limit(&self) -> Duration {
        self.settings.statement_timeout + GRACE
    }

    /// Draws what follows from a failure for the connections.
    pub(crate) fn note(&self, failed: &Failed) {
        if failed.is_demoted() {
            self.demote();
        }
        if failed.is_silence() {
            self.silent.note("");
        }
    }

    /// What leads to a server that is not the primary any more is not used again.
    fn demote(&self) {
        tracing::warn!("the database server is not the primary any more: making new connections");
        self.demoted.note("");
    }

    fn replica(&self) -> Option<&Replica> {
        let count = self.replicas.len();
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        (0..count)
            .filter_map(|offset| self.replicas.get(first.wrapping_add(offset) % count))
            .find(|replica| !replica.failed.within("", REPLICA_AWAY))
    }

    /// A connection that turns out to be gone is replaced: nothing was asked of it yet.
    async fn begin(
        &self,
        pool: &PgPool,
        scope: &Scope<'_>,
        access: Access,
    ) -> Result<Transaction<'static, Postgres>, Failed> {
        let sql: Arc<str> = scope.begin(access).into();
        let mut gone = 0;
        loop {
            // Making a connection is a large future, and rarely needed.
            let begin = run(&BEGIN, Box::pin(pool.begin_with(AssertSqlSafe(Arc::clone(&sql)))));
            let limit = pool.options().get_acquire_timeout() + GRACE;
            match self.limited(limit, begin, &BEGIN).await {
                Err(failed) if failed.is_demoted() => {
                    self.demote();
                    if gone >= self.settings.connections_max {
                        return Err(failed);
                    }
                    gone += 1;
                }
                Err(failed) if failed.is_disconnect() && gone < self.settings.connections_max => gone += 1,
                outcome => return outcome,
            }
        }
    }
}
