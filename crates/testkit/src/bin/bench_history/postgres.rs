//! Into PostgreSQL, as somebody who may do everything.

use std::fmt::Write as _;

use astrfleet_core::{id::MessageId, time::Timestamp};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use crate::{
    COLUMNS_OF_MESSAGE, COLUMNS_OF_SESSION, Outcome,
    history::{AT_ONCE, History, Line, WAVE, at},
};

/// Bytes that are sent at once.
const CHUNK_BYTES: usize = 1 << 20;

/// In one transaction: nobody meets the tables without their indexes, and a session is known for visible as soon as it is
/// there (`FREEZE`, which a table of months does not take).
pub(crate) async fn fill(url: &str, history: &mut History) -> Outcome<()> {
    let mut connection = PgConnection::connect(url).await?;
    run(&mut connection, "BEGIN; SET LOCAL maintenance_work_mem = '256MB'; TRUNCATE sessions, messages").await?;
    make_months(&mut connection, history.begin).await?;
    let constraints: Vec<(String, String)> = sqlx::query_as(
        "SELECT format('ALTER TABLE messages DROP CONSTRAINT %I', conname),
            format('ALTER TABLE messages ADD CONSTRAINT %I %s', conname, pg_get_constraintdef(oid))
        FROM pg_constraint WHERE conrelid = 'messages'::regclass AND contype IN ('p', 'u', 'f')",
    )
    .fetch_all(&mut connection)
    .await?;
    let indexes: Vec<(String, String)> = sqlx::query_as(
        "SELECT format('DROP INDEX %s', indexrelid::regclass),
            replace(pg_get_indexdef(indexrelid), ' ON ONLY ', ' ON ') FROM pg_index
        WHERE indrelid = 'messages'::regclass AND NOT EXISTS (
            SELECT 1 FROM pg_constraint WHERE conrelid = indrelid AND conindid = indexrelid
        )",
    )
    .fetch_all(&mut connection)
    .await?;
    for (drop, _) in constraints.iter().chain(&indexes) {
        run(&mut connection, drop).await?;
    }

    let mut rows = String::new();
    for (number, id) in (0..).zip(&history.sessions) {
        let (tenant, moment) = (&history.tenant, at(history.begin, number / AT_ONCE * WAVE).micros());
        writeln!(rows, "{tenant}\t{id}\tuser-{number}\tapi\tclosed\tidle\t{{}}\t1\t{moment}\t{moment}\t1")?;
    }
    let copy = format!("COPY sessions ({COLUMNS_OF_SESSION}) FROM STDIN (FREEZE)");
    let mut sink = connection.copy_in_raw(&copy).await?;
    sink.send(rows.into_bytes()).await?;
    sink.finish().await?;

    let copy = format!("COPY messages ({COLUMNS_OF_MESSAGE}) FROM STDIN");
    let mut sink = connection.copy_in_raw(&copy).await?;
    let (mut rows, tenant) = (String::new(), history.tenant.clone());
    let each = history.each(async |line: Line<'_>| {
        let Line { id, session, author, text, reply_to, at } = line;
        let (reply_to, moment) = (reply_to.map_or("\\N", MessageId::as_str), at.micros());
        writeln!(rows, "{tenant}\t{id}\t{session}\t{author}\t{text}\t[]\tdone\t{reply_to}\t{moment}\t{moment}")?;
        if rows.len() >= CHUNK_BYTES {
            sink.send(std::mem::take(&mut rows).into_bytes()).await?;
        }
        Ok(())
    });
    each.await?;
    sink.send(rows.into_bytes()).await?;
    sink.finish().await?;

    for (_, make) in indexes.iter().chain(&constraints) {
        run(&mut connection, make).await?;
    }
    run(&mut connection, "COMMIT").await?;
    connection.close().await?;
    Ok(())
}

/// A partition for each month, as a platform has them that is as old as its history.
async fn make_months(connection: &mut PgConnection, begin: Timestamp) -> Outcome<()> {
    run(connection, "SELECT astrfleet_drop_message_months('msg_g')").await?;
    let make = "SELECT astrfleet_make_message_month(month::date) FROM generate_series(
        date_trunc('month', to_timestamp($1::double precision / 1000000) AT TIME ZONE 'UTC'),
        now() AT TIME ZONE 'UTC' + interval '1 month', interval '1 month'
    ) AS month";
    sqlx::query(make).bind(begin.micros()).execute(connection).await?;
    Ok(())
}

/// Only with what the server says of its own tables, or what we wrote ourselves.
async fn run(connection: &mut PgConnection, statement: &str) -> Outcome<()> {
    sqlx::raw_sql(AssertSqlSafe(statement.to_owned())).execute(connection).await?;
    Ok(())
}

/// Does what the server would do by itself within minutes, and says how large everything is.
pub(crate) async fn settled(url: &str) -> Outcome<i64> {
    let mut connection = PgConnection::connect(url).await?;
    for statement in ["VACUUM (ANALYZE)", "CHECKPOINT"] {
        run(&mut connection, statement).await?;
    }
    let bytes = sqlx::query_scalar("SELECT pg_database_size(current_database())").fetch_one(&mut connection).await?;
    connection.close().await?;
    Ok(bytes)
}
