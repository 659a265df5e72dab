//! The schema, step by step, up and down. The scripts are in `migrations/`; a published one is never changed.
//!
//! On PostgreSQL, one of us migrates at a time (an advisory lock); each step is a transaction that gives up rather than
//! keep others waiting for a table, and is tried again. A script that begins with [`APART`] is no transaction: its
//! statements run one by one, as `CREATE INDEX CONCURRENTLY` wants it, and must bear being run again.

use std::time::Duration;

use astrfleet_core::{Error, Result, time::Timestamp};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, SqlitePool};

use crate::{
    db::{Db, Engine},
    dialect,
    failed::Failed,
    statement::{BEGIN, Statement, end, run, statements},
    values::sha256,
};

/// The first line of a script that is no transaction.
pub const APART: &str = "-- apart: no transaction";

/// Nobody waits for a table for long: whoever comes after us would wait behind us. Its rows are everybody's.
const PG_BEGIN: &str = "BEGIN; SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = '5s'; \
                        SET LOCAL idle_in_transaction_session_timeout = 0; SET LOCAL astrfleet.scope = '*'";
/// The same for what is no transaction.
const PG_APART: &str = "SET statement_timeout = 0; SET lock_timeout = '5s'; SET astrfleet.scope = '*'";
/// Any number that nobody else uses for an advisory lock on this database: `astr`, `fleet`. Asked for again and again
/// rather than waited for: an index that is made beside a running transaction would wait for whoever waits.
const PG_LOCK: &str = "SELECT pg_try_advisory_lock(1634956402, 6581365)";
const LOCK_WAIT: Duration = Duration::from_mins(2);
const LOCK_PERIOD: Duration = Duration::from_millis(100);
/// How often a step is tried whose tables are in use, and the wait between.
const STEP_TRIES: u32 = 5;
const STEP_WAIT: Duration = Duration::from_secs(1);

/// One step on one engine.
pub struct Script {
    /// Goes one step up.
    pub up: &'static str,
    /// Undoes that.
    pub down: &'static str,
}

/// One step.
pub struct Migration {
    /// Counts from 1, without gaps.
    pub version: i64,
    /// As in the names of its files.
    pub name: &'static str,
    /// On PostgreSQL.
    pub postgres: Script,
    /// On SQLite.
    pub sqlite: Script,
}

/// Takes a script from its two files.
macro_rules! script {
    ($name:literal, $engine:literal) => {
        Script {
            up: include_str!(concat!("../migrations/", $name, $engine, ".up.sql")),
            down: include_str!(concat!("../migrations/", $name, $engine, ".down.sql")),
        }
    };
}

/// Takes a step from its files: two for both engines, or, with `twins`, two for each.
macro_rules! migration {
    ($version:literal, $name:literal) => {
        Migration { version: $version, name: $name, postgres: script!($name, ""), sqlite: script!($name, "") }
    };
    ($version:literal, $name:literal, twins) => {
        Migration { version: $version, name: $name, postgres: script!($name, ".pg"), sqlite: script!($name, ".sqlite") }
    };
}

/// All steps, the oldest first.
pub const MIGRATIONS: &[Migration] = &[
    migration!(1, "0001_platform"),
    migration!(2, "0002_conversations"),
    migration!(3, "0003_row_level_security", twins),
    migration!(4, "0004_leases", twins),
    migration!(5, "0005_blocklist", twins),
    migration!(6, "0006_search", twins),
    migration!(7, "0007_events", twins),
    migration!(8, "0008_webhooks", twins),
    migration!(9, "0009_channel_messages"),
    migration!(10, "0010_channel_messages_once", twins),
    migration!(11, "0011_budgets", twins),
    migration!(12, "0012_message_keys", twins),
    migration!(13, "0013_move_message_keys", twins),
    migration!(14, "0014_retention"),
    migration!(15, "0015_exports", twins),
    migration!(16, "0016_contract_messages_by_month", twins),
];

/// A step, and whether the database has made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MigrationStatus {
    /// Which.
    pub version: i64,
    /// Its name.
    pub name: String,
    /// When it was made; none: not yet.
    pub applied_at: Option<Timestamp>,
}

/// A step that would be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedStep {
    /// Which.
    pub version: i64,
    /// Its name.
    pub name: &'static str,
    /// What would run.
    pub sql: &'static str,
}

