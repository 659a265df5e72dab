//! The second wall: on PostgreSQL, no statement of the store sees or writes a row of anybody but those whose rows its
//! transaction says it touches, whatever the statement itself says.
//!
//! The suites run once, and the server writes down every statement with its values. Each is then given to the server
//! again with the wrong tenant, with none, and by somebody whom nothing holds, so that it is known to have had something
//! to see or to write.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::collections::BTreeMap;

use astrfleet_core::ports::Store;
use astrfleet_store::{Db, PgSettings};
use astrfleet_testkit::{
    contract::{
        store::{Make, NOW, all},
        tenants::fill,
    },
    postgres::{Database, Postgres},
};
use sqlx::{AssertSqlSafe, PgPool, Row as _, postgres::PgRow};

/// Tables that hold nothing of a tenant's own.
const OF_THE_PLATFORM: &[&str] = &["leases", "refresh_tokens", "schema_migrations", "tenants", "users"];
/// Somebody else: a tenant that is not there.
const NOBODY: &str = "ten_0190000000007000800000000000dead";

/// A statement as the server wrote it down.
#[derive(Clone, Debug)]
struct Said {
    sql: String,
    /// As they stand in SQL.
    values: Vec<String>,
}

impl Said {
    /// With its values in their places; what it says of its own scope is replaced by `scope`. The server's log does not
    /// say which of them are numbers: those of digits alone are.
    fn text(&self, scope: &str) -> String {
        let own = self.sql.split_once("set_config('astrfleet.scope', $");
        let own = own.and_then(|(_, rest)| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse::<usize>().ok());
        let mut text = String::new();
        let mut rest = self.sql.as_str();
        while let Some((before, after)) = rest.split_once('$') {
            let digits = after.chars().take_while(char::is_ascii_digit).count();
            text.push_str(before);
            match after[..digits].parse::<usize>() {
                Ok(number) if Some(number) == own => text.extend(["'", scope, "'"]),
                Ok(number) => {
                    let value = &self.values[number - 1];
                    let digits = value.trim_matches('\'');
                    let is_number = (1..=19).contains(&digits.len())
                        && digits.bytes().all(|byte| byte.is_ascii_digit())
                        // IM platforms name people so.
                        && !before.ends_with("end_user = ");
                    text.push_str(value);
                    text.push_str(if is_number { "::bigint" } else { "" });
                }
                Err(_) => text.push('$'),
            }
            rest = &after[digits..];
        }
        // The same at any moment.
        (text + rest).replace("FROM database_clock", "FROM (SELECT 1 AS micros) AS database_clock")
    }

    /// The same had it forgotten its filter: what it spoke of is gone since.
    fn unfiltered(&self) -> Self {
        // What is in brackets has a filter of its own.
        let outside = |place: &usize| {
            let before = &self.sql[..*place];
            before.matches('(').count() == before.matches(')').count()
        };
        let filter = self.sql.match_indices("WHERE").map(|(place, _)| place).find(outside);
        Self { sql: self.sql[..filter.unwrap_or(self.sql.len())].to_owned(), ..self.clone() }
    }

    fn touches(&self, tables: &[String]) -> bool {
        let words: Vec<_> = self.sql.split(|c: char| !(c.is_alphanumeric() || c == '_')).collect();
        tables.iter().any(|table| words.contains(&table.as_str()))
    }
}

/// What came of a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    /// So many rows were written; and these were returned.
    Rows(u64, Vec<String>),
    /// Row-level security refused the row.
    Refused,
    /// Something else did: by its SQLSTATE.
    Failed(String),
}

/// Gives a statement to the server within `scope`, and takes it back.
async fn give(pool: &PgPool, said: &Said, scope: &str) -> Outcome {
    let mut transaction = pool.begin().await.unwrap();
    let set = format!("SELECT set_config('astrfleet.scope', '{scope}', true)");
    sqlx::raw_sql(AssertSqlSafe(set)).execute(&mut *transaction).await.unwrap();
    let text = said.text(scope);
    let reads = text.trim_start().starts_with("SELECT") || text.contains("RETURNING");
    let outcome = if reads {
        let rows = sqlx::raw_sql(AssertSqlSafe(text)).fetch_all(&mut *transaction).await;
        rows.map(|rows| Outcome::Rows(0, rows.iter().map(shown).collect()))
    } else {
        let done = sqlx::raw_sql(AssertSqlSafe(text)).execute(&mut *transaction).await;
        done.map(|done| Outcome::Rows(done.rows_affected(), Vec::new()))
    };
    transaction.rollback().await.unwrap();
    match outcome {
        Ok(outcome) => outcome,
        Err(error) => match error.as_database_error().and_then(sqlx::error::DatabaseError::code).as_deref() {
            Some("42501") => Outcome::Refused,
            Some(code) => Outcome::Failed(code.to_owned()),
            None => panic!("{error}"),
        },
    }
}

