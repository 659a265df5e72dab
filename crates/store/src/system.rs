//! What spans tenants. Whoever comes here says why, and the log has it.

use astrfleet_core::{
    Result,
    api_key::ApiKey,
    export::Export,
    id::{InstanceId, MessageId, SessionId, TenantId, WebhookId},
    instance::Instance,
    member::Invitation,
    page::{Page, PageRequest},
    ports::{Overdue, PassOver, System},
    session::Session,
    time::Timestamp,
};
use async_trait::async_trait;

use crate::{
    api_keys,
    db::Db,
    deliveries, events, exports, idempotency, instances, invitations, months,
    scope::Scope,
    sessions::{self, session_columns},
    statement::{read, statements},
    values::read_id,
    webhooks,
};

statements! {
    "row";
    PING = "system.ping", "SELECT 1";
    NOW = "system.now", "SELECT micros FROM database_clock";
    /// SQLite takes an index of some rows only where the statement repeats the index's own condition word for word: that is
    /// why some statements here and elsewhere say twice in which state a row is.
    WAITING_MESSAGES_OF = "system.waiting_messages_of", "SELECT tenant_id, session_id, id FROM messages
        WHERE state = 'accepted' AND state IN ('accepted', 'delivering', 'streaming') AND id > $1
        AND EXISTS (SELECT 1 FROM leases WHERE leases.name = 'queue/' || messages.tenant_id AND leases.owner = $3)
        ORDER BY id LIMIT $2";
    TENANTS_WITHOUT_OWNER = "system.tenants_without_owner", "SELECT DISTINCT tenant_id FROM messages
        WHERE state IN ('accepted', 'delivering', 'streaming') AND author = 'user' AND platform_id IS NULL
        AND NOT EXISTS (
            SELECT 1 FROM leases WHERE leases.name = 'queue/' || messages.tenant_id
            AND leases.expires_at > (SELECT micros FROM database_clock)
        ) LIMIT $1";
    /// What an IM channel brought is answered by its bot, and what a person says into one is sent once: neither is ours
    /// to repair.
    UNFINISHED_MESSAGES = "system.unfinished_messages", "SELECT tenant_id, id FROM messages
            WHERE state IN ('delivering', 'streaming') AND state IN ('accepted', 'delivering', 'streaming') AND id > $2
            AND author = 'user' AND platform_id IS NULL
        UNION ALL
        SELECT tenant_id, id FROM messages
            WHERE state = 'interrupted' AND reply_to IS NULL AND updated_at > $1 AND id > $2
        ORDER BY id LIMIT $3";
    OVERDUE_AT_CHANNELS = "system.overdue_at_channels", "SELECT tenant_id, id FROM messages
        WHERE state = 'delivering' AND state IN ('accepted', 'delivering', 'streaming') AND updated_at < $1
        AND (platform_id IS NOT NULL OR author <> 'user') ORDER BY id LIMIT $2";
    /// A message that was only just accepted has not touched its session yet: the newest one counts too.
    IDLE_SESSIONS = "system.idle_sessions", concat!("SELECT ", session_columns!(), " FROM sessions
        WHERE state <> 'closed' AND last_active_at < $1
        AND (tenant_id, id) NOT IN (
            SELECT tenant_id, session_id FROM messages WHERE state IN ('accepted', 'delivering', 'streaming')
        )
        AND COALESCE((
            SELECT messages.created_at FROM messages
            WHERE messages.tenant_id = sessions.tenant_id AND messages.session_id = sessions.id
            ORDER BY messages.id DESC LIMIT 1
        ), 0) < $1
        ORDER BY last_active_at LIMIT $2");
}

/// What spans tenants.
pub struct SystemRows {
    db: Db,
}

impl SystemRows {
    /// `reason` goes to the log.
    #[must_use]
    pub fn new(db: &Db, reason: &'static str) -> Self {
        tracing::debug!(reason, "reached beyond one tenant");
        Self { db: db.clone() }
    }
}

/// A message and whose it is, as a row names them.
fn message_of((tenant, message): (String, String)) -> Result<(TenantId, MessageId)> {
    Ok((read_id("messages.tenant_id", &tenant, TenantId::parse)?, read_id("messages.id", &message, MessageId::parse)?))
}

#[async_trait]
impl System for SystemRows {
    async fn ping(&self) -> Result<()> {
        read!(&self.db, Scope::System, PING, pool => sqlx::query_scalar::<_, i32>(PING.sql).fetch_one(pool))?;
        Ok(())
    }

    async fn now(&self) -> Result<Timestamp> {
        let micros =
            read!(&self.db, Scope::System, NOW, pool => sqlx::query_scalar::<_, i64>(NOW.sql).fetch_one(pool))?;
        Ok(Timestamp::from_micros(micros))
    }

    async fn api_key_by_hash(&self, hash: &[u8; 32]) -> Result<ApiKey> {
        api_keys::by_hash(&self.db, hash).await
    }

    async fn invitation_by_hash(&self, hash: &[u8; 32]) -> Result<(TenantId, Invitation)> {
        invitations::by_hash(&self.db, hash).await
    }

    async fn instance(&self, id: &InstanceId) -> Result<Instance> {
        instances::by_id(&self.db, id).await
    }

    async fn instances(&self, page: &PageRequest) -> Result<Page<Instance>> {
        instances::list(&self.db, page).await
    }

    async fn tenants_without_owner(&self, limit: u32) -> Result<Vec<TenantId>> {
        let tenants = read!(&self.db, Scope::System, TENANTS_WITHOUT_OWNER, pool =>
            sqlx::query_scalar::<_, String>(TENANTS_WITHOUT_OWNER.sql).bind(i64::from(limit)).fetch_all(pool))?;
        tenants.into_iter().map(|tenant| read_id("messages.tenant_id", &tenant, TenantId::parse)).collect()
    }

    async fn waiting_messages_of(
        &self,
        owner: &str,
        after: Option<&MessageId>,
        limit: u32,
    ) -> Result<Vec<(TenantId, SessionId, MessageId)>> {
        let waiting = read!(&self.db, Scope::System, WAITING_MESSAGES_OF, pool => sqlx::query_as::<_, (String, String, String)>(
                WAITING_MESSAGES_OF.sql)
            .bind(after.map_or("", MessageId::as_str))
            .bind(i64::from(limit))
            .bind(owner)
            .fetch_all(pool))?;
        let read = |(tenant, session, message): (String, String, String)| {
            Ok((
                read_id("messages.tenant_id", &tenant, TenantId::parse)?,
                read_id("messages.session_id", &session, SessionId::parse)?,
                read_id("messages.id", &message, MessageId::parse)?,
            ))
        };
        waiting.into_iter().map(read).collect()
    }

    async fn unfinished_messages(
        &self,
        interrupted_since: Timestamp,
        after: Option<&MessageId>,
        limit: u32,
    ) -> Result<Vec<(TenantId, MessageId)>> {
        let unfinished = read!(&self.db, Scope::System, UNFINISHED_MESSAGES, pool => sqlx::query_as::<_, (String, String)>(
                UNFINISHED_MESSAGES.sql)
            .bind(interrupted_since.micros())
            .bind(after.map_or("", MessageId::as_str))
            .bind(i64::from(limit))
            .fetch_all(pool))?;
        unfinished.into_iter().map(message_of).collect()
    }

    async fn overdue_at_channels(&self, before: Timestamp, limit: u32) -> Result<Vec<Overdue>> {
        let overdue = read!(&self.db, Scope::System, OVERDUE_AT_CHANNELS, pool => sqlx::query_as::<_, (String, String)>(
                OVERDUE_AT_CHANNELS.sql)
            .bind(before.micros())
            .bind(i64::from(limit))
            .fetch_all(pool))?;
        overdue.into_iter().map(message_of).collect()
    }

    async fn idle_sessions(&self, before: Timestamp, limit: u32) -> Result<Vec<Session>> {
        read!(&self.db, Scope::System, IDLE_SESSIONS, pool => sqlx::query_as::<_, sessions::Row>(IDLE_SESSIONS.sql)
            .bind(before.micros())
            .bind(i64::from(limit))
            .fetch_all(pool))?
        .into_iter()
        .map(sessions::Row::read)
        .collect()
    }

    async fn newest_events(&self, tenants: &[TenantId]) -> Result<Vec<(TenantId, i64)>> {
        events::newest(&self.db, tenants).await
    }

    async fn webhooks_behind(&self, pending_max: u32, limit: u32) -> Result<Vec<(TenantId, WebhookId)>> {
        webhooks::behind(&self.db, pending_max, limit).await
    }

    async fn webhooks_due(
        &self,
        now: Timestamp,
        pass_over: &PassOver,
        limit: u32,
    ) -> Result<Vec<(TenantId, WebhookId)>> {
        deliveries::due(&self.db, now, pass_over, limit).await
    }

    async fn delete_deliveries(&self, before: Timestamp, limit: u32) -> Result<u64> {
        deliveries::delete_before(&self.db, before, limit).await
    }

    async fn delete_events(&self, before: Timestamp, limit: u32) -> Result<u64> {
        events::delete_before(&self.db, before, limit).await
    }

    async fn make_message_month(&self, moment: Timestamp) -> Result<bool> {
        months::make(&self.db, moment).await
    }

    async fn drop_message_months(&self, before: &str) -> Result<u64> {
        months::drop_before(&self.db, before).await
    }

    async fn open_exports(&self, abandoned_before: Timestamp, limit: u32) -> Result<Vec<(Export, i64)>> {
        exports::open(&self.db, abandoned_before, limit).await
    }

    async fn expired_exports(&self, now: Timestamp, limit: u32) -> Result<Vec<Export>> {
        exports::expired(&self.db, now, limit).await
    }

    async fn delete_idempotency(&self, before: Timestamp, limit: u32) -> Result<u64> {
        idempotency::delete_before(&self.db, before, limit).await
    }
}
