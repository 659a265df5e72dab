//! What webhooks are told, in the database: who tries it next, and what came of it.
//!
//! When something is tried is counted by the clock of whoever tries; how long a claim lasts by the database's.

use std::{sync::LazyLock, time::Duration};

use astrfleet_core::{
    Error, Result,
    event::{Kind, NewEvent},
    id::{DeliveryId, EventId, SessionId, TenantId, WebhookId},
    page::{Page, PageRequest},
    ports::{Deliveries, PassOver, Recorded},
    time::Timestamp,
    webhook::{Delivery, Next, Outcome, State, TRIES_MIN, Tried, gives_up, host, next},
};
use async_trait::async_trait;
use serde_json::json;

use crate::{
    db::Db,
    events::{Told, append},
    rows::{Texts, texts},
    scope::Scope,
    statement::{affected, read, read_stale, run, statements, transaction},
    values::{moment, read_id, read_number, read_word, storable, word},
    webhooks,
};

/// What a [`Row`] is made of.
macro_rules! delivery_columns {
    () => {
        "tenant_id, id, webhook_id, event_seq, kind, session_id, state, attempts, next_attempt_at, response_status, \
         response_body, error, replay_of, created_at, updated_at"
    };
}
/// Pending, due, and nobody's: `$now` by the clock of whoever asks.
macro_rules! due {
    ($row:literal, $now:literal) => {
        concat!(
            $row,
            ".state = 'pending' AND ",
            $row,
            ".next_attempt_at <= ",
            $now,
            " AND (",
            $row,
            ".claimed_until IS NULL OR ",
            $row,
            ".claimed_until <= (SELECT micros FROM database_clock))"
        )
    };
}
/// Nothing of the same session is before it.
macro_rules! first_of_its_session {
    ($row:literal) => {
        concat!(
            "NOT EXISTS (SELECT 1 FROM webhook_deliveries AS earlier WHERE earlier.tenant_id = ",
            $row,
            ".tenant_id AND earlier.webhook_id = ",
            $row,
            ".webhook_id AND earlier.order_key = ",
            $row,
            ".order_key AND earlier.state = 'pending' AND earlier.event_seq < ",
            $row,
            ".event_seq)"
        )
    };
}