/// Gives a statement to the server with the wrong tenant. Returns whether it would have seen or written something.
async fn sees_nothing(held: &PgPool, unheld: &PgPool, said: &Said) -> bool {
    let none = give(held, said, "").await;
    let wrong = give(held, said, NOBODY).await;
    assert_eq!(wrong, none, "another tenant is as good as none: {}", said.text(NOBODY));
    match &wrong {
        Outcome::Refused => true,
        Outcome::Rows(written, _) => {
            assert_eq!(*written, 0, "{}", said.text(NOBODY));
            give(unheld, said, NOBODY).await != wrong
        }
        Outcome::Failed(code) => panic!("{code}: {}", said.text(NOBODY)),
    }
}

fn shown(row: &PgRow) -> String {
    (0..row.len()).map(|column| row.try_get_raw(column).unwrap().as_str().map_or("NULL", |text| text)).collect()
}

/// Every statement that the server wrote down, with all its values.
fn said(log: &str) -> BTreeMap<String, Vec<Said>> {
    let mut all: BTreeMap<String, Vec<Said>> = BTreeMap::new();
    for line in log.lines() {
        let Ok(entry) = serde_json::from_str::<serde_json::Value>(line) else { continue };
        let Some((_, sql)) = entry["message"].as_str().and_then(|text| text.strip_prefix("execute ")?.split_once(": "))
        else {
            continue;
        };
        let values = entry["detail"].as_str().map_or_else(Vec::new, values);
        all.entry(sql.to_owned()).or_default().push(Said { sql: sql.to_owned(), values });
    }
    all
}

/// `parameters: $1 = 'a', $2 = NULL` as `'a'` and `NULL`.
fn values(detail: &str) -> Vec<String> {
    let mut values = Vec::new();
    let mut rest = detail.split_once(": ").map_or("", |(_, rest)| rest);
    while let Some((_, after)) = rest.split_once(" = ") {
        let end = if after.starts_with('\'') {
            let mut end = 1;
            while let Some(quote) = after[end..].find('\'') {
                end += quote + 1;
                if !after[end..].starts_with('\'') {
                    break;
                }
                end += 1;
            }
            end
        } else {
            after.find(", $").unwrap_or(after.len())
        };
        values.push(after[..end].to_owned());
        rest = &after[end..];
    }
    values
}

async fn texts(pool: &PgPool, sql: &str) -> Vec<String> {
    sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_all(pool).await.unwrap()
}

async fn tables(database: &Database) -> Vec<String> {
    // Who goes to a partition itself meets its own wall: see below.
    let tables = "SELECT relname::text FROM pg_class WHERE relkind IN ('r', 'p') AND NOT relispartition
        AND relnamespace = 'public'::regnamespace ORDER BY 1";
    texts(&database.pool, tables).await
}

async fn opened(database: &Database) -> Db {
    Db::open_postgres(&database.url().into(), &PgSettings::default()).await.unwrap()
}

#[tokio::test]
async fn every_statement_sees_and_writes_nothing_of_another_tenant() {
    let server = Postgres::start().await;
    let database = server.database().await;
    let db = opened(&database).await;
    db.migrate_up(NOW).await.unwrap();
    let log = server.write_statements_down(&database).await;
    let again = opened(&database).await;
    all(&again).await;
    again.close().await;

    let walled: Vec<_> =
        tables(&database).await.into_iter().filter(|table| !OF_THE_PLATFORM.contains(&table.as_str())).collect();
    let (held, unheld) = (PgPool::connect(&database.url()).await.unwrap(), &database.pool);
    let said = said(&log.text());
    let mut proven = 0;
    let mut unproven = Vec::new();
    for (sql, times) in said.iter().filter(|(_, times)| times[0].touches(&walled)) {
        // The newest first: what they speak of may still be there.
        let newest = times.iter().rev().take(200);
        let mut had_something = false;
        for one in newest.cloned().chain([times[0].unfiltered()]) {
            had_something |= sees_nothing(&held, unheld, &one).await;
            if had_something {
                break;
            }
        }
        if had_something { proven += 1 } else { unproven.push(sql.clone()) }
    }
    assert!(proven > 50, "only {proven} statements were heard");
    assert_eq!(unproven, Vec::<String>::new(), "statements that had nothing to see or to write in any of their turns");
    held.close().await;
    db.close().await;
}

