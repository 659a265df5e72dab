//! What is known of attachments. Their bytes are elsewhere: see the port `Blobs`.

use astrfleet_core::{
    Error, Result,
    attachment::Attachment,
    id::{AttachmentId, TenantId},
    ports::Attachments,
    time::Timestamp,
};
use async_trait::async_trait;

use crate::{
    db::Db,
    scope::Scope,
    statement::{read, run, statements, transaction},
    values::{read_id, read_number},
};

/// What a [`Row`] is made of.
macro_rules! attachment_columns {
    () => {
        "tenant_id, id, name, media_type, size_bytes, sha256, created_at"
    };
}
pub(crate) use attachment_columns;

statements! {
    "attachment";
    /// Whoever stores a file holds the row of its tenant until that is done: they come one after the other, so that each
    /// finds in [`TOTAL_BYTES`] what came before it. Nobody else waits for them but who changes the tenant.
    TAKE_TURN = "attachment.take_turn", "UPDATE tenants SET version = version WHERE id = $1 RETURNING id";
    INSERT = "attachment.insert", concat!("INSERT INTO attachments (", attachment_columns!(), ")
        VALUES ($1, $2, $3, $4, $5, $6, $7)");
    GET = "attachment.get",
        concat!("SELECT ", attachment_columns!(), " FROM attachments WHERE tenant_id = $1 AND id = $2");
    TOTAL_BYTES = "attachment.total_bytes",
        "SELECT CAST(COALESCE(SUM(size_bytes), 0) AS BIGINT) FROM attachments WHERE tenant_id = $1";
}

/// The attachments of one tenant.
pub struct AttachmentRows {
    db: Db,
    tenant: TenantId,
}

impl AttachmentRows {
    /// Of `tenant`.
    #[must_use]
    pub fn new(db: &Db, tenant: &TenantId) -> Self {
        Self { db: db.clone(), tenant: tenant.clone() }
    }
}

/// A row, as it stands.
#[derive(sqlx::FromRow)]
pub(crate) struct Row {
    tenant_id: String,
    id: String,
    name: String,
    media_type: String,
    size_bytes: i64,
    sha256: String,
    created_at: i64,
}

impl Row {
    pub(crate) fn read(self) -> Result<Attachment> {
        Ok(Attachment {
            id: read_id("attachments.id", &self.id, AttachmentId::parse)?,
            tenant_id: read_id("attachments.tenant_id", &self.tenant_id, TenantId::parse)?,
            name: self.name,
            media_type: self.media_type,
            size: read_number("attachments.size_bytes", self.size_bytes)?,
            sha256: self.sha256,
            created_at: Timestamp::from_micros(self.created_at),
        })
    }
}

#[async_trait]
impl Attachments for AttachmentRows {
    async fn insert(&self, attachment: &Attachment, most_bytes: u64) -> Result<Option<u64>> {
        let size = i64::try_from(attachment.size).map_err(Error::internal)?;
        transaction!(&self.db, Scope::Tenant(&self.tenant), connection => {
            let turn = sqlx::query_scalar::<_, String>(TAKE_TURN.sql).bind(self.tenant.as_str());
            if run(&TAKE_TURN, turn.fetch_all(&mut *connection)).await?.is_empty() {
                return Err(Error::NotFound { what: "tenant" });
            }
            let total = sqlx::query_scalar::<_, i64>(TOTAL_BYTES.sql).bind(self.tenant.as_str());
            let before: u64 =
                read_number("attachments.total_bytes", run(&TOTAL_BYTES, total.fetch_one(&mut *connection)).await?)?;
            let with_it = before.saturating_add(attachment.size);
            if with_it > most_bytes {
                return Ok(None);
            }
            let insert = sqlx::query(INSERT.sql)
                .bind(self.tenant.as_str())
                .bind(attachment.id.as_str())
                .bind(&attachment.name)
                .bind(&attachment.media_type)
                .bind(size)
                .bind(&attachment.sha256)
                .bind(attachment.created_at.micros());
            run(&INSERT, insert.execute(&mut *connection)).await?;
            Ok(Some(with_it))
        })
    }

    async fn get(&self, id: &AttachmentId) -> Result<Attachment> {
        let row = read!(&self.db, Scope::Tenant(&self.tenant), GET, pool => sqlx::query_as::<_, Row>(GET.sql)
            .bind(self.tenant.as_str())
            .bind(id.as_str())
            .fetch_one(pool))?;
        row.read()
    }

    async fn total_bytes(&self) -> Result<u64> {
        let total = read!(&self.db, Scope::Tenant(&self.tenant), TOTAL_BYTES, pool => sqlx::query_scalar::<_, i64>(TOTAL_BYTES.sql)
            .bind(self.tenant.as_str())
            .fetch_one(pool))?;
        read_number("attachments.total_bytes", total)
    }
}
