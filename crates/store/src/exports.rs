//! Exports of tenants: what is known of them, and what they read that nobody else does. The archives are elsewhere: see the
//! port `Blobs`.

use astrfleet_core::{
    Error, Result,
    attachment::Attachment,
    export::{Export, State},
    id::{AttachmentId, ExportId, MessageId, TenantId},
    message::Message,
    ports::Exports,
    time::Timestamp,
};
use async_trait::async_trait;

use crate::{
    attachments::{self, attachment_columns},
    db::Db,
    messages::{self, message_columns},
    scope::Scope,
    statement::{affected, read, statements},
    values::{read_id, read_number, read_word, storable, word},
};

/// What a [`Row`] is made of.
macro_rules! columns {
    () => {
        "tenant_id, id, state, attempts, done, total, requested_by, created_at, updated_at, expires_at, size_bytes, \
         sha256, failure"
    };
}

statements! {
    "export";
    INSERT = "export.insert", concat!("INSERT INTO exports (", columns!(), ")
        VALUES ($1, $2, $3, 0, 0, 0, $4, $5, $5, $6, NULL, NULL, NULL)");
    GET = "export.get", concat!("SELECT ", columns!(), " FROM exports WHERE tenant_id = $1 AND id = $2");
    LIST = "export.list", concat!("SELECT ", columns!(), " FROM exports WHERE tenant_id = $1 ORDER BY id DESC LIMIT $2");
    DELETE = "export.delete", "DELETE FROM exports WHERE tenant_id = $1 AND id = $2";
    /// Whoever comes second, or too late, changes nothing: each claim has a number of its own.
    CLAIM = "export.claim", "UPDATE exports SET state = 'running', attempts = attempts + 1, done = 0, updated_at = $4
        WHERE tenant_id = $1 AND id = $2 AND attempts = $3 AND state IN ('pending', 'running')";
    PROGRESS = "export.progress", "UPDATE exports SET done = $4, total = $5, updated_at = $6
        WHERE tenant_id = $1 AND id = $2 AND attempts = $3 AND state = 'running'";
    FINISH = "export.finish", "UPDATE exports SET state = $4, size_bytes = $5, sha256 = $6, failure = $7, updated_at = $8
        WHERE tenant_id = $1 AND id = $2 AND attempts = $3 AND state = 'running'";
    RELEASE = "export.release", "UPDATE exports SET state = 'pending', attempts = attempts - 1, done = 0, updated_at = $4
        WHERE tenant_id = $1 AND id = $2 AND attempts = $3 AND state = 'running'";
    COUNT_MESSAGES = "export.count_messages", "SELECT COUNT(*) FROM messages WHERE tenant_id = $1";
    COUNT_ATTACHMENTS = "export.count_attachments", "SELECT COUNT(*) FROM attachments WHERE tenant_id = $1";
    MESSAGES = "export.messages", concat!("SELECT ", message_columns!(), " FROM messages
        WHERE tenant_id = $1 AND id > $2 ORDER BY id LIMIT $3");
    ATTACHMENTS = "export.attachments", concat!("SELECT ", attachment_columns!(), " FROM attachments
        WHERE tenant_id = $1 AND id > $2 ORDER BY id LIMIT $3");
    OPEN = "export.open", concat!("SELECT ", columns!(), " FROM exports
        WHERE state = 'pending' OR (state = 'running' AND updated_at < $1) ORDER BY id LIMIT $2");
    EXPIRED = "export.expired", concat!("SELECT ", columns!(), " FROM exports WHERE expires_at <= $1 ORDER BY id LIMIT $2");
}

/// The exports of one tenant.
pub struct ExportRows {
    db: Db,
    tenant: TenantId,
}

impl ExportRows {
    /// Of `tenant`.
    #[must_use]
    pub fn new(db: &Db, tenant: &TenantId) -> Self {
        Self { db: db.clone(), tenant: tenant.clone() }
    }
}

#[derive(sqlx::FromRow)]
struct Row {
    tenant_id: String,
    id: String,
    state: String,
    attempts: i64,
    done: i64,
    total: i64,
    requested_by: String,
    created_at: i64,
    updated_at: i64,
    expires_at: i64,
    size_bytes: Option<i64>,
    sha256: Option<String>,
    failure: Option<String>,
}

impl Row {
    fn read(self) -> Result<(Export, i64)> {
        let export = Export {
            id: read_id("exports.id", &self.id, ExportId::parse)?,
            tenant_id: read_id("exports.tenant_id", &self.tenant_id, TenantId::parse)?,
            state: read_word("exports.state", self.state)?,
            done: read_number("exports.done", self.done)?,
            total: read_number("exports.total", self.total)?,
            requested_by: self.requested_by,
            created_at: Timestamp::from_micros(self.created_at),
            updated_at: Timestamp::from_micros(self.updated_at),
            expires_at: Timestamp::from_micros(self.expires_at),
            size: self.size_bytes.map(|size| read_number("exports.size_bytes", size)).transpose()?,
            sha256: self.sha256,
            failure: self.failure,
        };
        Ok((export, self.attempts))
    }
}

/// Exports of any tenant that nobody works on, with how often they were begun.
pub(crate) async fn open(db: &Db, abandoned_before: Timestamp, limit: u32) -> Result<Vec<(Export, i64)>> {
    read!(db, Scope::System, OPEN, pool => sqlx::query_as::<_, Row>(OPEN.sql)
        .bind(abandoned_before.micros())
        .bind(i64::from(limit))
        .fetch_all(pool))?
    .into_iter()
    .map(Row::read)
    .collect()
}

/// Exports of any tenant whose time is over.
pub(crate) async fn expired(db: &Db, now: Timestamp, limit: u32) -> Result<Vec<Export>> {
    read!(db, Scope::System, EXPIRED, pool => sqlx::query_as::<_, Row>(EXPIRED.sql)
        .bind(now.micros())
        .bind(i64::from(limit))
        .fetch_all(pool))?
    .into_iter()
    .map(|row| Ok(row.read()?.0))
    .collect()
}

fn amount(number: u64) -> Result<i64> {
    i64::try_from(number).map_err(Error::internal)
}

#[async_trait]
impl Exports for ExportRows {
    async fn insert(&self, export: &Export) -> Result<()> {
        let state = word(&export.state)?;
        affected!(
            &self.db,
            Scope::Tenant(&self.tenant),
            INSERT,
            sqlx::query(INSERT.sql)
                .bind(self.tenant.as_str())
                .bind(export.id.as_str())
                .bind(&state)
                .bind(&export.requested_by)
                .bind(export.created_at.micros())
                .bind(export.expires_at.micros())
        )
        .map_err(|failed| failed.or_missing("tenant"))?;
        Ok(())
    }

    async fn get(&self, id: &ExportId) -> Result<Export> {
        let row = read!(&self.db, Scope::Tenant(&self.tenant), GET, pool => sqlx::query_as::<_, Row>(GET.sql)
            .bind(self.tenant.as_str())
            .bind(id.as_str())
            .fetch_one(pool))?;
        Ok(row.read()?.0)
    }

    async fn list(&self, limit: u32) -> Result<Vec<Export>> {
        read!(&self.db, Scope::Tenant(&self.tenant), LIST, pool => sqlx::query_as::<_, Row>(LIST.sql)
            .bind(self.tenant.as_str())
            .bind(i64::from(limit))
            .fetch_all(pool))?
        .into_iter()
        .map(|row| Ok(row.read()?.0))
        .collect()
    }

    async fn delete(&self, id: &ExportId) -> Result<()> {
        let deleted = affected!(
            &self.db,
            Scope::Tenant(&self.tenant),
            DELETE,
            sqlx::query(DELETE.sql).bind(self.tenant.as_str()).bind(id.as_str())
        )?;
        if deleted == 0 { Err(Error::NotFound { what: "export" }) } else { Ok(()) }
    }

    async fn claim(&self, id: &ExportId, attempts: i64, now: Timestamp) -> Result<bool> {
        let claimed = affected!(
            &self.db,
            Scope::Tenant(&self.tenant),
            CLAIM,
            sqlx::query(CLAIM.sql).bind(self.tenant.as_str()).bind(id.as_str()).bind(attempts).bind(now.micros())
        )?;
        Ok(claimed == 1)
    }

    async fn progress(&self, id: &ExportId, attempt: i64, done: u64, total: u64, now: Timestamp) -> Result<bool> {
        let (done, total) = (amount(done)?, amount(total)?);
        let noted = affected!(
            &self.db,
            Scope::Tenant(&self.tenant),
            PROGRESS,
            sqlx::query(PROGRESS.sql)
                .bind(self.tenant.as_str())
                .bind(id.as_str())
                .bind(attempt)
                .bind(done)
                .bind(total)
                .bind(now.micros())
        )?;
        Ok(noted == 1)
    }

    async fn release(&self, id: &ExportId, attempt: i64, now: Timestamp) -> Result<bool> {
        let released = affected!(
            &self.db,
            Scope::Tenant(&self.tenant),
            RELEASE,
            sqlx::query(RELEASE.sql).bind(self.tenant.as_str()).bind(id.as_str()).bind(attempt).bind(now.micros())
        )?;
        Ok(released == 1)
    }

    async fn finish(
        &self,
        id: &ExportId,
        attempt: i64,
        outcome: Result<(u64, String), String>,
        now: Timestamp,
    ) -> Result<bool> {
        let (state, size, sha256, failure) = match outcome {
            Ok((size, sha256)) => (State::Done, Some(amount(size)?), Some(sha256), None),
            Err(failure) => (State::Failed, None, None, Some(storable(&failure).into_owned())),
        };
        let state = word(&state)?;
        let finished = affected!(
            &self.db,
            Scope::Tenant(&self.tenant),
            FINISH,
            sqlx::query(FINISH.sql)
                .bind(self.tenant.as_str())
                .bind(id.as_str())
                .bind(attempt)
                .bind(&state)
                .bind(size)
                .bind(sha256.as_deref())
                .bind(failure.as_deref())
                .bind(now.micros())
        )?;
        Ok(finished == 1)
    }

    async fn total(&self) -> Result<u64> {
        let messages = read!(&self.db, Scope::Tenant(&self.tenant), COUNT_MESSAGES, pool => sqlx::query_scalar::<_, i64>(COUNT_MESSAGES.sql)
            .bind(self.tenant.as_str())
            .fetch_one(pool))?;
        let files = read!(&self.db, Scope::Tenant(&self.tenant), COUNT_ATTACHMENTS, pool => sqlx::query_scalar::<_, i64>(COUNT_ATTACHMENTS.sql)
            .bind(self.tenant.as_str())
            .fetch_one(pool))?;
        read_number("messages.count", messages.saturating_add(files))
    }

    async fn messages(&self, after: Option<&MessageId>, limit: u32) -> Result<Vec<Message>> {
        read!(&self.db, Scope::Tenant(&self.tenant), MESSAGES, pool => sqlx::query_as::<_, messages::Row>(MESSAGES.sql)
            .bind(self.tenant.as_str())
            .bind(after.map_or("", MessageId::as_str))
            .bind(i64::from(limit))
            .fetch_all(pool))?
        .into_iter()
        .map(messages::Row::read)
        .collect()
    }

    async fn attachments(&self, after: Option<&AttachmentId>, limit: u32) -> Result<Vec<Attachment>> {
        read!(&self.db, Scope::Tenant(&self.tenant), ATTACHMENTS, pool => sqlx::query_as::<_, attachments::Row>(ATTACHMENTS.sql)
            .bind(self.tenant.as_str())
            .bind(after.map_or("", AttachmentId::as_str))
            .bind(i64::from(limit))
            .fetch_all(pool))?
        .into_iter()
        .map(attachments::Row::read)
        .collect()
    }
}
