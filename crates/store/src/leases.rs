//! Leases: who alone may do something, for a while. All time here is the database's own.

use std::time::Duration;

use astrfleet_core::{
    Result,
    ports::{Holder, Lease, Leases, Taken},
};
use async_trait::async_trait;

use crate::{
    db::Db,
    scope::Scope,
    statement::{affected, change, read, statements},
};

statements! {
    "lease";
    /// Changes nothing where somebody else holds it.
    TAKE = "lease.take", "INSERT INTO leases (name, owner, url, epoch, expires_at)
        VALUES ($1, $2, $3, 1, (SELECT micros FROM database_clock) + $4)
        ON CONFLICT (name) DO UPDATE SET owner = excluded.owner, url = excluded.url, epoch = leases.epoch + 1,
            expires_at = excluded.expires_at
        WHERE leases.expires_at <= (SELECT micros FROM database_clock) OR leases.owner = excluded.owner
        RETURNING epoch";
    RENEW = "lease.renew", "UPDATE leases SET expires_at = (SELECT micros FROM database_clock) + $2
        WHERE owner = $1 AND expires_at > (SELECT micros FROM database_clock) RETURNING name, epoch";
    RELEASE = "lease.release", "UPDATE leases SET expires_at = 0
        WHERE name = $1 AND owner = $2 AND epoch = $3 AND expires_at > 0";
    RELEASE_ALL = "lease.release_all", "UPDATE leases SET expires_at = 0 WHERE owner = $1 AND expires_at > 0";
    FREE_ALL = "lease.free_all", "UPDATE leases SET expires_at = 0 WHERE expires_at > 0";
    GET = "lease.get", "SELECT name, owner, url, epoch, expires_at - (SELECT micros FROM database_clock) AS remaining
        FROM leases WHERE name = $1";
}

/// Between a look at a lease and the next try to take it, somebody may have given it back.
const TRIES: usize = 3;

/// All leases.
pub struct LeaseRows {
    db: Db,
}

impl LeaseRows {
    /// Of `db`.
    #[must_use]
    pub fn new(db: &Db) -> Self {
        Self { db: db.clone() }
    }
}

#[derive(sqlx::FromRow)]
struct Row {
    name: String,
    owner: String,
    url: String,
    epoch: i64,
    remaining: i64,
}

impl Row {
    fn read(self) -> Lease {
        let remaining = Duration::from_micros(u64::try_from(self.remaining).unwrap_or(0));
        Lease { name: self.name, owner: self.owner, url: self.url, epoch: self.epoch, remaining }
    }
}

fn micros(life: Duration) -> i64 {
    i64::try_from(life.as_micros()).unwrap_or(i64::MAX / 2)
}

#[async_trait]
impl Leases for LeaseRows {
    async fn take(&self, name: &str, holder: &Holder, life: Duration) -> Result<Taken> {
        let mut seen = None;
        for _ in 0..TRIES {
            // Mostly somebody has it: whoever only looks holds nobody up.
            seen = self.get(name).await?;
            if let Some(lease) = seen.as_ref().filter(|lease| !lease.is_free() && lease.owner != holder.id) {
                return Ok(Taken::Theirs(lease.clone()));
            }
            // All rows rather than one: SQLite checks and commits only when it was asked for the last one.
            let taken = change!(&self.db, Scope::Platform, TAKE, pool => sqlx::query_scalar::<_, i64>(TAKE.sql)
                .bind(name)
                .bind(&holder.id)
                .bind(&holder.url)
                .bind(micros(life))
                .fetch_all(pool))?;
            if let Some(epoch) = taken.first() {
                return Ok(Taken::Ours(*epoch));
            }
        }
        let nobody = || Lease {
            name: name.to_owned(),
            owner: String::new(),
            url: String::new(),
            epoch: 0,
            remaining: Duration::ZERO,
        };
        Ok(Taken::Theirs(seen.unwrap_or_else(nobody)))
    }

    async fn renew(&self, owner: &str, life: Duration) -> Result<Vec<(String, i64)>> {
        let renewed = change!(&self.db, Scope::Platform, RENEW, pool => sqlx::query_as::<_, (String, i64)>(RENEW.sql)
            .bind(owner)
            .bind(micros(life))
            .fetch_all(pool))?;
        Ok(renewed)
    }

    async fn release(&self, name: &str, owner: &str, epoch: i64) -> Result<bool> {
        let released =
            affected!(&self.db, Scope::Platform, RELEASE, sqlx::query(RELEASE.sql).bind(name).bind(owner).bind(epoch))?;
        Ok(released == 1)
    }

    async fn release_all(&self, owner: &str) -> Result<u64> {
        let query = affected!(&self.db, Scope::Platform, RELEASE_ALL, sqlx::query(RELEASE_ALL.sql).bind(owner));
        Ok(query?)
    }

    async fn free_all(&self) -> Result<u64> {
        Ok(affected!(&self.db, Scope::Platform, FREE_ALL, sqlx::query(FREE_ALL.sql))?)
    }

    async fn get(&self, name: &str) -> Result<Option<Lease>> {
        let lease = read!(&self.db, Scope::Platform, GET, pool => sqlx::query_as::<_, Row>(GET.sql)
            .bind(name)
            .fetch_optional(pool))?;
        Ok(lease.map(Row::read))
    }
}
