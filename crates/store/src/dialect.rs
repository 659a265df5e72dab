//! What the engines do not have in common. Whatever is not here works on both.

use sqlx::{
    AssertSqlSafe, Connection, PgConnection,
    error::{DatabaseError, ErrorKind},
};

use crate::scope::{Access, Scope};

/// Takes the right to write at once: a transaction that reads first and then wants to write may be refused it.
pub(crate) const SQLITE_BEGIN: &str = "BEGIN IMMEDIATE";

/// Which of some tenants' heads of events somebody holds. SQLite has one writer, and nothing to skip.
const PG_HELD_HEADS: &str = "WITH free AS MATERIALIZED (
        SELECT tenant_id FROM event_heads WHERE tenant_id = ANY (string_to_array($1, ','))
        FOR NO KEY UPDATE SKIP LOCKED
    )
    SELECT tenant_id FROM event_heads WHERE tenant_id = ANY (string_to_array($1, ','))
    AND tenant_id NOT IN (SELECT tenant_id FROM free)";

/// Which of the tenants in `list` have a head of events that somebody holds; waits for none of them.
pub(crate) async fn held_heads(connection: &mut PgConnection, list: &str) -> sqlx::Result<Vec<String>> {
    let within = AssertSqlSafe(Scope::Tenants(list).begin(Access::Write));
    let mut begun = connection.begin_with(within).await?;
    let held = sqlx::query_scalar(PG_HELD_HEADS).bind(list).fetch_all(&mut *begun).await?;
    begun.rollback().await?;
    Ok(held)
}

/// Whether the disk of the database is full.
pub(crate) fn is_disk_full(error: &dyn DatabaseError) -> bool {
    // PostgreSQL's `disk_full`; SQLite's SQLITE_FULL.
    matches!(error.code().as_deref(), Some("53100" | "13"))
}

/// Whether a row is to blame: a key, a rule or a value of it.
pub(crate) fn is_about_a_row(error: &dyn DatabaseError) -> bool {
    // 42501 is what row-level security says of a row.
    error.kind() != ErrorKind::Other || is_forbidden(error) || is_about_a_value(error)
}

/// Whether a value is one that the database cannot hold: a text with U+0000, a number out of range.
pub(crate) fn is_about_a_value(error: &dyn DatabaseError) -> bool {
    // PostgreSQL's class 22, `data_exception`.
    error.code().is_some_and(|code| code.len() == 5 && code.starts_with("22"))
}

/// Whether the server ended the connection, or became one that must not write.
pub(crate) fn is_disconnect(error: &dyn DatabaseError) -> bool {
    // PostgreSQL's classes 08 and 57P are about connections.
    is_demoted(error)
        || error.code().is_some_and(|code| code.len() == 5 && (code.starts_with("08") || code.starts_with("57P")))
}

/// Whether the server only reads, since it is not the primary any more.
pub(crate) fn is_demoted(error: &dyn DatabaseError) -> bool {
    // A `BEGIN READ WRITE` is refused as a feature that is missing, in these words of the server's own language.
    error.code().as_deref() == Some("25006")
        || (error.code().as_deref() == Some("0A000") && error.message().contains("read-write mode during recovery"))
}

/// Whether the server undid the transaction for the sake of another one, so that the same may succeed at once.
pub(crate) fn is_undone(error: &dyn DatabaseError) -> bool {
    // PostgreSQL's `serialization_failure` and `deadlock_detected`.
    matches!(error.code().as_deref(), Some("40001" | "40P01"))
}

/// Whether the database forbids it: a row that row-level security hides, or a table that we have no right to.
pub(crate) fn is_forbidden(error: &dyn DatabaseError) -> bool {
    error.code().as_deref() == Some("42501")
}

/// Whether somebody held a table for longer than we wait.
pub(crate) fn is_locked(error: &dyn DatabaseError) -> bool {
    error.code().as_deref() == Some("55P03")
}

/// Whether there is no such table.
pub(crate) fn is_missing_table(error: &dyn DatabaseError) -> bool {
    // PostgreSQL's `undefined_table`; SQLite has one code for many things.
    error.code().as_deref() == Some("42P01") || error.message().starts_with("no such table")
}

/// Whether there is no such function: PostgreSQL's `undefined_function`. SQLite's schema has none.
pub(crate) fn is_missing_function(error: &dyn DatabaseError) -> bool {
    error.code().as_deref() == Some("42883")
}
