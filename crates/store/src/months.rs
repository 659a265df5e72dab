//! The months of messages on PostgreSQL: partitions that are made ahead and dropped as a whole. SQLite has one table.
//! What is done here are functions of the schema (migration 0016), which act as the owner of the tables.

use astrfleet_core::{Error, Result, time::Timestamp};

use crate::{
    db::{Db, Engine},
    failed::Failed,
    scope::Scope,
    statement::{Statement, change},
};

/// Not declared: they are for PostgreSQL alone. The suite that looks at partitions runs them.
const MAKE: Statement = Statement {
    name: "message.make_month",
    what: "month",
    sql: "SELECT astrfleet_make_message_month((to_timestamp($1::double precision / 1000000) AT TIME ZONE 'UTC')::date)",
};
const FREE_KEYS: Statement =
    Statement { name: "message.free_keys", what: "month", sql: "SELECT astrfleet_free_message_keys($1, $2)" };
/// Keys that are freed in one transaction.
const KEYS: i64 = 20_000;
const DROP: Statement =
    Statement { name: "message.drop_months", what: "month", sql: "SELECT astrfleet_drop_message_months($1)" };

/// Makes the month of `moment` where there is none. Returns whether it did.
pub(crate) async fn make(db: &Db, moment: Timestamp) -> Result<bool> {
    if matches!(db.engine, Engine::Lite { .. }) {
        return Ok(false);
    }
    change!(db, Scope::System, MAKE, pool => sqlx::query_scalar::<_, bool>(MAKE.sql)
        .bind(moment.micros())
        .fetch_one(pool))
    .map_err(explain)
}

/// Drops the months that end before `edge`, an id or what sorts like one. Returns how many.
pub(crate) async fn drop_before(db: &Db, edge: &str) -> Result<u64> {
    if matches!(db.engine, Engine::Lite { .. }) {
        return Ok(0);
    }
    // Before, and not at once: while months are dropped, everybody waits.
    loop {
        let freed = change!(db, Scope::System, FREE_KEYS, pool => sqlx::query_scalar::<_, i64>(FREE_KEYS.sql)
            .bind(edge)
            .bind(KEYS)
            .fetch_one(pool))
        .map_err(explain)?;
        if freed < KEYS {
            break;
        }
    }
    let dropped = change!(db, Scope::System, DROP, pool => sqlx::query_scalar::<_, i64>(DROP.sql)
        .bind(edge)
        .fetch_one(pool))
    .map_err(explain)?;
    Ok(u64::try_from(dropped).unwrap_or(0))
}

/// Says what to do where the functions are not there yet, or the role may not use them.
fn explain(failed: Failed) -> Error {
    if failed.is_missing_function() {
        return Error::conflict(
            "messages are one table still, as the release before needs it: when no program of it runs any more, run \
             `astrfleet migrate up --contract`",
        );
    }
    if failed.is_forbidden() {
        return Error::conflict(
            "this role may neither make nor drop months of messages: run `astrfleet migrate up --grant-to ROLE` as the \
             tables' owner",
        );
    }
    failed.into()
}
