//! Audit logs: chains of hashes, one for each tenant and one for the platform.
//!
//! Nothing here changes an entry. Whoever appends holds the chain's head until the entry is in, so that two writers
//! come one after the other and no chain forks; the key of the table would refuse a fork.

use astrfleet_core::{
    Error, Result,
    audit::{Entry, NewEntry},
    id::{AuditId, TenantId},
    page::{Page, PageRequest},
    ports::AuditLog,
    time::Timestamp,
};
use async_trait::async_trait;

use crate::{
    db::Db,
    scope::Scope,
    statement::{read, read_stale, statements, transaction},
    values::{read_id, read_json, storable},
};

/// The name of the log that is no tenant's.
pub(crate) const PLATFORM: &str = "platform";

statements! {
    "audit entry";
    /// Returns the place of the next entry and the hash of the one before it.
    NEXT = "audit.next", "INSERT INTO audit_heads (log, seq, hash) VALUES ($1, 1, '')
        ON CONFLICT (log) DO UPDATE SET seq = audit_heads.seq + 1 RETURNING seq, hash";
    SET_HEAD = "audit.set_head", "UPDATE audit_heads SET hash = $2 WHERE log = $1";
    INSERT = "audit.insert", "INSERT INTO audit_log
            (log, seq, id, at, actor, action, target, detail, request_id, hash, previous_hash)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)";
    LIST = "audit.list", "SELECT seq, id, at, actor, action, target, detail, request_id, hash, previous_hash
        FROM audit_log WHERE log = $1 AND seq < $2 ORDER BY seq DESC LIMIT $3";
    FIND = "audit.find", "SELECT seq, id, at, actor, action, target, detail, request_id, hash, previous_hash
        FROM audit_log WHERE log = $1 AND action = $2 AND target = $3 ORDER BY seq DESC LIMIT 1";
}

/// Appends an entry within a transaction that may write to this log. Returns it as it stands there.
macro_rules! append_entry {
    ($connection:expr, $log:expr, $entry:expr) => {{
        use $crate::{
            audit::{INSERT, NEXT, SET_HEAD},
            statement::run,
            values::sha256,
        };
        let (log, entry): (&str, astrfleet_core::audit::NewEntry) = ($log, $entry);
        let next = sqlx::query_as::<_, (i64, String)>(NEXT.sql).bind(log);
        let (seq, previous_hash) = run(&NEXT, next.fetch_one(&mut *$connection)).await?;
        let hash = sha256(&astrfleet_core::audit::hashed_text(&entry, seq, &previous_hash));
        let insert = sqlx::query(INSERT.sql)
            .bind(log)
            .bind(seq)
            .bind(entry.id.as_str())
            .bind(entry.at.micros())
            .bind(&entry.actor)
            .bind(&entry.action)
            .bind(&entry.target)
            .bind(entry.detail.to_string())
            .bind(&entry.request_id)
            .bind(&hash)
            .bind(&previous_hash);
        run(&INSERT, insert.execute(&mut *$connection)).await?;
        let set_head = sqlx::query(SET_HEAD.sql).bind(log).bind(&hash);
        run(&SET_HEAD, set_head.execute(&mut *$connection)).await?;
        (entry, seq, hash, previous_hash)
    }};
}
pub(crate) use append_entry;

/// What is hashed is what is stored: this log's tenant, whatever the entry says, and texts that can be held.
pub(crate) fn stored_entry(tenant: Option<&TenantId>, entry: &NewEntry) -> NewEntry {
    NewEntry {
        tenant_id: tenant.cloned(),
        actor: storable(&entry.actor).into_owned(),
        action: storable(&entry.action).into_owned(),
        target: storable(&entry.target).into_owned(),
        request_id: storable(&entry.request_id).into_owned(),
        ..entry.clone()
    }
}

/// One log.
pub struct AuditRows {
    db: Db,
    tenant: Option<TenantId>,
}

impl AuditRows {
    /// Of `tenant`, or the platform's own.
    #[must_use]
    pub fn new(db: &Db, tenant: Option<&TenantId>) -> Self {
        Self { db: db.clone(), tenant: tenant.cloned() }
    }

    fn scope(&self) -> Scope<'_> {
        self.tenant.as_ref().map_or(Scope::Owner(PLATFORM), Scope::Tenant)
    }

    fn log(&self) -> &str {
        self.tenant.as_ref().map_or(PLATFORM, TenantId::as_str)
    }
}

#[derive(sqlx::FromRow)]
struct Row {
    seq: i64,
    id: String,
    at: i64,
    actor: String,
    action: String,
    target: String,
    detail: String,
    request_id: String,
    hash: String,
    previous_hash: String,
}

impl Row {
    fn read(self) -> Result<Entry> {
        Ok(Entry {
            id: read_id("audit_log.id", &self.id, AuditId::parse)?,
            seq: self.seq,
            at: Timestamp::from_micros(self.at),
            actor: self.actor,
            action: self.action,
            target: self.target,
            detail: read_json("audit_log.detail", &self.detail)?,
            request_id: self.request_id,
            hash: self.hash,
            previous_hash: self.previous_hash,
        })
    }
}

#[async_trait]
impl AuditLog for AuditRows {
    async fn append(&self, entry: &NewEntry) -> Result<Entry> {
        let entry = stored_entry(self.tenant.as_ref(), entry);
        transaction!(&self.db, self.scope(), connection => {
            let (entry, seq, hash, previous_hash) = append_entry!(connection, self.log(), entry.clone());
            Ok(Entry {
                id: entry.id,
                seq,
                at: entry.at,
                actor: entry.actor,
                action: entry.action,
                target: entry.target,
                detail: entry.detail,
                request_id: entry.request_id,
                hash,
                previous_hash,
            })
        })
    }

    async fn list(&self, page: &PageRequest) -> Result<Page<Entry>> {
        let before = match &page.after {
            None => i64::MAX,
            Some(cursor) => cursor.parse().map_err(|_| {
                Error::invalid("cursor", "is not one of ours: use `next_cursor` of the page before, unchanged")
            })?,
        };
        let rows = read_stale!(&self.db, self.scope(), LIST, pool => sqlx::query_as::<_, Row>(LIST.sql)
            .bind(self.log())
            .bind(before)
            .bind(i64::from(page.limit) + 1)
            .fetch_all(pool))?;
        let entries = rows.into_iter().map(Row::read).collect::<Result<_>>()?;
        Ok(Page::from_rows(entries, page, |entry: &Entry| entry.seq.to_string()))
    }

    async fn find(&self, action: &str, target: &str) -> Result<Entry> {
        read!(&self.db, self.scope(), FIND, pool => sqlx::query_as::<_, Row>(FIND.sql)
            .bind(self.log())
            .bind(action)
            .bind(target)
            .fetch_one(pool))?
        .read()
    }
}