statements! {
    "migration";
    MAKE_TABLE = "migration.make_table", "CREATE TABLE IF NOT EXISTS schema_migrations (
        version BIGINT NOT NULL PRIMARY KEY, name TEXT NOT NULL, applied_at BIGINT NOT NULL, checksum TEXT NOT NULL)";
    LIST = "migration.list", "SELECT version, name, applied_at, checksum FROM schema_migrations ORDER BY version";
    INSERT = "migration.insert",
        "INSERT INTO schema_migrations (version, name, applied_at, checksum) VALUES ($1, $2, $3, $4)";
    DELETE = "migration.delete", "DELETE FROM schema_migrations WHERE version = $1";
}

/// The scripts, which are not declared: the suite that goes up and down runs them all.
const SCRIPT: Statement = Statement { name: "migration.script", what: "migration", sql: "" };
const LOCK: Statement = Statement { name: "migration.lock", what: "migration", sql: "" };
const GRANT: Statement = Statement { name: "migration.grant", what: "role", sql: "" };

#[derive(sqlx::FromRow)]
struct Row {
    version: i64,
    name: String,
    applied_at: i64,
    checksum: String,
}

/// Where steps are made: nobody else makes any beside it.
enum Session<'a> {
    Pg(Box<PgConnection>),
    Lite(&'a SqlitePool),
}

/// Which way.
#[derive(Clone, Copy)]
enum Way {
    Up { now: Timestamp },
    Down,
}

/// Writes down that a step was made, or that it was undone.
macro_rules! note {
    ($connection:expr, $step:expr, $way:expr, $is_postgres:expr) => {
        match $way {
            Way::Up { now } => {
                let insert = sqlx::query(INSERT.sql)
                    .bind($step.version)
                    .bind($step.name)
                    .bind(now.micros())
                    .bind(checksum($step, $is_postgres));
                run(&INSERT, insert.execute(&mut *$connection)).await?;
            }
            Way::Down => {
                run(&DELETE, sqlx::query(DELETE.sql).bind($step.version).execute(&mut *$connection)).await?;
            }
        }
    };
}

/// Runs a block in one transaction of a [`Session`].
macro_rules! step {
    ($session:expr, $connection:ident => $body:block) => {
        match $session {
            Session::Pg(connection) => {
                let mut begun = run(&BEGIN, connection.begin_with(PG_BEGIN)).await?;
                let outcome: Result<_> = {
                    let $connection = &mut *begun;
                    async { $body }.await
                };
                end(begun, outcome).await
            }
            Session::Lite(writer) => {
                let mut begun = run(&BEGIN, writer.begin_with(dialect::SQLITE_BEGIN)).await?;
                let outcome: Result<_> = {
                    let $connection = &mut *begun;
                    async { $body }.await
                };
                end(begun, outcome).await
            }
        }
    };
}

impl Session<'_> {
    async fn applied(&mut self) -> Result<Vec<Row>> {
        let listed = match self {
            Self::Pg(connection) => run(&LIST, sqlx::query_as(LIST.sql).fetch_all(&mut **connection)).await,
            Self::Lite(writer) => run(&LIST, sqlx::query_as(LIST.sql).fetch_all(*writer)).await,
        };
        match listed {
            Err(failed) if failed.is_missing_table() => Ok(Vec::new()),
            listed => {
                let applied = listed?;
                check(&applied, self.is_postgres())?;
                Ok(applied)
            }
        }
    }

    fn is_postgres(&self) -> bool {
        matches!(self, Self::Pg(_))
    }

    /// Makes one step, and tries again where a table was in use. Returns whether nobody had made it meanwhile.
    async fn make(&mut self, step: &Migration, way: Way) -> Result<bool> {
        for tries in 1.. {
            let made = if let (Self::Pg(connection), true) = (&mut *self, script(step, way, true).starts_with(APART)) {
                apart(connection, step, way).await.map(|()| true)
            } else {
                self.make_at_once(step, way).await
            };
            match made {
                Err(error) if is_locked(&error) && tries < STEP_TRIES => {
                    tracing::info!(migration = step.name, tries, "a table is in use: trying again");
                    tokio::time::sleep(STEP_WAIT).await;
                }
                Err(error) if is_locked(&error) => {
                    return Err(Error::conflict(format!(
                        "migration {} found its tables in use {tries} times, and has changed nothing: try again when \
                         it is quieter, or end what holds them (`SELECT * FROM pg_stat_activity`)",
                        step.name
                    )));
                }
                made => return made,
            }
        }
        Ok(false)
    }

    async fn make_at_once(&mut self, step: &Migration, way: Way) -> Result<bool> {
        let is_postgres = self.is_postgres();
        step!(self, connection => {
            // SQLite is ours from here on.
            let applied: Vec<Row> = run(&LIST, sqlx::query_as(LIST.sql).fetch_all(&mut *connection)).await?;
            if applied.iter().any(|row| row.version == step.version) == matches!(way, Way::Up { .. }) {
                return Ok(false);
            }
            run(&SCRIPT, sqlx::raw_sql(script(step, way, is_postgres)).execute(&mut *connection)).await?;
            note!(connection, step, way, is_postgres);
            Ok(true)
        })
    }

    async fn make_table(&mut self) -> Result<()> {
        step!(self, connection => {
            run(&MAKE_TABLE, sqlx::query(MAKE_TABLE.sql).execute(&mut *connection)).await?;
            Ok(())
        })
    }

    async fn end(self) {
        if let Self::Pg(connection) = self {
            // With it goes the lock.
            connection.close().await.ok();
        }
    }
}

