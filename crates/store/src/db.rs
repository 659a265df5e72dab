//! A database of either kind: how it is opened and closed. No table is known here, and no engine is known anywhere else
//! but in `dialect`, `postgres` and `migrate`.

use std::{io, os::unix::fs::OpenOptionsExt, path::Path, time::Duration};

use astrfleet_core::{Error, Result};
use secrecy::SecretString;
use sqlx::{
    SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use crate::{
    accept::{AcceptSettings, Accepts},
    failed::{DISK_FULL, Failed, STORAGE},
    lookup::Lookups,
    postgres::Servers,
};
pub use crate::{
    postgres::{PgRole, PgSettings},
    statement::Statement,
};

/// Connections of a SQLite database that read at the same moment.
const SQLITE_READERS: u32 = 4;
/// How long whoever wants to write waits for whoever does.
const SQLITE_BUSY: Duration = Duration::from_secs(5);
/// How long anybody waits for a connection. Several writers queue for the one of SQLite.
const SQLITE_ACQUIRE: Duration = Duration::from_secs(10);

/// As many as PostgreSQL's connections keep.
const PREPARED: usize = 256;

/// A database of either kind.
#[derive(Clone)]
pub struct Db {
    pub(crate) engine: Engine,
    pub(crate) accepts: Accepts,
    /// SQLite needs none: nothing lies between us and a file.
    pub(crate) lookups: Option<Lookups>,
}

/// Which kind, with its connections.
#[derive(Clone)]
pub(crate) enum Engine {
    /// Many writers, many replicas of us.
    Pg(Servers),
    /// One file, one writer, one of us.
    Lite {
        /// Several connections that cannot write.
        reader: SqlitePool,
        /// One connection.
        writer: SqlitePool,
    },
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
        let opened = |source| Error::from(Failed::new(&OPEN, source));
        let writer = pool(1).connect_with(options.clone()).await.map_err(opened)?;
        let reader = pool(SQLITE_READERS).connect_with(options.pragma("query_only", "on")).await.map_err(opened)?;
        Ok(Self::new(Engine::Lite { reader, writer }))
    }

    /// Opens the PostgreSQL database at `url` (`postgres://user:password@host:port/name`).
    ///
    /// # Errors
    /// [`Error::Invalid`] where `url` is none; [`Error::Unavailable`] where the server does not answer or refuses us.
    pub async fn open_postgres(url: &SecretString, settings: &PgSettings) -> Result<Self> {
        Ok(Self::new(Engine::Pg(Servers::open(url, settings).await?)))
    }

    fn new(engine: Engine) -> Self {
        let accepts = Accepts::start(engine.clone(), &AcceptSettings::default());
        let lookups = match &engine {
            Engine::Pg(servers) => Some(Lookups::start(servers.clone())),
            Engine::Lite { .. } => None,
        };
        Self { engine, accepts, lookups }
    }

    /// The same with other limits for the messages that are accepted.
    #[must_use]
    pub fn with_accepts(self, settings: &AcceptSettings) -> Self {
        let accepts = Accepts::start(self.engine.clone(), settings);
        Self { accepts, ..self }
    }

    /// Who we are to the server; none for SQLite.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn postgres_role(&self) -> Result<Option<PgRole>> {
        match &self.engine {
            Engine::Pg(servers) => Ok(Some(servers.role().await?)),
            Engine::Lite { .. } => Ok(None),
        }
    }

    /// Writes the messages that wait and waits until nobody uses the database, then closes it.
    pub async fn close(&self) {
        self.accepts.close().await;
        if let Some(lookups) = &self.lookups {
            lookups.close();
        }
        match &self.engine {
            Engine::Pg(servers) => servers.close().await,
            Engine::Lite { reader, writer } => {
                // The writer last: the last connection to go folds the log into the file.
                reader.close().await;
                writer.close().await;
            }
        }
    }
}

/// For failures before there is a connection.
const OPEN: Statement = Statement { name: "database.open", what: "database", sql: "" };

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
