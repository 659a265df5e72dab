//! The usage ledger in the database. Lines are added, never changed.

use std::{collections::BTreeMap, sync::LazyLock, time::Duration};

use astrfleet_core::{
    Result,
    id::{InstanceId, TenantId, UsageId},
    message::TokenUsage,
    page::{Page, PageRequest},
    ports::{BudgetHolder, UsageLedger},
    time::Timestamp,
    usage::{UsageRecord, UsageTotal},
};
use async_trait::async_trait;

use crate::{
    budgets,
    db::{Db, Engine},
    rows::{Texts, texts, unnumbered_texts},
    scope::Scope,
    statement::{read, read_stale, statements},
    values::{read_id, read_number, read_word},
};

/// What a [`Row`] is made of.
macro_rules! columns {
    () => {
        "tenant_id, id, instance_id, upstream, model, prompt_tokens, completion_tokens, estimated, outcome, at, \
         duration_ms"
    };
}

statements! {
    "usage record";
    /// Its rows follow: see [`APPEND_TEXTS`].
    APPEND = "usage.append", concat!("INSERT INTO usage_records (", columns!(), ")");
    LIST = "usage.list", concat!("SELECT ", columns!(), " FROM usage_records
        WHERE tenant_id = $1 AND id < $2 ORDER BY id DESC LIMIT $3");
    /// `at >= $2` stands by itself so that the index leads to the page, and not to all that was before it.
    BETWEEN = "usage.between", concat!("SELECT ", columns!(), " FROM usage_records
        WHERE tenant_id = $1 AND at >= $2 AND at < $3 AND (at > $2 OR id > $4) ORDER BY at, id LIMIT $5");
    /// A day has 86,400,000,000 microseconds.
    BY_DAY = "usage.by_day", "SELECT day, CAST(SUM(requests) AS BIGINT) AS requests,
            CAST(SUM(prompt_tokens) AS BIGINT) AS prompt_tokens,
            CAST(SUM(completion_tokens) AS BIGINT) AS completion_tokens, CAST(SUM(messages) AS BIGINT) AS messages
        FROM (
            SELECT at / 86400000000 AS day, COUNT(*) AS requests, SUM(prompt_tokens) AS prompt_tokens,
                SUM(completion_tokens) AS completion_tokens, 0 AS messages
            FROM usage_records WHERE tenant_id = $1 AND at >= $2 AND at < $3 GROUP BY at / 86400000000
            UNION ALL
            SELECT created_at / 86400000000, 0, 0, 0, COUNT(*) FROM messages
            WHERE tenant_id = $1 AND author = 'user' AND created_at >= $2 AND created_at < $3
            GROUP BY created_at / 86400000000
        ) AS days
        GROUP BY day ORDER BY day";
    TOKENS_SINCE = "usage.tokens_since",
        "SELECT CAST(COALESCE(SUM(prompt_tokens + completion_tokens), 0) AS BIGINT) FROM usage_records
        WHERE tenant_id = $1 AND at >= $2";
    TOKENS_OF_KEY_SINCE = "usage.tokens_of_key_since",
        "SELECT CAST(COALESCE(SUM(prompt_tokens + completion_tokens), 0) AS BIGINT) FROM usage_records
        WHERE tenant_id = $1 AND at >= $2 AND instance_id = $3";
}

/// Each gives the ids of the lines that were not there.
const APPEND_TAIL: &str = "ON CONFLICT DO NOTHING RETURNING id";
static APPEND_TEXTS: Texts = LazyLock::new(|| texts(APPEND.sql, 11, APPEND_TAIL));
static UNNUMBERED_APPEND_TEXTS: Texts = LazyLock::new(|| unnumbered_texts(APPEND.sql, 11, APPEND_TAIL));

/// The texts for an engine.
pub(crate) fn append_texts(engine: &Engine) -> &'static Texts {
    match engine {
        Engine::Lite { .. } => &UNNUMBERED_APPEND_TEXTS,
        Engine::Pg(_) => &APPEND_TEXTS,
    }
}

/// Binds lines, at most [`crate::rows::MAX_ROWS`].
macro_rules! append {
    ($texts:expr, $tenant:expr, $records:expr, $outcomes:expr) => {{
        let text = ::std::sync::Arc::clone(&$texts[$records.len() - 1]);
        let mut query = sqlx::query_scalar::<_, String>(sqlx::AssertSqlSafe(text));
        for (record, outcome) in $records.iter().zip($outcomes) {
            query = query
                .bind($tenant.as_str())
                .bind(record.id.as_str())
                .bind(record.instance_id.as_str())
                .bind($crate::values::storable(&record.upstream))
                .bind($crate::values::storable(&record.model))
                .bind($crate::values::token_count(record.tokens.prompt_tokens))
                .bind($crate::values::token_count(record.tokens.completion_tokens))
                .bind(record.estimated)
                .bind(outcome)
                .bind(record.at.micros())
                .bind(i64::try_from(record.duration_ms).unwrap_or(i64::MAX));
        }
        query
    }};
}
pub(crate) use append;

/// The text for one line, for [`crate::texts`].
pub(crate) fn text_of_one() -> (&'static str, String) {
    (APPEND.name, APPEND_TEXTS[0].to_string())
}

/// Later than every id of a line: where a list that begins with the newest begins.
const AFTER_ALL: &str = "use_g";
const MICROS_PER_DAY: i64 = 86_400_000_000;

/// The ledger of one tenant.
pub struct UsageRows {
    db: Db,
    tenant: TenantId,
}

impl UsageRows {
    /// Of `tenant`.
    #[must_use]
    pub fn new(db: &Db, tenant: &TenantId) -> Self {
        Self { db: db.clone(), tenant: tenant.clone() }
    }
}

/// A row, as it stands.
#[derive(sqlx::FromRow)]
struct Row {
    tenant_id: String,
    id: String,
    instance_id: String,
    upstream: String,
    model: String,
    prompt_tokens: i64,
    completion_tokens: i64,
    estimated: bool,
    outcome: String,
    at: i64,
    duration_ms: i64,
}

impl Row {
    fn read(self) -> Result<UsageRecord> {
        Ok(UsageRecord {
            id: read_id("usage_records.id", &self.id, UsageId::parse)?,
            tenant_id: read_id("usage_records.tenant_id", &self.tenant_id, TenantId::parse)?,
            instance_id: read_id("usage_records.instance_id", &self.instance_id, InstanceId::parse)?,
            upstream: self.upstream,
            model: self.model,
            tokens: read_tokens(self.prompt_tokens, self.completion_tokens)?,
            estimated: self.estimated,
            outcome: read_word("usage_records.outcome", self.outcome)?,
            at: Timestamp::from_micros(self.at),
            duration_ms: read_number("usage_records.duration_ms", self.duration_ms)?,
        })
    }
}

#[derive(sqlx::FromRow)]
struct DayRow {
    day: i64,
    requests: i64,
    prompt_tokens: i64,
    completion_tokens: i64,
    messages: i64,
}

impl DayRow {
    fn read(self) -> Result<UsageTotal> {
        Ok(UsageTotal {
            period: Timestamp::from_micros(self.day * MICROS_PER_DAY).day(),
            requests: read_number("usage_records.requests", self.requests)?,
            tokens: read_tokens(self.prompt_tokens, self.completion_tokens)?,
            messages: read_number("usage_records.messages", self.messages)?,
        })
    }
}

fn read_tokens(prompt: i64, completion: i64) -> Result<TokenUsage> {
    Ok(TokenUsage {
        prompt_tokens: read_number("usage_records.prompt_tokens", prompt)?,
        completion_tokens: read_number("usage_records.completion_tokens", completion)?,
    })
}

#[async_trait]
impl UsageLedger for UsageRows {
    async fn append(&self, records: &[UsageRecord]) -> Result<()> {
        let mut months = BTreeMap::<_, Vec<_>>::new();
        for record in records {
            months.entry(record.at.month_start()).or_default().push(record.clone());
        }
        let nobody = BudgetHolder { name: String::new(), ttl: Duration::ZERO };
        for (month, records) in months {
            budgets::settle(&self.db, &self.tenant, month, &records, &nobody, &[]).await?;
        }
        Ok(())
    }

    async fn list(&self, page: &PageRequest) -> Result<Page<UsageRecord>> {
        let records =
            read_stale!(&self.db, Scope::Tenant(&self.tenant), LIST, pool => sqlx::query_as::<_, Row>(LIST.sql)
            .bind(self.tenant.as_str())
            .bind(page.after.as_deref().unwrap_or(AFTER_ALL))
            .bind(i64::from(page.limit) + 1)
            .fetch_all(pool))?
            .into_iter()
            .map(Row::read)
            .collect::<Result<Vec<_>>>()?;
        Ok(Page::from_rows(records, page, |record| record.id.to_string()))
    }

    async fn between(
        &self,
        from: Timestamp,
        to: Timestamp,
        after: Option<&UsageRecord>,
        limit: u32,
    ) -> Result<Vec<UsageRecord>> {
        // Before all ids, and then the first moment itself is part of it.
        let (from, after) = after.map_or((from, ""), |last| (last.at, last.id.as_str()));
        read_stale!(&self.db, Scope::Tenant(&self.tenant), BETWEEN, pool => sqlx::query_as::<_, Row>(BETWEEN.sql)
            .bind(self.tenant.as_str())
            .bind(from.micros())
            .bind(to.micros())
            .bind(after)
            .bind(i64::from(limit))
            .fetch_all(pool))?
        .into_iter()
        .map(Row::read)
        .collect()
    }

    async fn by_day(&self, from: Timestamp, to: Timestamp) -> Result<Vec<UsageTotal>> {
        read_stale!(&self.db, Scope::Tenant(&self.tenant), BY_DAY, pool => sqlx::query_as::<_, DayRow>(BY_DAY.sql)
            .bind(self.tenant.as_str())
            .bind(from.micros())
            .bind(to.micros())
            .fetch_all(pool))?
        .into_iter()
        .map(DayRow::read)
        .collect()
    }

    async fn tokens_since(&self, since: Timestamp) -> Result<u64> {
        let tokens = read!(&self.db, Scope::Tenant(&self.tenant), TOKENS_SINCE, pool => sqlx::query_scalar::<_, i64>(TOKENS_SINCE.sql)
            .bind(self.tenant.as_str())
            .bind(since.micros())
            .fetch_one(pool))?;
        read_number("usage_records.tokens", tokens)
    }
    async fn tokens_of_key_since(&self, instance: &InstanceId, since: Timestamp) -> Result<u64> {
        let tokens = read!(&self.db, Scope::Tenant(&self.tenant), TOKENS_OF_KEY_SINCE, pool =>
            sqlx::query_scalar::<_, i64>(TOKENS_OF_KEY_SINCE.sql)
            .bind(self.tenant.as_str())
            .bind(since.micros())
            .bind(instance.as_str())
            .fetch_one(pool))?;
        read_number("usage_records.tokens", tokens)
    }
}