statements! {
    "delivery";
    /// Its rows follow, see [`INSERT_TEXTS`].
    INSERT = "delivery.insert", "INSERT INTO webhook_deliveries (tenant_id, id, webhook_id, event_seq, kind, session_id,
        order_key, state, attempts, next_attempt_at, replay_of, created_at, updated_at)";
    GET = "delivery.get", concat!("SELECT ", delivery_columns!(), " FROM webhook_deliveries
        WHERE tenant_id = $1 AND webhook_id = $2 AND id = $3");
    LIST = "delivery.list", concat!("SELECT ", delivery_columns!(), " FROM webhook_deliveries
        WHERE tenant_id = $1 AND webhook_id = $2 AND id < $3 ORDER BY id DESC LIMIT $4");
    LIST_OF_STATE = "delivery.list_of_state", concat!("SELECT ", delivery_columns!(), " FROM webhook_deliveries
        WHERE tenant_id = $1 AND webhook_id = $2 AND id < $3 AND state = $5 ORDER BY id DESC LIMIT $4");
    /// The same that chose them is asked again of each: somebody else may have claimed it meanwhile.
    CLAIM = "delivery.claim", concat!("UPDATE webhook_deliveries
        SET claimed_until = (SELECT micros FROM database_clock) + $4, attempts = attempts + 1, updated_at = $3
        WHERE tenant_id = $1 AND id IN (
            SELECT due.id FROM webhook_deliveries AS due
            WHERE due.tenant_id = $1 AND due.webhook_id = $2 AND ", due!("due", "$3"), "
            AND ", first_of_its_session!("due"), "
            ORDER BY due.next_attempt_at, due.event_seq LIMIT $5
        ) AND ", due!("webhook_deliveries", "$3"), " RETURNING ", delivery_columns!());
    RECORD = "delivery.record", "UPDATE webhook_deliveries SET state = $4, next_attempt_at = $5, claimed_until = NULL,
            response_status = $6, response_body = $7, error = $8, updated_at = $9
        WHERE tenant_id = $1 AND id = $2 AND attempts = $3 AND state = 'pending'";
    RELEASE = "delivery.release", "UPDATE webhook_deliveries SET claimed_until = NULL, attempts = attempts - 1
        WHERE tenant_id = $1 AND id = $2 AND attempts = $3 AND state = 'pending' AND claimed_until IS NOT NULL";
    GIVE_UP = "delivery.give_up", "UPDATE webhook_deliveries SET state = 'failed', next_attempt_at = NULL,
            claimed_until = NULL, error = 'the webhook was switched off', updated_at = $3
        WHERE tenant_id = $1 AND webhook_id = $2 AND state = 'pending'";
    WORKS = "delivery.works", "UPDATE webhooks SET failing_since = NULL
        WHERE tenant_id = $1 AND id = $2 AND failing_since IS NOT NULL";
    FAILS = "delivery.fails", "UPDATE webhooks SET failing_since = COALESCE(failing_since, $3)
        WHERE tenant_id = $1 AND id = $2 AND enabled RETURNING failing_since, url";
    /// How often it was tried without success since a moment; no more than `$4` deliveries are looked at.
    TRIES_SINCE = "delivery.tries_since", "SELECT CAST(COALESCE(SUM(attempts), 0) AS BIGINT) FROM (
            SELECT attempts FROM webhook_deliveries WHERE tenant_id = $1 AND webhook_id = $2
            AND state <> 'succeeded' AND attempts > 0 AND updated_at >= $3 LIMIT $4
        ) AS tried";
    DISABLE = "delivery.disable", "UPDATE webhooks SET enabled = FALSE, disabled_reason = $3, updated_at = $4,
            version = version + 1
        WHERE tenant_id = $1 AND id = $2 AND enabled";
    /// `$3` is a text with the ids of all who are passed over. What is suspended waits, and is tried when it is not any more.
    DUE = "delivery.due", concat!("SELECT due.tenant_id, due.webhook_id FROM webhook_deliveries AS due
        WHERE ", due!("due", "$1"), " AND $3 NOT LIKE '%' || due.webhook_id || '%'
        AND $3 NOT LIKE '%' || due.tenant_id || '%'
        AND EXISTS (SELECT 1 FROM tenants WHERE tenants.id = due.tenant_id AND tenants.status = 'active')
        AND ", first_of_its_session!("due"), "
        GROUP BY due.tenant_id, due.webhook_id ORDER BY MIN(due.next_attempt_at) LIMIT $2");
    DELETE_OLD = "delivery.delete_old", "DELETE FROM webhook_deliveries WHERE (tenant_id, id) IN (
        SELECT tenant_id, id FROM webhook_deliveries WHERE state <> 'pending' AND updated_at < $1
        ORDER BY updated_at LIMIT $2)";
}

const INSERT_COLUMNS: usize = 13;
/// What was added before stays.
pub(crate) static INSERT_TEXTS: Texts = LazyLock::new(|| texts(INSERT.sql, INSERT_COLUMNS, "ON CONFLICT DO NOTHING"));
/// The text for one delivery, for [`crate::texts`].
pub(crate) fn text_of_one() -> (&'static str, String) {
    (INSERT.name, INSERT_TEXTS[0].to_string())
}

/// Later than every id of a delivery: where a list that begins with the newest begins.
const AFTER_ALL: &str = "dlv_g";

/// Adds at most [`crate::rows::MAX_ROWS`] deliveries within a transaction.
macro_rules! insert {
    ($connection:expr, $tenant:expr, $webhook:expr, $deliveries:expr, $now:expr) => {{
        let text = ::std::sync::Arc::clone(&$crate::deliveries::INSERT_TEXTS[$deliveries.len() - 1]);
        let mut insert = sqlx::query(sqlx::AssertSqlSafe(text));
        for delivery in $deliveries {
            let session = delivery.session_id.as_ref().map(|id| id.as_str());
            insert = insert
                .bind($tenant.as_str())
                .bind(delivery.id.as_str())
                .bind($webhook.as_str())
                .bind(delivery.event.seq())
                .bind(&delivery.kind)
                .bind(session)
                .bind(session)
                .bind("pending")
                .bind(0_i64)
                .bind($now.micros())
                .bind(None::<&str>)
                .bind($now.micros())
                .bind($now.micros());
        }
        $crate::statement::run(&$crate::deliveries::INSERT, insert.execute(&mut *$connection)).await?;
    }};
}
pub(crate) use insert;

/// Gives up, within a transaction, whatever waits for a webhook that is switched off.
macro_rules! give_up {
    ($connection:expr, $tenant:expr, $webhook:expr, $now:expr) => {{
        let give_up = sqlx::query($crate::deliveries::GIVE_UP.sql)
            .bind($tenant.as_str())
            .bind($webhook.as_str())
            .bind($now.micros());
        $crate::statement::run(&$crate::deliveries::GIVE_UP, give_up.execute(&mut *$connection)).await?;
    }};
}
pub(crate) use give_up;

/// The deliveries of one webhook.
pub struct DeliveryRows {
    db: Db,
    tenant: TenantId,
    webhook: WebhookId,
}

impl DeliveryRows {
    /// Of a webhook of `tenant`.
    #[must_use]
    pub fn new(db: &Db, tenant: &TenantId, webhook: &WebhookId) -> Self {
        Self { db: db.clone(), tenant: tenant.clone(), webhook: webhook.clone() }
    }
}

#[derive(sqlx::FromRow)]
struct Row {
    tenant_id: String,
    id: String,
    webhook_id: String,
    event_seq: i64,
    kind: String,
    session_id: Option<String>,
    state: String,
    attempts: i64,
    next_attempt_at: Option<i64>,
    response_status: Option<i64>,
    response_body: Option<String>,
    error: Option<String>,
    replay_of: Option<String>,
    created_at: i64,
    updated_at: i64,
}

impl Row {
    fn read(self) -> Result<Delivery> {
        let tenant = read_id("webhook_deliveries.tenant_id", &self.tenant_id, TenantId::parse)?;
        let session = self.session_id.map(|id| read_id("webhook_deliveries.session_id", &id, SessionId::parse));
        let replayed = self.replay_of.map(|id| read_id("webhook_deliveries.replay_of", &id, DeliveryId::parse));
        let status = self.response_status.map(|status| read_number("webhook_deliveries.response_status", status));
        Ok(Delivery {
            id: read_id("webhook_deliveries.id", &self.id, DeliveryId::parse)?,
            webhook_id: read_id("webhook_deliveries.webhook_id", &self.webhook_id, WebhookId::parse)?,
            event_id: EventId::of(&tenant, self.event_seq),
            tenant_id: tenant,
            kind: self.kind,
            session_id: session.transpose()?,
            state: read_word("webhook_deliveries.state", self.state)?,
            attempts: read_number("webhook_deliveries.attempts", self.attempts)?,
            next_attempt_at: moment(self.next_attempt_at),
            response_status: status.transpose()?,
            response_body: self.response_body,
            error: self.error,
            replay_of: replayed.transpose()?,
            created_at: Timestamp::from_micros(self.created_at),
            updated_at: Timestamp::from_micros(self.updated_at),
        })
    }
}

#[async_trait]
impl Deliveries for DeliveryRows {
    async fn list(&self, state: Option<State>, page: &PageRequest) -> Result<Page<Delivery>> {
        let after = page.after.as_deref().unwrap_or(AFTER_ALL);
        let limit = i64::from(page.limit) + 1;
        let rows = match state {
            Some(state) => {
                let state = word(&state)?;
                read_stale!(&self.db, Scope::Tenant(&self.tenant), LIST_OF_STATE, pool => sqlx::query_as::<_, Row>(LIST_OF_STATE.sql)
                    .bind(self.tenant.as_str())
                    .bind(self.webhook.as_str())
                    .bind(after)
                    .bind(limit)
                    .bind(&state)
                    .fetch_all(pool))?
            }
            None => read_stale!(&self.db, Scope::Tenant(&self.tenant), LIST, pool => sqlx::query_as::<_, Row>(LIST.sql)
                .bind(self.tenant.as_str())
                .bind(self.webhook.as_str())
                .bind(after)
                .bind(limit)
                .fetch_all(pool))?,
        };
        let deliveries = rows.into_iter().map(Row::read).collect::<Result<Vec<_>>>()?;
        Ok(Page::from_rows(deliveries, page, |delivery| delivery.id.to_string()))
    }

    async fn get(&self, id: &DeliveryId) -> Result<Delivery> {
        read!(&self.db, Scope::Tenant(&self.tenant), GET, pool => sqlx::query_as::<_, Row>(GET.sql)
            .bind(self.tenant.as_str())
            .bind(self.webhook.as_str())
            .bind(id.as_str())
            .fetch_one(pool))?
        .read()
    }

    async fn replay(&self, delivery: &Delivery) -> Result<()> {
        let text = std::sync::Arc::clone(&INSERT_TEXTS[0]);
        affected!(
            &self.db,
            Scope::Tenant(&self.tenant),
            INSERT,
            sqlx::query(sqlx::AssertSqlSafe(std::sync::Arc::clone(&text)))
                .bind(self.tenant.as_str())
                .bind(delivery.id.as_str())
                .bind(self.webhook.as_str())
                .bind(delivery.event_id.seq())
                .bind(&delivery.kind)
                .bind(delivery.session_id.as_ref().map(SessionId::as_str))
                .bind(None::<&str>)
                .bind("pending")
                .bind(0_i64)
                .bind(delivery.created_at.micros())
                .bind(delivery.replay_of.as_ref().map(DeliveryId::as_str))
                .bind(delivery.created_at.micros())
                .bind(delivery.created_at.micros())
        )
        .map_err(|failed| failed.or_missing("webhook"))?;
        Ok(())
    }

    async fn claim(&self, now: Timestamp, life: Duration, limit: u32) -> Result<Vec<Delivery>> {
        let life = i64::try_from(life.as_micros()).map_err(Error::internal)?;
        let rows: Vec<Row> = transaction!(&self.db, Scope::Tenant(&self.tenant), connection => {
            let claim = sqlx::query_as::<_, Row>(CLAIM.sql)
                .bind(self.tenant.as_str())
                .bind(self.webhook.as_str())
                .bind(now.micros())
                .bind(life)
                .bind(i64::from(limit));
            Ok(run(&CLAIM, claim.fetch_all(&mut *connection)).await?)
        })?;
        let mut claimed = rows.into_iter().map(Row::read).collect::<Result<Vec<_>>>()?;
        claimed.sort_by(|one, other| one.event_id.cmp(&other.event_id));
        Ok(claimed)
    }

    async fn record(
        &self,
        claimed: &Delivery,
        tried: &Tried,
        now: Timestamp,
        again: u32,
        give_up_after: Duration,
    ) -> Result<Recorded> {
        let follows = next(claimed.attempts, tried.outcome, now, again);
        let state = word(&follows.state())?;
        let at = if let Next::Again(at) = follows { Some(at.micros()) } else { None };
        transaction!(&self.db, Scope::Tenant(&self.tenant), connection => {
            let record = sqlx::query(RECORD.sql)
                .bind(self.tenant.as_str())
                .bind(claimed.id.as_str())
                .bind(i64::from(claimed.attempts))
                .bind(&state)
                .bind(at)
                .bind(tried.status.map(i64::from))
                .bind(tried.body.as_deref().map(storable))
                .bind(tried.error.as_deref().map(storable))
                .bind(now.micros());
            if run(&RECORD, record.execute(&mut *connection)).await?.rows_affected() == 0 {
                return Ok(Recorded::Lost);
            }
            match tried.outcome {
                Outcome::Taken => {
                    let works = sqlx::query(WORKS.sql).bind(self.tenant.as_str()).bind(self.webhook.as_str());
                    run(&WORKS, works.execute(&mut *connection)).await?;
                    return Ok(Recorded::Noted);
                }
                Outcome::Impossible => return Ok(Recorded::Noted),
                Outcome::Refused(_) | Outcome::Gone => {}
            }
            let fails = sqlx::query_as::<_, (i64, String)>(FAILS.sql)
                .bind(self.tenant.as_str())
                .bind(self.webhook.as_str())
                .bind(now.micros());
            let Some((since, url)) = run(&FAILS, fails.fetch_all(&mut *connection)).await?.pop() else {
                return Ok(Recorded::Noted);
            };
            let since = Timestamp::from_micros(since);
            let failures = sqlx::query_scalar::<_, i64>(TRIES_SINCE.sql)
                .bind(self.tenant.as_str())
                .bind(self.webhook.as_str())
                .bind(since.micros())
                .bind(i64::from(TRIES_MIN));
            // Each of them was tried once at least.
            let failures = run(&TRIES_SINCE, failures.fetch_one(&mut *connection)).await?;
            let failures = u32::try_from(failures).unwrap_or(u32::MAX);
            let Some(reason) = gives_up(since, failures, tried.outcome, now, give_up_after) else {
                return Ok(Recorded::Noted);
            };
            let disable = sqlx::query(DISABLE.sql)
                .bind(self.tenant.as_str())
                .bind(self.webhook.as_str())
                .bind(word(&reason)?)
                .bind(now.micros());
            run(&DISABLE, disable.execute(&mut *connection)).await?;
            give_up!(connection, &self.tenant, &self.webhook, now);
            let data = json!({ "webhook": { "id": self.webhook, "host": host(&url), "reason": reason, "failing_since": since } });
            let event = NewEvent { kind: Kind::WebhookDisabled, session_id: None, message_id: None, data, at: now };
            append!(connection, &[Told::new(&self.tenant, event)]);
            Ok(Recorded::Disabled(reason))
        })
    }

    async fn release(&self, claimed: &Delivery) -> Result<()> {
        affected!(
            &self.db,
            Scope::Tenant(&self.tenant),
            RELEASE,
            sqlx::query(RELEASE.sql)
                .bind(self.tenant.as_str())
                .bind(claimed.id.as_str())
                .bind(i64::from(claimed.attempts))
        )?;
        Ok(())
    }
}

/// Webhooks with a delivery that may be claimed, those that waited longest first.
pub(crate) async fn due(
    db: &Db,
    now: Timestamp,
    pass_over: &PassOver,
    limit: u32,
) -> Result<Vec<(TenantId, WebhookId)>> {
    let tenants = pass_over.tenants.iter().map(TenantId::as_str);
    let passed_over: Vec<&str> = tenants.chain(pass_over.webhooks.iter().map(WebhookId::as_str)).collect();
    let rows = read!(db, Scope::System, DUE, pool => sqlx::query_as::<_, (String, String)>(DUE.sql)
        .bind(now.micros())
        .bind(i64::from(limit))
        .bind(passed_over.join(" "))
        .fetch_all(pool))?;
    rows.iter().map(|(tenant, id)| webhooks::named(tenant, id)).collect()
}

/// Deletes at most `limit` deliveries of all tenants that came to their end before `before`. Returns how many.
pub(crate) async fn delete_before(db: &Db, before: Timestamp, limit: u32) -> Result<u64> {
    let deleted = affected!(
        db,
        Scope::System,
        DELETE_OLD,
        sqlx::query(DELETE_OLD.sql).bind(before.micros()).bind(i64::from(limit))
    )?;
    Ok(deleted)
}
