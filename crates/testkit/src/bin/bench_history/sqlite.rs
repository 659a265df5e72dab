//! Into a file of SQLite's.

use std::path::Path;

use astrfleet_core::id::MessageId;
use sqlx::{Connection as _, QueryBuilder, Sqlite, SqliteConnection, sqlite::SqliteConnectOptions};

use crate::{
    COLUMNS_OF_MESSAGE, COLUMNS_OF_SESSION, Outcome,
    history::{AT_ONCE, History, Line, WAVE, at},
};

/// Rows of one statement.
const ROWS: u32 = 500;

/// All rows in one transaction, without waiting for the disk.
pub(crate) async fn fill(path: &Path, history: &mut History) -> Outcome<()> {
    let options = SqliteConnectOptions::new().filename(path).foreign_keys(false).pragma("synchronous", "off");
    let mut connection = SqliteConnection::connect_with(&options).await?;
    let mut transaction = connection.begin().await?;
    let tenant = history.tenant.to_string();
    for (chunk, ids) in (0..).step_by(ROWS as usize).zip(history.sessions.chunks(ROWS as usize)) {
        let mut insert = QueryBuilder::<Sqlite>::new(format!("INSERT INTO sessions ({COLUMNS_OF_SESSION}) "));
        insert.push_values((chunk..).zip(ids), |mut row, (number, id): (u32, _)| {
            let moment = at(history.begin, number / AT_ONCE * WAVE).micros();
            row.push_bind(&tenant).push_bind(id.as_str()).push_bind(format!("user-{number}"));
            row.push("'api', 'closed', 'idle', '{}', 1").push_bind(moment).push_bind(moment).push("1");
        });
        insert.build().execute(&mut *transaction).await?;
    }
    let empty = || QueryBuilder::<Sqlite>::new(format!("INSERT INTO messages ({COLUMNS_OF_MESSAGE}) VALUES "));
    let (mut insert, mut rows) = (empty(), 0);
    let each = history.each(async |line: Line<'_>| {
        let Line { id, session, author, text, reply_to, at } = line;
        insert.push(if rows == 0 { "(" } else { ", (" });
        let mut row = insert.separated(", ");
        row.push_bind(tenant.clone()).push_bind(id.to_string()).push_bind(session.to_string()).push_bind(author);
        row.push_bind(text).push("'[]', 'done'").push_bind(reply_to.map(MessageId::to_string));
        row.push_bind(at.micros()).push_bind(at.micros());
        insert.push(")");
        rows += 1;
        if rows == ROWS {
            std::mem::replace(&mut insert, empty()).build().execute(&mut *transaction).await?;
            rows = 0;
        }
        Ok(())
    });
    each.await?;
    if rows > 0 {
        insert.build().execute(&mut *transaction).await?;
    }
    transaction.commit().await?;
    connection.close().await?;
    Ok(())
}
