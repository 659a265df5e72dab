//! What the engines do not have in common. Whatever is not here works on both.

use sqlx::{
    PgConnection, SqliteConnection,
    error::{DatabaseError, ErrorKind},
};

/// Takes the right to write at once: a transaction that reads first and then wants to write may be refused it.
pub(crate) const SQLITE_BEGIN: &str = "BEGIN IMMEDIATE";

/// Any number that nobody else uses for an advisory lock on this database: `astr`, `fleet`.
const PG_MIGRATIONS: &str = "
    SET LOCAL statement_timeout = 0;
    SET LOCAL lock_timeout = '120s';
    SELECT pg_advisory_xact_lock(1634956402, 6581365);
    SET LOCAL lock_timeout = '5s';
";

/// Keeps everybody else from migrating until the end of this transaction.
pub(crate) trait MigrationLock {
    /// Waits for it.
    async fn lock_migrations(&mut self) -> sqlx::Result<()>;
}

impl MigrationLock for PgConnection {
    async fn lock_migrations(&mut self) -> sqlx::Result<()> {
        // A table that somebody uses is not waited for long: whoever comes after us would wait behind us.
        sqlx::raw_sql(PG_MIGRATIONS).execute(self).await.map(|_| ())
    }
}

impl MigrationLock for SqliteConnection {
    async fn lock_migrations(&mut self) -> sqlx::Result<()> {
        // `BEGIN IMMEDIATE` has it.
        Ok(())
    }
}

/// Whether the disk of the database is full.
pub(crate) fn is_disk_full(error: &dyn DatabaseError) -> bool {
    // PostgreSQL's `disk_full`; SQLite's SQLITE_FULL.
    matches!(error.code().as_deref(), Some("53100" | "13"))
}

/// Whether a row is to blame: a key, a rule or a value of it.
pub(crate) fn is_about_a_row(error: &dyn DatabaseError) -> bool {
    // PostgreSQL's class 22 is about values: a text that it cannot hold, a number out of range.
    error.kind() != ErrorKind::Other || error.code().is_some_and(|code| code.len() == 5 && code.starts_with("22"))
}

/// Whether the server ended the connection, or became one that must not write.
pub(crate) fn is_disconnect(error: &dyn DatabaseError) -> bool {
    // PostgreSQL's classes 08 and 57P are about connections; 25006 is a server that only reads since a failover.
    error
        .code()
        .is_some_and(|code| code.len() == 5 && (code.starts_with("08") || code.starts_with("57P") || code == "25006"))
}
