//! Whom tenants do not want to hear from. An entry of every channel has an empty one: the key holds for it too.

use astrfleet_core::{
    Error, Result,
    blocklist::Block,
    id::{BlockId, TenantId},
    page::{Page, PageRequest},
    ports::Blocklist,
    time::Timestamp,
};
use async_trait::async_trait;

use crate::{
    db::Db,
    scope::Scope,
    statement::{affected, change, read, statements},
    values::{micros, moment, read_id, read_number, storable},
};

/// What a [`Row`] is made of.
macro_rules! columns {
    () => {
        "tenant_id, id, channel, end_user, reason, blocked_until, created_by, created_at"
    };
}

statements! {
    "block";
    PUT = "blocklist.put", concat!("INSERT INTO blocklist (", columns!(), ")
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
        ON CONFLICT (tenant_id, channel, end_user) DO UPDATE SET
            reason = excluded.reason, blocked_until = excluded.blocked_until, created_by = excluded.created_by
        RETURNING ", columns!());
    LIST = "blocklist.list", concat!("SELECT ", columns!(), " FROM blocklist
        WHERE tenant_id = $1 AND id > $2 ORDER BY id LIMIT $3");
    REMOVE = "blocklist.remove", concat!("DELETE FROM blocklist WHERE tenant_id = $1 AND id = $2 RETURNING ", columns!());
    FORGET_REASONS = "blocklist.forget_reasons", "UPDATE blocklist SET reason = NULL WHERE tenant_id = $1 AND end_user = $2";
    COUNT = "blocklist.count", "SELECT COUNT(*) FROM blocklist WHERE tenant_id = $1";
    IN_FORCE = "blocklist.in_force", concat!("SELECT ", columns!(), " FROM blocklist
        WHERE tenant_id = $1 AND (blocked_until IS NULL OR blocked_until > $2) ORDER BY id DESC LIMIT $3");
}

/// The blocklist of one tenant.
pub struct BlockRows {
    db: Db,
    tenant: TenantId,
}

impl BlockRows {
    /// Of `tenant`.
    #[must_use]
    pub fn new(db: &Db, tenant: &TenantId) -> Self {
        Self { db: db.clone(), tenant: tenant.clone() }
    }
}

#[derive(sqlx::FromRow)]
struct Row {
    id: String,
    channel: String,
    end_user: String,
    reason: Option<String>,
    blocked_until: Option<i64>,
    created_by: String,
    created_at: i64,
}

impl Row {
    fn read(self) -> Result<Block> {
        Ok(Block {
            id: read_id("blocklist.id", &self.id, BlockId::parse)?,
            channel: Some(self.channel).filter(|channel| !channel.is_empty()),
            end_user: self.end_user,
            reason: self.reason,
            until: moment(self.blocked_until),
            created_by: self.created_by,
            created_at: Timestamp::from_micros(self.created_at),
        })
    }
}

fn one(rows: Vec<Row>) -> Result<Block> {
    rows.into_iter().next().ok_or(Error::NotFound { what: "block" })?.read()
}

#[async_trait]
impl Blocklist for BlockRows {
    async fn put(&self, block: &Block) -> Result<Block> {
        // All rows rather than one: SQLite checks and commits only when it was asked for the last one.
        let stored = change!(&self.db, Scope::Tenant(&self.tenant), PUT, pool => sqlx::query_as::<_, Row>(PUT.sql)
            .bind(self.tenant.as_str())
            .bind(block.id.as_str())
            .bind(block.channel.as_deref().unwrap_or_default())
            .bind(storable(&block.end_user))
            .bind(block.reason.as_deref().map(storable))
            .bind(micros(block.until))
            .bind(&block.created_by)
            .bind(block.created_at.micros())
            .fetch_all(pool))
        .map_err(|failed| failed.or_missing("tenant"))?;
        one(stored)
    }

    async fn list(&self, page: &PageRequest) -> Result<Page<Block>> {
        let rows = read!(&self.db, Scope::Tenant(&self.tenant), LIST, pool => sqlx::query_as::<_, Row>(LIST.sql)
            .bind(self.tenant.as_str())
            .bind(page.after.as_deref().unwrap_or_default())
            .bind(i64::from(page.limit) + 1)
            .fetch_all(pool))?;
        let blocks = rows.into_iter().map(Row::read).collect::<Result<_>>()?;
        Ok(Page::from_rows(blocks, page, |block: &Block| block.id.to_string()))
    }

    async fn remove(&self, id: &BlockId) -> Result<Block> {
        let removed = change!(&self.db, Scope::Tenant(&self.tenant), REMOVE, pool => sqlx::query_as::<_, Row>(REMOVE.sql)
            .bind(self.tenant.as_str())
            .bind(id.as_str())
            .fetch_all(pool))?;
        one(removed)
    }

    async fn forget_reasons(&self, end_user: &str) -> Result<u64> {
        let forgotten = affected!(
            &self.db,
            Scope::Tenant(&self.tenant),
            FORGET_REASONS,
            sqlx::query(FORGET_REASONS.sql).bind(self.tenant.as_str()).bind(storable(end_user))
        )?;
        Ok(forgotten)
    }

    async fn count(&self) -> Result<u64> {
        let count = read!(&self.db, Scope::Tenant(&self.tenant), COUNT, pool => sqlx::query_scalar::<_, i64>(COUNT.sql)
            .bind(self.tenant.as_str())
            .fetch_one(pool))?;
        read_number("blocklist.count", count)
    }

    async fn in_force(&self, now: Timestamp, limit: u32) -> Result<Vec<Block>> {
        read!(&self.db, Scope::Tenant(&self.tenant), IN_FORCE, pool => sqlx::query_as::<_, Row>(IN_FORCE.sql)
            .bind(self.tenant.as_str())
            .bind(now.micros())
            .bind(i64::from(limit))
            .fetch_all(pool))?
        .into_iter()
        .map(Row::read)
        .collect()
    }
}
