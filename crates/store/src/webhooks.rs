//! Webhooks in the database. Their deliveries are in `deliveries`.

use astrfleet_core::{
    Error, Result,
    id::{TenantId, WebhookId},
    page::{Page, PageRequest},
    ports::{NewDelivery, SealedSecrets, Webhooks},
    time::Timestamp,
    webhook::Webhook,
};
use async_trait::async_trait;

use crate::{
    db::Db,
    deliveries,
    scope::Scope,
    statement::{affected, read, run, statements, transaction},
    values::{micros, moment, read_id, read_json, read_word, word},
};

/// What a [`Row`] is made of.
macro_rules! webhook_columns {
    () => {
        "tenant_id, id, url, kinds, description, enabled, disabled_reason, failing_since, previous_secret_until, \
         created_at, updated_at, version"
    };
}

statements! {
    "webhook";
    INSERT = "webhook.insert", concat!("INSERT INTO webhooks (", webhook_columns!(), ", secret, seen_seq)
        SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13,
            COALESCE((SELECT seq FROM event_heads WHERE tenant_id = $1), 0)
        WHERE (SELECT COUNT(*) FROM webhooks WHERE tenant_id = $1) < $14");
    GET = "webhook.get", concat!("SELECT ", webhook_columns!(), " FROM webhooks WHERE tenant_id = $1 AND id = $2");
    LIST = "webhook.list", concat!("SELECT ", webhook_columns!(), " FROM webhooks
        WHERE tenant_id = $1 AND id > $2 ORDER BY id LIMIT $3");
    /// Whoever is switched on begins with what happens from then on.
    UPDATE = "webhook.update", concat!("UPDATE webhooks SET url = $4, kinds = $5, description = $6,
            seen_seq = CASE WHEN enabled OR NOT $7 THEN seen_seq ELSE $10 END,
            failing_since = CASE WHEN enabled OR NOT $7 THEN failing_since END,
            enabled = $7, disabled_reason = $8, updated_at = $9, version = version + 1
        WHERE tenant_id = $1 AND id = $2 AND version = $3 RETURNING ", webhook_columns!());
    NEWEST_EVENT = "webhook.newest_event", "SELECT seq FROM event_heads WHERE tenant_id = $1";
    ROTATE = "webhook.rotate", concat!("UPDATE webhooks SET previous_secret = $6, previous_secret_until = $4,
            secret = $3, updated_at = $5, version = version + 1
        WHERE tenant_id = $1 AND id = $2 AND secret = $7 RETURNING ", webhook_columns!());
    DELETE = "webhook.delete", "DELETE FROM webhooks WHERE tenant_id = $1 AND id = $2";
    SECRETS = "webhook.secrets", "SELECT secret, previous_secret, previous_secret_until FROM webhooks
        WHERE tenant_id = $1 AND id = $2";
    SEEN = "webhook.seen", "SELECT seen_seq FROM webhooks WHERE tenant_id = $1 AND id = $2";
    /// Only one of those who do the same gets further than this.
    ADVANCE = "webhook.advance", "UPDATE webhooks SET seen_seq = $4
        WHERE tenant_id = $1 AND id = $2 AND seen_seq = $3 AND enabled";
    BEHIND = "webhook.behind", "SELECT webhooks.tenant_id, webhooks.id FROM webhooks
            JOIN event_heads ON event_heads.tenant_id = webhooks.tenant_id
        WHERE webhooks.enabled AND event_heads.seq > webhooks.seen_seq AND (
            SELECT COUNT(*) FROM (
                SELECT 1 FROM webhook_deliveries WHERE webhook_deliveries.tenant_id = webhooks.tenant_id
                AND webhook_deliveries.webhook_id = webhooks.id AND webhook_deliveries.state = 'pending' LIMIT $1
            ) AS waiting
        ) < $1
        ORDER BY event_heads.seq - webhooks.seen_seq LIMIT $2";
}

/// Secrets before the one that counts: each makes every delivery's signature longer.
const PREVIOUS_MAX: usize = 4;
/// How often a secret is tried to be changed that others change at the same moment.
const TRIES: usize = 5;

/// The webhooks of one tenant.
pub struct WebhookRows {
    db: Db,
    tenant: TenantId,
}

impl WebhookRows {
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
    url: String,
    kinds: String,
    description: String,
    enabled: bool,
    disabled_reason: Option<String>,
    failing_since: Option<i64>,
    previous_secret_until: Option<i64>,
    created_at: i64,
    updated_at: i64,
    version: i64,
}

impl Row {
    fn read(self) -> Result<Webhook> {
        Ok(Webhook {
            id: read_id("webhooks.id", &self.id, WebhookId::parse)?,
            tenant_id: read_id("webhooks.tenant_id", &self.tenant_id, TenantId::parse)?,
            url: self.url,
            events: read_json("webhooks.kinds", &self.kinds)?,
            description: self.description,
            enabled: self.enabled,
            disabled_reason: self
                .disabled_reason
                .map(|word| read_word("webhooks.disabled_reason", word))
                .transpose()?,
            failing_since: moment(self.failing_since),
            previous_secret_until: moment(self.previous_secret_until),
            created_at: Timestamp::from_micros(self.created_at),
            updated_at: Timestamp::from_micros(self.updated_at),
            version: self.version,
        })
    }
}

#[async_trait]
impl Webhooks for WebhookRows {
    async fn insert(&self, webhook: &Webhook, sealed_secret: &str, max: u32) -> Result<()> {
        let kinds = serde_json::to_string(&webhook.events).map_err(Error::internal)?;
        let reason = webhook.disabled_reason.map(|reason| word(&reason)).transpose()?;
        let inserted = affected!(
            &self.db,
            Scope::Tenant(&self.tenant),
            INSERT,
            sqlx::query(INSERT.sql)
                .bind(self.tenant.as_str())
                .bind(webhook.id.as_str())
                .bind(&webhook.url)
                .bind(&kinds)
                .bind(&webhook.description)
                .bind(webhook.enabled)
                .bind(reason.as_deref())
                .bind(micros(webhook.failing_since))
                .bind(micros(webhook.previous_secret_until))
                .bind(webhook.created_at.micros())
                .bind(webhook.updated_at.micros())
                .bind(webhook.version)
                .bind(sealed_secret)
                .bind(i64::from(max))
        )
        .map_err(|failed| failed.or_missing("tenant"))?;
        if inserted == 0 {
            return Err(Error::conflict(format!("this tenant has {max} webhooks: delete one first")));
        }
        Ok(())
    }

    async fn list(&self, page: &PageRequest) -> Result<Page<Webhook>> {
        let rows = read!(&self.db, Scope::Tenant(&self.tenant), LIST, pool => sqlx::query_as::<_, Row>(LIST.sql)
            .bind(self.tenant.as_str())
            .bind(page.after.as_deref().unwrap_or(""))
            .bind(i64::from(page.limit) + 1)
            .fetch_all(pool))?;
        let webhooks = rows.into_iter().map(Row::read).collect::<Result<Vec<_>>>()?;
        Ok(Page::from_rows(webhooks, page, |webhook| webhook.id.to_string()))
    }

    async fn get(&self, id: &WebhookId) -> Result<Webhook> {
        read!(&self.db, Scope::Tenant(&self.tenant), GET, pool => sqlx::query_as::<_, Row>(GET.sql)
            .bind(self.tenant.as_str())
            .bind(id.as_str())
            .fetch_one(pool))?
        .read()
    }

    async fn update(&self, webhook: &Webhook) -> Result<Webhook> {
        let kinds = serde_json::to_string(&webhook.events).map_err(Error::internal)?;
        let reason = webhook.disabled_reason.map(|reason| word(&reason)).transpose()?;
        let updated: Option<Webhook> = transaction!(&self.db, Scope::Tenant(&self.tenant), connection => {
            let newest = sqlx::query_scalar::<_, i64>(NEWEST_EVENT.sql).bind(self.tenant.as_str());
            let newest = run(&NEWEST_EVENT, newest.fetch_optional(&mut *connection)).await?.unwrap_or(0);
            let update = sqlx::query_as::<_, Row>(UPDATE.sql)
                .bind(self.tenant.as_str())
                .bind(webhook.id.as_str())
                .bind(webhook.version)
                .bind(&webhook.url)
                .bind(&kinds)
                .bind(&webhook.description)
                .bind(webhook.enabled)
                .bind(reason.as_deref())
                .bind(webhook.updated_at.micros())
                .bind(newest);
            let Some(row) = run(&UPDATE, update.fetch_all(&mut *connection)).await?.pop() else { return Ok(None) };
            if !webhook.enabled {
                deliveries::give_up!(connection, &self.tenant, &webhook.id, webhook.updated_at);
            }
            row.read().map(Some)
        })?;
        if let Some(stored) = updated {
            return Ok(stored);
        }
        self.get(&webhook.id).await?;
        Err(Error::Stale { what: "webhook" })
    }

    async fn rotate(
        &self,
        id: &WebhookId,
        sealed_secret: &str,
        overlap_until: Timestamp,
        now: Timestamp,
    ) -> Result<Webhook> {
        for _ in 0..TRIES {
            let SealedSecrets { current, mut previous } = self.secrets(id).await?;
            previous.retain(|(_, until)| now < *until);
            previous.push((current.clone(), overlap_until));
            previous.drain(..previous.len().saturating_sub(PREVIOUS_MAX));
            let until = previous.iter().map(|(_, until)| *until).max().unwrap_or(overlap_until);
            let previous = written(&previous)?;
            let rotated: Option<Row> = transaction!(&self.db, Scope::Tenant(&self.tenant), connection => {
                let rotate = sqlx::query_as::<_, Row>(ROTATE.sql)
                    .bind(self.tenant.as_str())
                    .bind(id.as_str())
                    .bind(sealed_secret)
                    .bind(until.micros())
                    .bind(now.micros())
                    .bind(&previous)
                    .bind(&current);
                Ok(run(&ROTATE, rotate.fetch_all(&mut *connection)).await?.pop())
            })?;
            if let Some(row) = rotated {
                return row.read();
            }
        }
        Err(Error::conflict("this webhook's secret is being changed by others: try again"))
    }

    async fn delete(&self, id: &WebhookId) -> Result<()> {
        let deleted = affected!(
            &self.db,
            Scope::Tenant(&self.tenant),
            DELETE,
            sqlx::query(DELETE.sql).bind(self.tenant.as_str()).bind(id.as_str())
        )?;
        if deleted == 0 { Err(Error::NotFound { what: "webhook" }) } else { Ok(()) }
    }

    async fn secrets(&self, id: &WebhookId) -> Result<SealedSecrets> {
        let (current, previous, until) = read!(&self.db, Scope::Tenant(&self.tenant), SECRETS, pool =>
            sqlx::query_as::<_, (String, Option<String>, Option<i64>)>(SECRETS.sql)
                .bind(self.tenant.as_str())
                .bind(id.as_str())
                .fetch_one(pool))?;
        let previous = match previous.zip(moment(until)) {
            Some((previous, until)) => read_previous(previous, until)?,
            None => Vec::new(),
        };
        Ok(SealedSecrets { current, previous })
    }

    async fn seen(&self, id: &WebhookId) -> Result<i64> {
        let seen = read!(&self.db, Scope::Tenant(&self.tenant), SEEN, pool => sqlx::query_scalar::<_, i64>(SEEN.sql)
            .bind(self.tenant.as_str())
            .bind(id.as_str())
            .fetch_one(pool))?;
        Ok(seen)
    }

    async fn fan_out(
        &self,
        id: &WebhookId,
        from: i64,
        to: i64,
        deliveries: &[NewDelivery],
        now: Timestamp,
    ) -> Result<bool> {
        transaction!(&self.db, Scope::Tenant(&self.tenant), connection => {
            let advance = sqlx::query(ADVANCE.sql)
                .bind(self.tenant.as_str())
                .bind(id.as_str())
                .bind(from)
                .bind(to);
            if run(&ADVANCE, advance.execute(&mut *connection)).await?.rows_affected() == 0 {
                return Ok(false);
            }
            for some in deliveries.chunks(crate::rows::MAX_ROWS) {
                deliveries::insert!(connection, &self.tenant, id, some, now);
            }
            Ok(true)
        })
    }
}

/// As they stand in `previous_secret`: one alone as it is, as every version reads it; several, with their ends, as JSON.
fn written(previous: &[(String, Timestamp)]) -> Result<String> {
    if let [(only, _)] = previous {
        return Ok(only.clone());
    }
    let list: Vec<(&str, i64)> = previous.iter().map(|(sealed, until)| (sealed.as_str(), until.micros())).collect();
    serde_json::to_string(&list).map_err(Error::internal)
}

fn read_previous(text: String, until: Timestamp) -> Result<Vec<(String, Timestamp)>> {
    if !text.starts_with('[') {
        return Ok(vec![(text, until)]);
    }
    let list: Vec<(String, i64)> = read_json("webhooks.previous_secret", &text)?;
    Ok(list.into_iter().map(|(sealed, until)| (sealed, Timestamp::from_micros(until))).collect())
}

/// Webhooks that have not got all their deliveries yet.
pub(crate) async fn behind(db: &Db, pending_max: u32, limit: u32) -> Result<Vec<(TenantId, WebhookId)>> {
    let rows = read!(db, Scope::System, BEHIND, pool => sqlx::query_as::<_, (String, String)>(BEHIND.sql)
        .bind(i64::from(pending_max))
        .bind(i64::from(limit))
        .fetch_all(pool))?;
    rows.iter().map(|(tenant, id)| named(tenant, id)).collect()
}

/// A webhook and whose it is.
pub(crate) fn named(tenant: &str, id: &str) -> Result<(TenantId, WebhookId)> {
    Ok((read_id("webhooks.tenant_id", tenant, TenantId::parse)?, read_id("webhooks.id", id, WebhookId::parse)?))
}
