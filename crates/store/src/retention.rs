//! What is deleted because its time is over: batch by batch, the oldest first, each a transaction of its own.

use astrfleet_core::{
    Result,
    id::{AttachmentId, MessageId, SessionId, TenantId},
    ports::Retention,
    time::Timestamp,
};
use async_trait::async_trait;

use crate::{
    db::Db,
    scope::Scope,
    statement::{affected, read, run, statements, transaction},
    values::{read_id, read_json, storable},
};

statements! {
    "message";
    /// What somebody still waits for stays.
    MESSAGES = "retention.messages", "DELETE FROM messages WHERE tenant_id = $1 AND id < $2 AND id IN (
            SELECT id FROM messages WHERE tenant_id = $1 AND id < $2
            AND state NOT IN ('accepted', 'delivering', 'streaming') ORDER BY id LIMIT $3
        )";
    SESSIONS = "retention.sessions", "DELETE FROM sessions WHERE tenant_id = $1 AND id IN (
            SELECT id FROM sessions WHERE tenant_id = $1 AND state = 'closed' AND last_active_at < $2
            AND NOT EXISTS (
                SELECT 1 FROM messages WHERE messages.tenant_id = $1 AND messages.session_id = sessions.id
            )
            ORDER BY id LIMIT $3
        )";
    ATTACHMENTS = "retention.attachments",
        "SELECT id FROM attachments WHERE tenant_id = $1 AND id < $2 ORDER BY id LIMIT $3";
    END_USER_SESSIONS = "retention.end_user_sessions",
        "SELECT id FROM sessions WHERE tenant_id = $1 AND end_user = $2 ORDER BY id LIMIT $3";
    FIRST_MESSAGE = "retention.first_message",
        "SELECT id FROM messages WHERE tenant_id = $1 AND session_id = $2 ORDER BY id LIMIT 1";
    SESSION_ATTACHMENTS = "retention.session_attachments",
        "SELECT attachments FROM messages WHERE tenant_id = $1 AND session_id = $2 AND attachments <> '[]'";
    SESSION_MESSAGES = "retention.session_messages", "DELETE FROM messages WHERE tenant_id = $1 AND session_id = $2";
    SESSION = "retention.session", "DELETE FROM sessions WHERE tenant_id = $1 AND id = $2";
    DELETE_ATTACHMENT = "retention.delete_attachment", "DELETE FROM attachments WHERE tenant_id = $1 AND id = $2";
}

/// What one tenant has kept for too long.
pub struct RetentionRows {
    db: Db,
    tenant: TenantId,
}

impl RetentionRows {
    /// Of `tenant`.
    #[must_use]
    pub fn new(db: &Db, tenant: &TenantId) -> Self {
        Self { db: db.clone(), tenant: tenant.clone() }
    }
}

#[async_trait]
impl Retention for RetentionRows {
    async fn delete_messages(&self, before: &str, limit: u32) -> Result<u64> {
        Ok(affected!(
            &self.db,
            Scope::Tenant(&self.tenant),
            MESSAGES,
            sqlx::query(MESSAGES.sql).bind(self.tenant.as_str()).bind(before).bind(i64::from(limit))
        )?)
    }

    async fn delete_sessions(&self, before: Timestamp, limit: u32) -> Result<u64> {
        Ok(affected!(
            &self.db,
            Scope::Tenant(&self.tenant),
            SESSIONS,
            sqlx::query(SESSIONS.sql).bind(self.tenant.as_str()).bind(before.micros()).bind(i64::from(limit))
        )?)
    }

    async fn attachments(&self, before: &str, limit: u32) -> Result<Vec<AttachmentId>> {
        let ids = read!(&self.db, Scope::Tenant(&self.tenant), ATTACHMENTS, pool => sqlx::query_scalar::<_, String>(ATTACHMENTS.sql)
            .bind(self.tenant.as_str())
            .bind(before)
            .bind(i64::from(limit))
            .fetch_all(pool))?;
        ids.iter().map(|id| read_id("attachments.id", id, AttachmentId::parse)).collect()
    }

    async fn delete_attachment(&self, id: &AttachmentId) -> Result<()> {
        affected!(
            &self.db,
            Scope::Tenant(&self.tenant),
            DELETE_ATTACHMENT,
            sqlx::query(DELETE_ATTACHMENT.sql).bind(self.tenant.as_str()).bind(id.as_str())
        )?;
        Ok(())
    }

    async fn end_user_sessions(&self, end_user: &str, limit: u32) -> Result<Vec<SessionId>> {
        let ids = read!(&self.db, Scope::Tenant(&self.tenant), END_USER_SESSIONS, pool => sqlx::query_scalar::<_, String>(END_USER_SESSIONS.sql)
            .bind(self.tenant.as_str())
            .bind(storable(end_user))
            .bind(i64::from(limit))
            .fetch_all(pool))?;
        ids.iter().map(|id| read_id("sessions.id", id, SessionId::parse)).collect()
    }

    async fn session_content(&self, id: &SessionId) -> Result<(Option<MessageId>, Vec<AttachmentId>)> {
        let first = read!(&self.db, Scope::Tenant(&self.tenant), FIRST_MESSAGE, pool => sqlx::query_scalar::<_, String>(FIRST_MESSAGE.sql)
            .bind(self.tenant.as_str())
            .bind(id.as_str())
            .fetch_optional(pool))?;
        let lists = read!(&self.db, Scope::Tenant(&self.tenant), SESSION_ATTACHMENTS, pool => sqlx::query_scalar::<_, String>(SESSION_ATTACHMENTS.sql)
            .bind(self.tenant.as_str())
            .bind(id.as_str())
            .fetch_all(pool))?;
        let mut attachments = Vec::new();
        for list in &lists {
            attachments.extend(read_json::<Vec<AttachmentId>>("messages.attachments", list)?);
        }
        Ok((first.map(|first| read_id("messages.id", &first, MessageId::parse)).transpose()?, attachments))
    }

    async fn delete_session(&self, id: &SessionId) -> Result<u64> {
        transaction!(&self.db, Scope::Tenant(&self.tenant), connection => {
            let messages = sqlx::query(SESSION_MESSAGES.sql).bind(self.tenant.as_str()).bind(id.as_str());
            let deleted = run(&SESSION_MESSAGES, messages.execute(&mut *connection)).await?.rows_affected();
            let session = sqlx::query(SESSION.sql).bind(self.tenant.as_str()).bind(id.as_str());
            run(&SESSION, session.execute(&mut *connection)).await?;
            Ok(deleted)
        })
    }
}
