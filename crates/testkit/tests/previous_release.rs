//! The program of the release before bears the schema of this one: every statement of it is planned by the server on the
//! schema as it is while both programs run. What a run of that program may not touch, is found here; what it does with the
//! answers, by `upgrade` in `cli`, where it does run.
//!
//! The steps that are named `contract` and that it does not know are left out: they are made when it is gone.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::collections::BTreeMap;

use astrfleet_store::{
    Db, PgSettings,
    migrate::{MIGRATIONS, contracts},
};
use astrfleet_testkit::{contract::store::NOW, postgres::Postgres};
use sqlx::{AssertSqlSafe, PgPool, SqlitePool};

const PREVIOUS: &str = include_str!("../../store/migrations/previous_release_statements.json");

/// How a message is stored on PostgreSQL.
const ACCEPT: &str = "message.accept (PostgreSQL)";

/// The newest step that is made while the release before runs.
fn newest_beside() -> i64 {
    MIGRATIONS[MIGRATIONS.len() - contracts().len() - 1].version
}

fn previous() -> BTreeMap<String, String> {
    let previous: BTreeMap<String, String> = serde_json::from_str(PREVIOUS).unwrap();
    assert!(previous.len() > 50, "only {} statements were written down", previous.len());
    assert!(previous.contains_key(ACCEPT), "the statement that is run most");
    previous
}

/// `?, ?, ?` as `$1, $2, $3`.
fn numbered(sql: &str) -> String {
    let mut count = 0;
    sql.split_inclusive('?').fold(String::new(), |text, part| match part.strip_suffix('?') {
        Some(before) => {
            count += 1;
            format!("{text}{before}${count}")
        }
        None => text + part,
    })
}

fn parameters(sql: &str) -> usize {
    let numbers = sql.split('$').skip(1).map(|rest| rest.chars().take_while(char::is_ascii_digit).collect::<String>());
    numbers.filter_map(|number| number.parse().ok()).max().unwrap_or(0)
}

/// The types that the program says, where the places do not tell: those of the columns of a list of values.
fn types(name: &str, parameters: usize) -> String {
    if name != ACCEPT {
        return String::new();
    }
    let times = [10, 11];
    let types = (1..=parameters).map(|number| if times.contains(&number) { "BIGINT" } else { "TEXT" });
    format!("({})", types.collect::<Vec<_>>().join(", "))
}

#[tokio::test]
async fn every_statement_of_the_release_before_is_planned_on_postgres() {
    let database = Postgres::shared().await.database().await;
    let db = Db::open_postgres(&database.url().into(), &PgSettings::default()).await.unwrap();
    db.migrate_up_to(NOW, newest_beside()).await.unwrap();
    let held = PgPool::connect(&database.url()).await.unwrap();
    let mut connection = held.acquire().await.unwrap();
    let mut broken = Vec::new();
    for (name, sql) in previous() {
        let sql = numbered(&sql);
        // Parsed with the types that its places ask for; planned, which is when it is looked for unique indexes.
        let nulls = vec!["NULL"; parameters(&sql)].join(", ");
        let types = types(&name, parameters(&sql));
        let values = if nulls.is_empty() { String::new() } else { format!("({nulls})") };
        let text = format!("PREPARE one {types} AS {sql}; EXPLAIN EXECUTE one {values}; DEALLOCATE one;");
        let create = sql.trim_start().starts_with("CREATE");
        if let (false, Err(error)) = (create, sqlx::raw_sql(AssertSqlSafe(text)).execute(&mut *connection).await) {
            broken.push(format!("{name}: {error}"));
            sqlx::raw_sql("DEALLOCATE ALL").execute(&mut *connection).await.unwrap();
        }
    }
    assert_eq!(broken, Vec::<String>::new());
    drop(connection);
    held.close().await;
    db.close().await;
}

#[tokio::test]
async fn every_statement_of_the_release_before_is_planned_on_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let db = Db::open_sqlite(&path).await.unwrap();
    db.migrate_up_to(NOW, newest_beside()).await.unwrap();
    let raw = SqlitePool::connect(&format!("sqlite://{}", path.display())).await.unwrap();
    let mut broken = Vec::new();
    for (name, sql) in previous().into_iter().filter(|(name, _)| !name.ends_with(" (PostgreSQL)")) {
        let explain = AssertSqlSafe(format!("EXPLAIN {sql}"));
        if let Err(error) = sqlx::query(explain).fetch_all(&raw).await {
            broken.push(format!("{name}: {error}"));
        }
    }
    assert_eq!(broken, Vec::<String>::new());
}