#[tokio::test]
async fn every_table_of_tenants_has_the_wall_and_raw_sql_sees_nothing() {
    let database = Postgres::shared().await.database().await;
    let db = opened(&database).await;
    db.migrate_up(NOW).await.unwrap();
    let make = Make::new();
    let (tenant, owner) = make.stored_tenant_with_owner(&db, "walled").await;
    fill(&db, &make, &tenant, &owner).await;
    let held = PgPool::connect(&database.url()).await.unwrap();

    let unforced =
        "SELECT relname::text FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace
        AND NOT (relrowsecurity AND relforcerowsecurity) ORDER BY 1";
    assert_eq!(texts(&database.pool, unforced).await, OF_THE_PLATFORM);
    for table in tables(&database).await.iter().filter(|table| !OF_THE_PLATFORM.contains(&table.as_str())) {
        let count = format!("SELECT count(*)::text FROM {table}");
        assert_ne!(texts(&database.pool, &count).await, ["0"], "{table} has a row");
        assert_eq!(texts(&held, &count).await, ["0"], "{table} shows none to somebody who names nobody");
        let delete = AssertSqlSafe(format!("DELETE FROM {table}"));
        assert_eq!(sqlx::query(delete).execute(&held).await.unwrap().rows_affected(), 0, "{table}");
    }
    let partitions = "SELECT relname::text FROM pg_class WHERE relispartition AND relkind = 'r'";
    for partition in texts(&database.pool, partitions).await {
        assert_eq!(texts(&held, &format!("SELECT count(*)::text FROM {partition}")).await, ["0"], "{partition}");
    }
    let role = db.postgres_role().await.unwrap().unwrap();
    assert!(!role.bypasses_row_security && role.owns_tables, "{role:?}");
    let superuser = Db::open_postgres(&database.url_of_superuser().into(), &PgSettings::default()).await.unwrap();
    assert!(superuser.postgres_role().await.unwrap().unwrap().bypasses_row_security, "which is said");
    superuser.close().await;
    held.close().await;
    db.close().await;
}

#[tokio::test]
async fn a_role_that_owns_nothing_is_enough_to_use_the_tables_and_too_little_for_more() {
    let database = Postgres::shared().await.database().await;
    let db = opened(&database).await;
    db.migrate_up_to(NOW, 2).await.unwrap();
    let guest = database.url_of_guest().into();
    let unused = Db::open_postgres(&guest, &PgSettings::default()).await.unwrap();
    assert!(unused.tenants().by_name("any").await.is_err(), "nothing without a grant");
    db.grant_use_to(database.guest()).await.unwrap();
    let refused = unused.migrate_up(NOW).await.unwrap_err();
    assert!(refused.to_string().contains("astrfleet migrate up"), "{refused}");
    db.migrate_up(NOW).await.unwrap();
    assert_eq!(unused.migrate_up(NOW).await.unwrap(), Vec::<&str>::new(), "nothing to do needs no right");
    all(&unused).await;
    let raw = PgPool::connect(&database.url_of_guest()).await.unwrap();
    for forbidden in [
        "ALTER TABLE messages DISABLE ROW LEVEL SECURITY",
        "DROP POLICY scope ON messages",
        "DELETE FROM schema_migrations",
        "CREATE TABLE mine (a text)",
        "SET ROLE astrfleet",
    ] {
        let error = sqlx::raw_sql(forbidden).execute(&raw).await.unwrap_err();
        assert_eq!(error.as_database_error().unwrap().code().unwrap(), "42501", "{forbidden}");
    }
    assert!(db.grant_use_to("a; DROP TABLE users").await.is_err());
    raw.close().await;
    unused.close().await;
    db.close().await;
}
