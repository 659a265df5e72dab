//! Two engines, one SQL text. A statement has a name: it is its span, its label in metrics, and the key by which the
//! contract suite proves that every statement has run on both engines.
//!
//! No table is known here, and no engine is known anywhere else but in `dialect`.

use std::{
    error::Error as StdError, fmt, future::Future, io, os::unix::fs::OpenOptionsExt, path::Path, time::Duration,
};

use astrfleet_core::{Error, Result};
use secrecy::{ExposeSecret, SecretString};
use sqlx::{
    PgPool, SqlitePool,
    error::{DatabaseError, ErrorKind},
    postgres::{PgConnectOptions, PgPoolOptions},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use tracing::Instrument;

use crate::{
    accept::{AcceptSettings, Accepts},
    dialect,
};

/// Connections of a SQLite database that read at the same moment.
const SQLITE_READERS: u32 = 4;
/// How long whoever wants to write waits for whoever does.
const SQLITE_BUSY: Duration = Duration::from_secs(5);
/// How long anybody waits for a connection. Several writers queue for the one of SQLite.
const SQLITE_ACQUIRE: Duration = Duration::from_secs(10);

/// Statements that a connection keeps prepared: all that there are, of those with many rows one for each number of them.
const PREPARED: usize = 256;

/// A database of either kind.
#[derive(Clone)]
pub struct Db {
    pub(crate) engine: Engine,
    pub(crate) accepts: Accepts,
}

/// Which kind, with its connections.
#[derive(Clone)]
pub(crate) enum Engine {
    /// Many writers, many replicas of us.
    Pg(PgPool),
    /// One file, one writer, one of us.
    Lite {
        /// Several connections that cannot write.
        reader: SqlitePool,
        /// One connection.
        writer: SqlitePool,
    },
}

/// How we deal with a PostgreSQL server.
#[derive(Clone, Debug)]
pub struct PgSettings {
    /// Connections at the most.
    pub connections_max: u32,
    /// How long anybody waits for a free connection.
    pub acquire_timeout: Duration,
    /// How long a statement may take.
    pub statement_timeout: Duration,
}

impl Default for PgSettings {
    fn default() -> Self {
        Self {
            connections_max: 16,
            acquire_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(10),
        }
    }
}

impl Db {
    /// Opens the SQLite database in the file `path`, which is made where there is none, for its owner's eyes only.
    ///
    /// # Errors
    /// [`Error::Unavailable`] where the file cannot be opened or is no database.
    pub async fn open_sqlite(path: &Path) -> Result<Self> {
        // SQLite gives the files beside it (-wal, -shm) the same mode.
        std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path).map_err(|source| {
            let full = source.kind() == io::ErrorKind::StorageFull;
            Error::unavailable(if full { DISK_FULL } else { STORAGE }, format!("{}: {source}", path.display()))
        })?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            // What is acknowledged has reached the disk.
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(SQLITE_BUSY)
            .statement_cache_capacity(PREPARED);
        let pool = |connections| {
            SqlitePoolOptions::new()
                .max_connections(connections)
                .acquire_timeout(SQLITE_ACQUIRE)
                .idle_timeout(None)
                .max_lifetime(None)
                // Nothing between us and a file breaks.
                .test_before_acquire(false)
        };
        let opened = |source| Error::from(Failed { statement: &OPEN, source });
        let writer = pool(1).connect_with(options.clone()).await.map_err(opened)?;
        let reader = pool(SQLITE_READERS).connect_with(options.pragma("query_only", "on")).await.map_err(opened)?;
        Ok(Self::new(Engine::Lite { reader, writer }))
    }

    /// Opens the PostgreSQL database at `url` (`postgres://user:password@host:port/name`).
    ///
    /// # Errors
    /// [`Error::Invalid`] where `url` is none; [`Error::Unavailable`] where the server does not answer or refuses us.
    pub async fn open_postgres(url: &SecretString, settings: &PgSettings) -> Result<Self> {
        // The cause is not passed on: it might repeat a part of the URL, which holds the password.
        let options: PgConnectOptions = url.expose_secret().parse().map_err(|_| {
            Error::invalid(
                "database url",
                "must look like postgres://user:password@host:5432/name (details are not shown)",
            )
        })?;
        let milliseconds = settings.statement_timeout.as_millis().to_string();
        let options = options.application_name("astrfleet").statement_cache_capacity(PREPARED).options([
            ("statement_timeout", milliseconds.as_str()),
            ("lock_timeout", "5s"),
            ("idle_in_transaction_session_timeout", "30s"),
            // What is acknowledged has reached the disk, whatever the server's default.
            ("synchronous_commit", "on"),
        ]);
        PgPoolOptions::new()
            .max_connections(settings.connections_max)
            .acquire_timeout(settings.acquire_timeout)
            .connect_with(options)
            .await
            .map(|pool| Self::new(Engine::Pg(pool)))
            .map_err(|source| Failed { statement: &OPEN, source }.into())
    }

    fn new(engine: Engine) -> Self {
        let accepts = Accepts::start(engine.clone(), &AcceptSettings::default());
        Self { engine, accepts }
    }

    /// The same with other limits for the messages that are accepted.
    #[must_use]
    pub fn with_accepts(self, settings: &AcceptSettings) -> Self {
        let accepts = Accepts::start(self.engine.clone(), settings);
        Self { accepts, ..self }
    }

    /// Writes the messages that wait and waits until nobody uses the database, then closes it.
    pub async fn close(&self) {
        self.accepts.close().await;
        match &self.engine {
            Engine::Pg(pool) => pool.close().await,
            Engine::Lite { reader, writer } => {
                // The writer last: the last connection to go folds the log into the file.
                reader.close().await;
                writer.close().await;
            }
        }
    }
}

