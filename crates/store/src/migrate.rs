//! The schema, step by step, up and down. The scripts are in `migrations/`; a published one is never changed.

use astrfleet_core::{Error, Result, time::Timestamp};

use crate::{
    db::{Db, run, statements, transaction},
    dialect::MigrationLock,
    values::sha256,
};

/// One step.
pub struct Migration {
    /// Counts from 1, without gaps.
    pub version: i64,
    /// As in the names of its files.
    pub name: &'static str,
    /// Goes one step up.
    pub up: &'static str,
    /// Undoes that.
    pub down: &'static str,
}

/// Takes a step from its two files.
macro_rules! migration {
    ($version:literal, $name:literal) => {
        Migration {
            version: $version,
            name: $name,
            up: include_str!(concat!("../migrations/", $name, ".up.sql")),
            down: include_str!(concat!("../migrations/", $name, ".down.sql")),
        }
    };
}

/// All steps, the oldest first.
pub const MIGRATIONS: &[Migration] = &[migration!(1, "0001_platform"), migration!(2, "0002_conversations")];

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
const SCRIPT: crate::db::Statement = crate::db::Statement { name: "migration.script", what: "migration", sql: "" };
const LOCK: crate::db::Statement = crate::db::Statement { name: "migration.lock", what: "migration", sql: "" };

#[derive(sqlx::FromRow)]
struct Row {
    version: i64,
    name: String,
    applied_at: i64,
    checksum: String,
}

/// Opens a transaction that nobody else can migrate beside, and binds what was applied before.
macro_rules! migrating {
    ($db:expr, $connection:ident, $applied:ident => $body:block) => {
        transaction!($db, $connection => {
            run(&LOCK, $connection.lock_migrations()).await?;
            run(&MAKE_TABLE, sqlx::query(MAKE_TABLE.sql).execute(&mut *$connection)).await?;
            let $applied: Vec<Row> = run(&LIST, sqlx::query_as(LIST.sql).fetch_all(&mut *$connection)).await?;
            check(&$applied)?;
            $body
        })
    };
}

impl Db {
    /// Makes all steps that are missing, each in a transaction of its own. Returns their names. Several of us may do
    /// so at the same moment: one does, the others wait.
    ///
    /// # Errors
    /// [`Error::Conflict`] where the database is not one that this program can go on with: see its text.
    pub async fn migrate_up(&self, now: Timestamp) -> Result<Vec<&'static str>> {
        let mut made = Vec::new();
        while let Some(name) = self.step_up(now).await? {
            tracing::info!(migration = name, "migrated up");
            made.push(name);
        }
        Ok(made)
    }

    async fn step_up(&self, now: Timestamp) -> Result<Option<&'static str>> {
        migrating!(self, connection, applied => {
            // They are made in order and without gaps.
            let Some(step) = MIGRATIONS.get(applied.len()) else { return Ok(None) };
            run(&SCRIPT, sqlx::raw_sql(step.up).execute(&mut *connection)).await?;
            let insert = sqlx::query(INSERT.sql)
                .bind(step.version)
                .bind(step.name)
                .bind(now.micros())
                .bind(sha256(step.up));
            run(&INSERT, insert.execute(&mut *connection)).await?;
            Ok(Some(step.name))
        })
    }

    /// Undoes the steps after `to`, the newest first, each in a transaction of its own. Returns their names. What was
    /// stored in their tables is lost.
    ///
    /// # Errors
    /// As for [`Db::migrate_up`].
    pub async fn migrate_down(&self, to: i64) -> Result<Vec<&'static str>> {
        let mut undone = Vec::new();
        while let Some(name) = self.step_down(to).await? {
            tracing::info!(migration = name, "migrated down");
            undone.push(name);
        }
        Ok(undone)
    }

    async fn step_down(&self, to: i64) -> Result<Option<&'static str>> {
        migrating!(self, connection, applied => {
            let newest = applied.last().map_or(0, |row| row.version);
            let step = MIGRATIONS.iter().find(|step| step.version == newest && step.version > to);
            let Some(step) = step else { return Ok(None) };
            run(&SCRIPT, sqlx::raw_sql(step.down).execute(&mut *connection)).await?;
            run(&DELETE, sqlx::query(DELETE.sql).bind(step.version).execute(&mut *connection)).await?;
            Ok(Some(step.name))
        })
    }

    /// All steps, the oldest first.
    ///
    /// # Errors
    /// As for [`Db::migrate_up`].
    pub async fn migration_status(&self) -> Result<Vec<MigrationStatus>> {
        let applied = migrating!(self, connection, applied => { Ok(applied) })?;
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
}

/// Refuses a database that is not ours to touch.
fn check(applied: &[Row]) -> Result<()> {
    let known = MIGRATIONS.last().map_or(0, |step| step.version);
    let newest = applied.last().map_or(0, |row| row.version);
    if newest > known {
        return Err(Error::conflict(format!(
            "the database was written by a newer astrfleet (schema {newest}, this one knows {known}): use that version, \
             or restore a backup"
        )));
    }
    for (row, step) in applied.iter().zip(MIGRATIONS) {
        if row.version != step.version || row.checksum != sha256(step.up) {
            return Err(Error::conflict(format!(
                "the database was made with another text of migration {} ({}): use the astrfleet that made it, or \
                 restore a backup",
                row.version, row.name
            )));
        }
    }
    Ok(())
}
