//! What is deleted because its time is over, or because whoever said it wants that: batch by batch, each a transaction of
//! its own.
//!
//! An event speaks of its message by the id alone, so a message that is gone is told of without it. But a session's
//! event names the end user, and a delivery keeps what its receiver answered: they go with the session.

use astrfleet_core::{
    Result,
    id::{AttachmentId, MessageId, SessionId, TenantId},
    message::Sender,
    ports::{Erased, Retention, SentBy},
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
    SESSION_EVENTS = "retention.session_events", "DELETE FROM events WHERE tenant_id = $1 AND session_id = $2";
    SESSION_DELIVERIES = "retention.session_deliveries",
        "DELETE FROM webhook_deliveries WHERE tenant_id = $1 AND session_id = $2";
    /// Whoever asked owns the answer, not the tenant: so it spans owners.
    SESSION_ANSWERS = "retention.session_answers", "DELETE FROM idempotency WHERE body LIKE '%' || $1 || '%'";
    EVENTS = "retention.events", "DELETE FROM events WHERE tenant_id = $1 AND seq IN (
            SELECT seq FROM events WHERE tenant_id = $1 AND created_at < $2 ORDER BY seq LIMIT $3
        )";
    /// Also those that wait: there is nothing to send any more.
    DELIVERIES = "retention.deliveries", "DELETE FROM webhook_deliveries WHERE tenant_id = $1 AND id IN (
            SELECT id FROM webhook_deliveries AS old WHERE tenant_id = $1 AND NOT EXISTS (
                SELECT 1 FROM events WHERE events.tenant_id = $1 AND events.seq = old.event_seq
            ) ORDER BY id LIMIT $2
        )";
    REST_USAGE = "retention.rest_usage", "DELETE FROM usage_records WHERE tenant_id = $1 AND id IN (
            SELECT id FROM usage_records WHERE tenant_id = $1 ORDER BY id LIMIT $2
        )";
    REST_SEARCH = "retention.rest_search", "DELETE FROM search_blocks WHERE tenant_id = $1 AND (bucket, first_id) IN (
            SELECT bucket, first_id FROM search_blocks WHERE tenant_id = $1 ORDER BY bucket, first_id LIMIT $2
        )";
    REST_ATTACHMENTS = "retention.rest_attachments", "DELETE FROM attachments WHERE tenant_id = $1 AND id IN (
            SELECT id FROM attachments WHERE tenant_id = $1 ORDER BY id LIMIT $2
        )";
    REST_SESSIONS = "retention.rest_sessions", "DELETE FROM sessions WHERE tenant_id = $1 AND id IN (
            SELECT id FROM sessions WHERE tenant_id = $1 AND NOT EXISTS (
                SELECT 1 FROM messages WHERE messages.tenant_id = $1 AND messages.session_id = sessions.id
            ) ORDER BY id LIMIT $2
        )";
    HAS_CHANNELS = "retention.has_channels",
        "SELECT COUNT(*) FROM (SELECT 1 FROM sessions WHERE tenant_id = $1 AND umo IS NOT NULL LIMIT 1) AS channels";
    SENDERS = "retention.senders",
        "SELECT id, session_id, sender FROM messages WHERE tenant_id = $1 AND id > $2 ORDER BY id LIMIT $3";
    MESSAGE = "retention.message", "DELETE FROM messages WHERE tenant_id = $1 AND (id = $2 OR reply_to = $2)";
    UNTOLD_EVENTS = "retention.untold_events", "DELETE FROM events
        WHERE tenant_id = $1 AND session_id = $2 AND message_id IS NOT NULL AND NOT EXISTS (
            SELECT 1 FROM messages WHERE messages.tenant_id = $1 AND messages.id = events.message_id
        )";
    UNTOLD_DELIVERIES = "retention.untold_deliveries", "DELETE FROM webhook_deliveries
        WHERE tenant_id = $1 AND session_id = $2 AND NOT EXISTS (
            SELECT 1 FROM events WHERE events.tenant_id = $1 AND events.seq = webhook_deliveries.event_seq
        )";
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

    async fn delete_session(&self, id: &SessionId) -> Result<Erased> {
        let mut erased: Erased = transaction!(&self.db, Scope::Tenant(&self.tenant), connection => {
            let mut erased = Erased::new();
            // The session before its events: whoever is about to tell something of it holds it, or finds it gone.
            for (table, statement) in [
                ("messages", &SESSION_MESSAGES),
                ("sessions", &SESSION),
                ("webhook_deliveries", &SESSION_DELIVERIES),
                ("events", &SESSION_EVENTS),
            ] {
                let delete = sqlx::query(statement.sql).bind(self.tenant.as_str()).bind(id.as_str());
                let rows = run(statement, delete.execute(&mut *connection)).await?.rows_affected();
                erased.insert(table.to_owned(), rows);
            }
            Ok(erased)
        })?;
        let answers =
            affected!(&self.db, Scope::System, SESSION_ANSWERS, sqlx::query(SESSION_ANSWERS.sql).bind(id.as_str()))?;
        erased.insert("idempotency".to_owned(), answers);
        Ok(erased)
    }

    async fn delete_events(&self, before: Timestamp, limit: u32) -> Result<Erased> {
        let events = affected!(
            &self.db,
            Scope::Tenant(&self.tenant),
            EVENTS,
            sqlx::query(EVENTS.sql).bind(self.tenant.as_str()).bind(before.micros()).bind(i64::from(limit))
        )?;
        let deliveries = affected!(
            &self.db,
            Scope::Tenant(&self.tenant),
            DELIVERIES,
            sqlx::query(DELIVERIES.sql).bind(self.tenant.as_str()).bind(i64::from(limit))
        )?;
        Ok(Erased::from([("events".to_owned(), events), ("webhook_deliveries".to_owned(), deliveries)]))
    }

    async fn delete_rest(&self, limit: u32) -> Result<Erased> {
        let mut erased = Erased::new();
        for (table, statement) in [
            ("usage_records", &REST_USAGE),
            ("search_blocks", &REST_SEARCH),
            ("attachments", &REST_ATTACHMENTS),
            ("sessions", &REST_SESSIONS),
        ] {
            let rows = affected!(
                &self.db,
                Scope::Tenant(&self.tenant),
                *statement,
                sqlx::query(statement.sql).bind(self.tenant.as_str()).bind(i64::from(limit))
            )?;
            erased.insert(table.to_owned(), rows);
        }
        Ok(erased)
    }

    async fn has_channels(&self) -> Result<bool> {
        let some = read!(&self.db, Scope::Tenant(&self.tenant), HAS_CHANNELS, pool => sqlx::query_scalar::<_, i64>(HAS_CHANNELS.sql)
            .bind(self.tenant.as_str())
            .fetch_one(pool))?;
        Ok(some > 0)
    }

    async fn sent_by(&self, sender: &str, after: Option<&MessageId>, limit: u32) -> Result<SentBy> {
        let rows = read!(&self.db, Scope::Tenant(&self.tenant), SENDERS, pool => sqlx::query_as::<_, (String, String, Option<String>)>(SENDERS.sql)
            .bind(self.tenant.as_str())
            .bind(after.map_or("", MessageId::as_str))
            .bind(i64::from(limit))
            .fetch_all(pool))?;
        let mut sent = SentBy::default();
        for (id, session, of) in &rows {
            let Some(of) = of else { continue };
            if read_json::<Sender>("messages.sender", of)?.id == sender {
                let id = read_id("messages.id", id, MessageId::parse)?;
                sent.messages.push((id, read_id("messages.session_id", session, SessionId::parse)?));
            }
        }
        if let Some((id, ..)) = rows.last() {
            sent.last = Some(read_id("messages.id", id, MessageId::parse)?);
        }
        Ok(sent)
    }

    async fn delete_message(&self, id: &MessageId) -> Result<u64> {
        Ok(affected!(
            &self.db,
            Scope::Tenant(&self.tenant),
            MESSAGE,
            sqlx::query(MESSAGE.sql).bind(self.tenant.as_str()).bind(id.as_str())
        )?)
    }

    async fn delete_untold(&self, id: &SessionId) -> Result<Erased> {
        transaction!(&self.db, Scope::Tenant(&self.tenant), connection => {
            let mut erased = Erased::new();
            for (table, statement) in [("events", &UNTOLD_EVENTS), ("webhook_deliveries", &UNTOLD_DELIVERIES)] {
                let delete = sqlx::query(statement.sql).bind(self.tenant.as_str()).bind(id.as_str());
                let rows = run(statement, delete.execute(&mut *connection)).await?.rows_affected();
                erased.insert(table.to_owned(), rows);
            }
            Ok(erased)
        })
    }
}
