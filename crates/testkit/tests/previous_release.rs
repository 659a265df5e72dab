//! The program of the release before bears the schema of this one: every statement of it, as it was written down at that
//! release, is planned by the server on the schema as it is now.
//!
//! A step that is named `contract` may break them: it takes away what the release before had stopped using. Then the list
//! is written anew with `release_statements`, which says that this release is the one that counts from now on.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::collections::BTreeMap;

use astrfleet_store::{Db, PgSettings};
use astrfleet_testkit::{contract::store::NOW, postgres::Postgres};
use sqlx::{AssertSqlSafe, PgPool, SqlitePool};

const PREVIOUS: &str = include_str!("../../store/migrations/previous_release_statements.json");

fn previous() -> BTreeMap<String, String> {
    let previous: BTreeMap<String, String> = serde_json::from_str(PREVIOUS).unwrap();
    assert!(previous.len() > 50, "only {} statements were written down", previous.len());
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

#[tokio::test]
async fn every_statement_of_the_release_before_is_planned_on_postgres() {
    let database = Postgres::shared().await.database().await;
    let db = Db::open_postgres(&database.url().into(), &PgSettings::default()).await.unwrap();
    db.migrate_up(NOW).await.unwrap();
    let held = PgPool::connect(&database.url()).await.unwrap();
    let mut connection = held.acquire().await.unwrap();
    let mut broken = Vec::new();
    for (name, sql) in previous() {
        let sql = numbered(&sql);
        // Parsed with the types that its places ask for; planned, which is when it is looked for unique indexes.
        let nulls = vec!["NULL"; parameters(&sql)].join(", ");
        let values = if nulls.is_empty() { String::new() } else { format!("({nulls})") };
        let text = format!("PREPARE one AS {sql}; EXPLAIN EXECUTE one {values}; DEALLOCATE one;");
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
    db.migrate_up(NOW).await.unwrap();
    let raw = SqlitePool::connect(&format!("sqlite://{}", path.display())).await.unwrap();
    let mut broken = Vec::new();
    for (name, sql) in previous() {
        let explain = AssertSqlSafe(format!("EXPLAIN {sql}"));
        if let Err(error) = sqlx::query(explain).fetch_all(&raw).await {
            broken.push(format!("{name}: {error}"));
        }
    }
    assert_eq!(broken, Vec::<String>::new());
}