/// Runs a script statement by statement.
async fn apart(connection: &mut PgConnection, step: &Migration, way: Way) -> Result<()> {
    run(&SCRIPT, sqlx::raw_sql(PG_APART).execute(&mut *connection)).await?;
    for statement in script(step, way, true).split_inclusive(";\n") {
        run(&SCRIPT, sqlx::raw_sql(statement).execute(&mut *connection)).await?;
    }
    note!(connection, step, way, true);
    Ok(())
}

impl Db {
    /// Makes all steps that are missing. Returns their names. Several of us may do so at the same moment: one does, the
    /// others wait. Where nothing is missing, nothing is changed or locked, and no right to do so is needed.
    ///
    /// # Errors
    /// [`Error::Conflict`] where the database is not one that this program can go on with, or may not be changed by
    /// this role: see its text.
    pub async fn migrate_up(&self, now: Timestamp) -> Result<Vec<&'static str>> {
        self.migrate_up_to(now, i64::MAX).await
    }

    /// The same up to and with the step `to`.
    ///
    /// # Errors
    /// As for [`Db::migrate_up`].
    pub async fn migrate_up_to(&self, now: Timestamp, to: i64) -> Result<Vec<&'static str>> {
        if let Some(row) = self.applied().await?.iter().find(|row| row.version > newest_known()) {
            tracing::info!(
                migration = row.name,
                "the database is one of a newer version, which this one can go on with"
            );
        }
        if self.missing_steps(to).await?.is_empty() {
            return Ok(Vec::new());
        }
        let mut session = self.session().await?;
        let made = up(&mut session, now, to).await;
        session.end().await;
        made.map_err(explain)
    }

    /// Makes the steps that the program of the release before can live with: all but [`contracts`], which are left for
    /// [`Db::migrate_up`] once it is gone. Where nobody can be alive, in an empty database and in SQLite's, which one
    /// program has at a time, it makes them too.
    ///
    /// # Errors
    /// As for [`Db::migrate_up`].
    pub async fn migrate_up_beside_previous(&self, now: Timestamp) -> Result<Vec<&'static str>> {
        let alone = matches!(self.engine, Engine::Lite { .. }) || self.applied().await?.is_empty();
        let first_left = contracts().first().filter(|_| !alone).map(|step| step.version);
        let made = self.migrate_up_to(now, first_left.map_or(i64::MAX, |version| version - 1)).await?;
        if let (false, Some(step)) = (alone, self.missing_steps(i64::MAX).await?.first()) {
            tracing::warn!(
                migration = step.name,
                "the database keeps what only the release before uses: when no program of it runs any more, run \
                 `astrfleet migrate up --contract`"
            );
        }
        Ok(made)
    }

    /// Undoes the steps after `to`, the newest first, each in a transaction of its own. Returns their names. What was
    /// stored in their tables is lost.
    ///
    /// # Errors
    /// As for [`Db::migrate_up`].
    pub async fn migrate_down(&self, to: i64) -> Result<Vec<&'static str>> {
        let mut session = self.session().await?;
        let undone = down(&mut session, to).await;
        session.end().await;
        undone.map_err(explain)
    }

    /// All steps, the oldest first.
    ///
    /// # Errors
    /// As for [`Db::migrate_up`].
    pub async fn migration_status(&self) -> Result<Vec<MigrationStatus>> {
        let applied = self.applied().await?;
        let status = |step: &Migration| MigrationStatus {
            version: step.version,
            name: step.name.to_owned(),
            applied_at: applied
                .iter()
                .find(|row| row.version == step.version)
                .map(|row| Timestamp::from_micros(row.applied_at)),
        };
        Ok(MIGRATIONS.iter().map(status).collect())
    }

    /// The steps that would be made up to and with `to`.
    ///
    /// # Errors
    /// As for [`Db::migrate_up`].
    pub async fn missing_steps(&self, to: i64) -> Result<Vec<PlannedStep>> {
        let made = self.applied().await?.len();
        Ok(MIGRATIONS
            .iter()
            .skip(made)
            .filter(|step| step.version <= to)
            .map(|step| PlannedStep { version: step.version, name: step.name, sql: self.script(step).up })
            .collect())
    }

    /// The steps that [`Db::migrate_down`] would undo, in its order.
    ///
    /// # Errors
    /// As for [`Db::migrate_up`].
    pub async fn undoable_steps(&self, to: i64) -> Result<Vec<PlannedStep>> {
        let made = self.applied().await?.len();
        Ok(MIGRATIONS
            .iter()
            .take(made)
            .rev()
            .filter(|step| step.version > to)
            .map(|step| PlannedStep { version: step.version, name: step.name, sql: self.script(step).down })
            .collect())
    }

    /// Lets another role use the tables, those of later steps too, and no more than that: it can neither change the
    /// schema nor switch off row-level security.
    ///
    /// # Errors
    /// [`Error::Invalid`] where `role` is none, or the database has no roles.
    pub async fn grant_use_to(&self, role: &str) -> Result<()> {
        let Engine::Pg(servers) = &self.engine else {
            return Err(Error::invalid("role", "SQLite has no roles: this is for PostgreSQL"));
        };
        let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        if role.is_empty() || !role.bytes().all(good) {
            return Err(Error::invalid("role", "may have lower-case letters, digits and _ in its name"));
        }
        let grants = format!(
            "GRANT USAGE ON SCHEMA public TO {role};
             GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role};
             REVOKE INSERT, UPDATE, DELETE ON schema_migrations FROM {role};
             GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO {role};
             ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {role};
             ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT EXECUTE ON FUNCTIONS TO {role};"
        );
        let mut connection = servers.connect(&GRANT).await?;
        let granted = run(&GRANT, sqlx::raw_sql(AssertSqlSafe(grants)).execute(&mut connection)).await;
        connection.close().await.ok();
        granted?;
        Ok(())
    }

    fn script<'a>(&self, step: &'a Migration) -> &'a Script {
        match &self.engine {
            Engine::Pg(_) => &step.postgres,
            Engine::Lite { .. } => &step.sqlite,
        }
    }

    async fn applied(&self) -> Result<Vec<Row>> {
        let mut session = self.unlocked_session().await?;
        let applied = session.applied().await;
        session.end().await;
        applied
    }

    async fn unlocked_session(&self) -> Result<Session<'_>> {
        Ok(match &self.engine {
            Engine::Pg(servers) => Session::Pg(Box::new(servers.connect(&LOCK).await?)),
            Engine::Lite { writer, .. } => Session::Lite(writer),
        })
    }

    /// Waits until nobody else migrates.
    async fn session(&self) -> Result<Session<'_>> {
        let mut session = self.unlocked_session().await?;
        let Session::Pg(connection) = &mut session else { return Ok(session) };
        let mut waited = Duration::ZERO;
        while !run(&LOCK, sqlx::query_scalar::<_, bool>(PG_LOCK).fetch_one(&mut **connection)).await? {
            if waited >= LOCK_WAIT {
                return Err(Error::conflict(format!(
                    "somebody else has been migrating this database for {} s: wait for them, or look for them in \
                     pg_stat_activity",
                    LOCK_WAIT.as_secs()
                )));
            }
            tokio::time::sleep(LOCK_PERIOD).await;
            waited += LOCK_PERIOD;
        }
        Ok(session)
    }
}