/// A statement, declared once, with `statements!`.
#[derive(Debug)]
pub struct Statement {
    /// `aggregate.verb`
    pub name: &'static str,
    /// What there is none of where it finds no row, in the words of the API.
    pub what: &'static str,
    /// Works on both engines.
    pub sql: &'static str,
}

/// For failures before there is a connection.
const OPEN: Statement = Statement { name: "database.open", what: "database", sql: "" };

/// Declares the statements of a module: `"what"; NAME = "aggregate.verb", "SQL"; …`. `STATEMENTS` lists them.
macro_rules! statements {
    ($what:literal; $($(#[$doc:meta])* $name:ident = $label:literal, $sql:expr;)*) => {
        $(
            $(#[$doc])*
            pub(crate) const $name: $crate::db::Statement =
                $crate::db::Statement { name: $label, what: $what, sql: $sql };
        )*
        /// All of this module, in the order of their declaration.
        pub(crate) const STATEMENTS: &[&$crate::db::Statement] = &[$(&$name),*];
    };
}
pub(crate) use statements;

/// Runs one statement that reads: `read!(db, GET, pool => sqlx::query(GET.sql)….fetch_one(pool))`.
macro_rules! read {
    ($db:expr, $statement:expr, $pool:ident => $query:expr) => {
        match &$db.engine {
            $crate::db::Engine::Pg($pool) => $crate::db::run(&$statement, $query).await,
            $crate::db::Engine::Lite { reader: $pool, .. } => $crate::db::run(&$statement, $query).await,
        }
    };
}
pub(crate) use read;

/// Runs one statement that writes and returns rows, like [`read!`].
macro_rules! change {
    ($db:expr, $statement:expr, $pool:ident => $query:expr) => {
        match &$db.engine {
            $crate::db::Engine::Pg($pool) => $crate::db::run(&$statement, $query).await,
            $crate::db::Engine::Lite { writer: $pool, .. } => $crate::db::run(&$statement, $query).await,
        }
    };
}
pub(crate) use change;

/// Runs one statement that writes and returns none, and counts the rows that it touched:
/// `affected!(db, DELETE, sqlx::query(DELETE.sql)…)`.
macro_rules! affected {
    ($db:expr, $statement:expr, $query:expr) => {
        match &$db.engine {
            $crate::db::Engine::Pg(pool) => {
                $crate::db::run(&$statement, $query.execute(pool)).await.map(|done| done.rows_affected())
            }
            $crate::db::Engine::Lite { writer, .. } => {
                $crate::db::run(&$statement, $query.execute(writer)).await.map(|done| done.rows_affected())
            }
        }
    };
}
pub(crate) use affected;

/// Runs a block in a transaction that may write: `transaction!(db, connection => { …; Ok(answer) })`. Committed where
/// it ends in `Ok`. Within it: `run(&GET, sqlx::query(GET.sql)….fetch_one(&mut *connection)).await?`.
macro_rules! transaction {
    ($db:expr, $connection:ident => $body:block) => {
        match &$db.engine {
            $crate::db::Engine::Pg(pool) => {
                let mut begun = $crate::db::run(&$crate::db::BEGIN, pool.begin()).await?;
                let outcome: astrfleet_core::Result<_> = {
                    let $connection = &mut *begun;
                    async { $body }.await
                };
                $crate::db::end(begun, outcome).await
            }
            $crate::db::Engine::Lite { writer, .. } => {
                let begin = writer.begin_with($crate::dialect::SQLITE_BEGIN);
                let mut begun = $crate::db::run(&$crate::db::BEGIN, begin).await?;
                let outcome: astrfleet_core::Result<_> = {
                    let $connection = &mut *begun;
                    async { $body }.await
                };
                $crate::db::end(begun, outcome).await
            }
        }
    };
}
pub(crate) use transaction;

pub(crate) const BEGIN: Statement = Statement { name: "transaction.begin", what: "transaction", sql: "BEGIN" };
const COMMIT: Statement = Statement { name: "transaction.commit", what: "transaction", sql: "COMMIT" };

/// Runs a statement within its span.
pub(crate) async fn run<T>(
    statement: &'static Statement,
    query: impl Future<Output = sqlx::Result<T>>,
) -> Result<T, Failed> {
    let span = tracing::debug_span!("statement", db.statement = statement.name);
    query.instrument(span).await.map_err(|source| Failed { statement, source })
}

/// Commits what went well; what did not is rolled back.
pub(crate) async fn end<T, D: sqlx::Database>(begun: sqlx::Transaction<'_, D>, outcome: Result<T>) -> Result<T> {
    let answer = outcome?;
    run(&COMMIT, begun.commit()).await?;
    Ok(answer)
}

const STORAGE: &str = "storage";
const DISK_FULL: &str = "storage (its disk is full)";

/// A statement that failed. `?` makes it an [`Error`]; whoever expects a violation asks first.
pub(crate) struct Failed {
    statement: &'static Statement,
    source: sqlx::Error,
}

impl Failed {
    /// Of `statement`.
    pub(crate) fn new(statement: &'static Statement, source: sqlx::Error) -> Self {
        Self { statement, source }
    }

    /// Whether the rows are to blame, so that others might do.
    pub(crate) fn is_about_a_row(&self) -> bool {
        self.source.as_database_error().is_some_and(dialect::is_about_a_row)
    }

    /// Whether the connection is of no more use.
    pub(crate) fn is_disconnect(&self) -> bool {
        self.source.as_database_error().is_none_or(dialect::is_disconnect)
    }

    /// Whether a row with the same `column` stands in `table` already.
    pub(crate) fn is_taken(&self, table: &str, column: &str) -> bool {
        self.violation(&ErrorKind::UniqueViolation).is_some_and(|violation| {
            // PostgreSQL names the constraint, SQLite the columns.
            violation.constraint() == Some(format!("{table}_{column}_key").as_str())
                || violation.message().contains(&format!("{table}.{column}"))
        })
    }

    /// [`Error::NotFound`] of `what` where it refers to a row that is not there.
    pub(crate) fn or_missing(self, what: &'static str) -> Error {
        match self.violation(&ErrorKind::ForeignKeyViolation) {
            Some(_) => Error::NotFound { what },
            None => self.into(),
        }
    }

    fn violation(&self, kind: &ErrorKind) -> Option<&dyn DatabaseError> {
        self.source.as_database_error().filter(|error| error.kind() == *kind)
    }
}

/// The one place where an engine's failure becomes ours.
impl From<Failed> for Error {
    fn from(failed: Failed) -> Self {
        use sqlx::Error as E;
        match &failed.source {
            E::RowNotFound => Self::NotFound { what: failed.statement.what },
            E::Database(error) if dialect::is_disk_full(error.as_ref()) => Self::unavailable(DISK_FULL, failed),
            E::Database(error) if matches!(error.kind(), ErrorKind::CheckViolation | ErrorKind::NotNullViolation) => {
                Self::internal(failed)
            }
            E::ColumnDecode { .. } | E::ColumnNotFound(_) | E::ColumnIndexOutOfBounds { .. } | E::Encode(_) => {
                Self::internal(failed)
            }
            _ => Self::unavailable(STORAGE, failed),
        }
    }
}

impl StdError for Failed {}

impl fmt::Display for Failed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "statement {}: {}", self.statement.name, self.source)
    }
}

