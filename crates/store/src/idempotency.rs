//! Answers that were given under an `Idempotency-Key`, each owner's apart.

use std::time::Duration;

use astrfleet_core::{
    Result,
    ports::{Begun, Idempotency, StoredAnswer},
    time::Timestamp,
};
use async_trait::async_trait;

use crate::{
    db::Db,
    scope::Scope,
    statement::{affected, read, statements},
    values::{hex, read_number},
};

/// How often a key is tried for whose holder gives it back at the very moment.
const TRIES: usize = 3;

statements! {
    "answer";
    /// By the database's clock alone: what one process has begun may be given up by another one.
    BEGIN = "idempotency.begin", "INSERT INTO idempotency (owner, idempotency_key, request_hash, created_at)
        VALUES ($1, $2, $3, (SELECT micros FROM database_clock))
        ON CONFLICT (owner, idempotency_key) DO UPDATE
            SET request_hash = excluded.request_hash, created_at = excluded.created_at
            WHERE idempotency.status IS NULL AND idempotency.created_at < excluded.created_at - $4";
    GET = "idempotency.get",
        "SELECT request_hash, status, body FROM idempotency WHERE owner = $1 AND idempotency_key = $2";
    FINISH = "idempotency.finish", "UPDATE idempotency SET status = $3, body = $4
        WHERE owner = $1 AND idempotency_key = $2 AND status IS NULL";
    FORGET = "idempotency.forget",
        "DELETE FROM idempotency WHERE owner = $1 AND idempotency_key = $2 AND status IS NULL";
    DELETE_OLD = "idempotency.delete_old", "DELETE FROM idempotency WHERE (owner, idempotency_key) IN (
        SELECT owner, idempotency_key FROM idempotency WHERE created_at < $1 ORDER BY created_at LIMIT $2)";
}

/// The answers to one owner.
pub struct IdempotencyRows {
    db: Db,
    owner: String,
}

impl IdempotencyRows {
    /// To `owner`.
    #[must_use]
    pub fn new(db: &Db, owner: &str) -> Self {
        Self { db: db.clone(), owner: owner.to_owned() }
    }
}

#[derive(sqlx::FromRow)]
struct Row {
    request_hash: String,
    status: Option<i64>,
    body: Option<String>,
}

impl Row {
    fn read(self, request_hash: &str) -> Result<Begun> {
        if self.request_hash != request_hash {
            return Ok(Begun::Different);
        }
        match (self.status, self.body) {
            (Some(status), Some(body)) => {
                Ok(Begun::Answered(StoredAnswer { status: read_number("idempotency.status", status)?, body }))
            }
            _ => Ok(Begun::InProgress),
        }
    }
}

/// Deletes at most `limit` answers of all owners from before `before`. Returns how many.
pub(crate) async fn delete_before(db: &Db, before: Timestamp, limit: u32) -> Result<u64> {
    let deleted = affected!(
        db,
        Scope::System,
        DELETE_OLD,
        sqlx::query(DELETE_OLD.sql).bind(before.micros()).bind(i64::from(limit))
    )?;
    Ok(deleted)
}

#[async_trait]
impl Idempotency for IdempotencyRows {
    async fn begin(&self, key: &str, request_hash: &[u8; 32], abandoned_after: Duration) -> Result<Begun> {
        let abandoned_after = i64::try_from(abandoned_after.as_micros()).unwrap_or(i64::MAX / 2);
        let request_hash = hex(request_hash);
        for _ in 0..TRIES {
            let begun = affected!(
                &self.db,
                Scope::Owner(&self.owner),
                BEGIN,
                sqlx::query(BEGIN.sql).bind(&self.owner).bind(key).bind(&request_hash).bind(abandoned_after)
            )?;
            if begun == 1 {
                return Ok(Begun::New);
            }
            let before = read!(&self.db, Scope::Owner(&self.owner), GET, pool =>
                sqlx::query_as::<_, Row>(GET.sql).bind(&self.owner).bind(key).fetch_optional(pool))?;
            if let Some(row) = before {
                return row.read(&request_hash);
            }
        }
        Ok(Begun::InProgress)
    }

    async fn finish(&self, key: &str, answer: &StoredAnswer) -> Result<()> {
        affected!(
            &self.db,
            Scope::Owner(&self.owner),
            FINISH,
            sqlx::query(FINISH.sql).bind(&self.owner).bind(key).bind(i64::from(answer.status)).bind(&answer.body)
        )?;
        Ok(())
    }

    async fn forget(&self, key: &str) -> Result<()> {
        affected!(&self.db, Scope::Owner(&self.owner), FORGET, sqlx::query(FORGET.sql).bind(&self.owner).bind(key))?;
        Ok(())
    }
}