async fn up(session: &mut Session<'_>, now: Timestamp, to: i64) -> Result<Vec<&'static str>> {
    session.make_table().await?;
    let mut made = Vec::new();
    loop {
        // They are made in order and without gaps; looked up again each time, since SQLite is locked for one step.
        let applied = session.applied().await?.len();
        let Some(step) = MIGRATIONS.get(applied).filter(|step| step.version <= to) else { return Ok(made) };
        if !session.make(step, Way::Up { now }).await? {
            continue;
        }
        tracing::info!(migration = step.name, "migrated up");
        made.push(step.name);
    }
}

async fn down(session: &mut Session<'_>, to: i64) -> Result<Vec<&'static str>> {
    let mut undone = Vec::new();
    loop {
        let applied = session.applied().await?;
        let newest = applied.last().map_or(0, |row| row.version);
        if newest > newest_known() {
            return Err(Error::conflict(format!(
                "a newer astrfleet made step {newest}: undo its steps with that version first"
            )));
        }
        let step = MIGRATIONS.iter().find(|step| step.version == newest && step.version > to);
        let Some(step) = step else { return Ok(undone) };
        if !session.make(step, Way::Down).await? {
            continue;
        }
        tracing::info!(migration = step.name, "migrated down");
        undone.push(step.name);
    }
}

fn script(step: &Migration, way: Way, postgres: bool) -> &'static str {
    let script = if postgres { &step.postgres } else { &step.sqlite };
    match way {
        Way::Up { .. } => script.up,
        Way::Down => script.down,
    }
}

fn checksum(step: &Migration, postgres: bool) -> String {
    sha256(if postgres { step.postgres.up } else { step.sqlite.up })
}

fn is_locked(error: &Error) -> bool {
    failed(error).is_some_and(Failed::is_locked)
}

/// Says what to do where the role may not change the schema.
fn explain(error: Error) -> Error {
    if !failed(&error).is_some_and(Failed::is_forbidden) {
        return error;
    }
    Error::conflict(
        "the database has to be migrated, and this role may not do that: run `astrfleet migrate up` as the tables' \
         owner",
    )
}

fn failed(error: &Error) -> Option<&Failed> {
    match error {
        Error::Unavailable { source, .. } | Error::Internal { source } => source.downcast_ref(),
        _ => None,
    }
}

fn newest_known() -> i64 {
    MIGRATIONS.last().map_or(0, |step| step.version)
}

/// Whether a step takes something away that the release before it may use. It is recorded with the step, in its name.
#[must_use]
pub fn is_contract(name: &str) -> bool {
    name.split_once('_').is_some_and(|(_, rest)| rest.starts_with("contract_"))
}

/// The release before: its commit, and the newest step that its program knows.
const PREVIOUS_RELEASE: &str = include_str!("../migrations/previous_release");

/// The steps that take something from the program of the release before, which does not know them. They are the last ones
/// of this release, so that all others can be made without them.
#[must_use]
pub fn contracts() -> &'static [Migration] {
    let known = PREVIOUS_RELEASE.split_whitespace().nth(1).and_then(|newest| newest.parse().ok()).unwrap_or(0);
    let first = MIGRATIONS.iter().position(|step| step.version > known && is_contract(step.name));
    &MIGRATIONS[first.unwrap_or(MIGRATIONS.len())..]
}

/// Refuses a database that is not ours to touch.
fn check(applied: &[Row], postgres: bool) -> Result<()> {
    let known = newest_known();
    // What only adds does not concern a program that does not know it: during a release, both run.
    if let Some(row) = applied.iter().find(|row| row.version > known && is_contract(&row.name)) {
        return Err(Error::conflict(format!(
            "a newer astrfleet took something from the database that this one uses (migration {}; this one knows {known}): \
             use that version, or restore a backup",
            row.name
        )));
    }
    for (row, step) in applied.iter().zip(MIGRATIONS) {
        if row.version != step.version || row.checksum != checksum(step, postgres) {
            return Err(Error::conflict(format!(
                "the database was made with another text of migration {} ({}): use the astrfleet that made it, or \
                 restore a backup",
                row.version, row.name
            )));
        }
    }
    Ok(())
}