/// The same: an engine's own `Debug` repeats the row that it refused, with all that is in it.
impl fmt::Debug for Failed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

#[cfg(test)]
mod tests {
    use astrfleet_core::{Error, ports::Store, time::Timestamp, user::User};

    use super::{Db, Engine};

    async fn pages(db: &Db, pragma: &'static str) -> i64 {
        let Engine::Lite { writer, .. } = &db.engine else { unreachable!("opened as SQLite") };
        sqlx::query_scalar(pragma).fetch_one(writer).await.unwrap()
    }

    #[tokio::test]
    async fn a_full_disk_is_said_to_be_full_and_loses_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let db = Db::open_sqlite(&folder.path().join("store.db")).await.unwrap();
        db.migrate_up(Timestamp::default()).await.unwrap();
        let user = |number: u32| User {
            id: astrfleet_core::id::UserId::parse(&format!("usr_{number:032x}")).unwrap(),
            email: format!("{number}@users.example"),
            display_name: "x".repeat(1_000),
            platform_admin: false,
            disabled: false,
            created_at: Timestamp::default(),
            updated_at: Timestamp::default(),
            version: 1,
        };
        // The engine's own limit gives the same error as the disk's.
        pages(&db, "PRAGMA max_page_count = 1").await;
        let mut stored = 0;
        let error = loop {
            match db.users().insert(&user(stored), "hash").await {
                Ok(()) => stored += 1,
                Err(error) => break error,
            }
            assert!(stored < 100, "the limit does not hold");
        };
        assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
        assert_eq!(error.to_string(), "storage (its disk is full) is not available: try again");

        for number in 0..stored {
            db.users().get(&user(number).id).await.unwrap();
        }
        pages(&db, "PRAGMA max_page_count = 1000000").await;
        db.users().insert(&user(stored), "hash").await.unwrap();
    }
}
