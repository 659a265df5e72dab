//! Search in what was said: the messages as the search reads them, and the words of blocks of them (see
//! [`astrfleet_core::search`]). Every statement goes by keys alone: row-level security lets no operator of a text index
//! look at a row before its policy has.

use astrfleet_core::{
    Result,
    id::{MessageId, SessionId, TenantId},
    ports::{NewSearchBlock, Search, SearchBlock},
    search::{PROBES, Probe, Said},
    time::Timestamp,
};
use async_trait::async_trait;
use sqlx::AssertSqlSafe;

use crate::{
    db::Db,
    rows::{Texts, texts},
    scope::Scope,
    statement::{affected, read, read_stale, run, statements, transaction},
    values::{read_id, read_word},
};

/// What a [`Row`] is made of.
macro_rules! said_columns {
    () => {
        "id, session_id, author, body, created_at"
    };
}

statements! {
    "message";
    NEWEST = "search.newest", concat!("SELECT ", said_columns!(), " FROM messages
        WHERE tenant_id = $1 AND id >= $2 AND id < $3 ORDER BY id DESC LIMIT $4");
    OLDEST = "search.oldest", concat!("SELECT ", said_columns!(), " FROM messages
        WHERE tenant_id = $1 AND id > $2 AND id < $3 ORDER BY id LIMIT $4");
    NTH = "search.nth", "SELECT id FROM messages
        WHERE tenant_id = $1 AND id > $2 AND id < $3 ORDER BY id LIMIT 1 OFFSET $4";
    INDEXED_TO = "search.indexed_to", "SELECT last_id FROM search_blocks
        WHERE tenant_id = $1 AND bucket = 0 ORDER BY first_id DESC LIMIT 1";
    BLOCKS = "search.blocks", "SELECT first_id, last_id FROM search_blocks AS one
        WHERE tenant_id = $1 AND first_id < $2 AND bucket = $4 AND words LIKE '%' || $5 || '%'
        AND EXISTS (SELECT 1 FROM search_blocks AS other WHERE other.tenant_id = $1
            AND other.first_id = one.first_id AND other.bucket = $6 AND other.words LIKE '%' || $7 || '%')
        AND EXISTS (SELECT 1 FROM search_blocks AS other WHERE other.tenant_id = $1
            AND other.first_id = one.first_id AND other.bucket = $8 AND other.words LIKE '%' || $9 || '%')
        AND EXISTS (SELECT 1 FROM search_blocks AS other WHERE other.tenant_id = $1
            AND other.first_id = one.first_id AND other.bucket = $10 AND other.words LIKE '%' || $11 || '%')
        ORDER BY first_id DESC LIMIT $3";
    /// Its rows follow. The first of them is taken alone, so that of two who write the same block one goes away.
    ADD = "search.add", "INSERT INTO search_blocks (tenant_id, first_id, last_id, bucket, words)";
    FORGET = "search.forget", "DELETE FROM search_blocks WHERE tenant_id = $1 AND last_id >= $2";
    FORGET_BEFORE = "search.forget_before", "DELETE FROM search_blocks WHERE tenant_id = $1 AND last_id < $2";
}

static ADD_TEXTS: Texts = std::sync::LazyLock::new(|| texts(ADD.sql, 5, "ON CONFLICT DO NOTHING"));

/// The text for one bucket, for [`crate::texts`].
pub(crate) fn text_of_one() -> (&'static str, String) {
    (ADD.name, ADD_TEXTS[0].to_string())
}

/// The search in the messages of one tenant.
pub struct SearchRows {
    db: Db,
    tenant: TenantId,
}

impl SearchRows {
    /// Of `tenant`.
    #[must_use]
    pub fn new(db: &Db, tenant: &TenantId) -> Self {
        Self { db: db.clone(), tenant: tenant.clone() }
    }
}

#[derive(sqlx::FromRow)]
struct Row {
    id: String,
    session_id: String,
    author: String,
    body: String,
    created_at: i64,
}

impl Row {
    fn read(self) -> Result<Said> {
        Ok(Said {
            id: read_id("messages.id", &self.id, MessageId::parse)?,
            session_id: read_id("messages.session_id", &self.session_id, SessionId::parse)?,
            author: read_word("messages.author", self.author)?,
            text: self.body,
            created_at: Timestamp::from_micros(self.created_at),
        })
    }
}

/// One statement for `$rows`, each a bucket's number and its words.
macro_rules! add {
    ($tenant:expr, $block:expr, $rows:expr, $connection:expr) => {{
        let text = std::sync::Arc::clone(&ADD_TEXTS[$rows.len() - 1]);
        let mut query = sqlx::query(AssertSqlSafe(text));
        for (bucket, words) in $rows {
            query = query
                .bind($tenant.as_str())
                .bind($block.first.as_str())
                .bind($block.last.as_str())
                .bind(*bucket)
                .bind(*words);
        }
        run(&ADD, query.execute(&mut *$connection)).await?.rows_affected()
    }};
}

#[async_trait]
impl Search for SearchRows {
    async fn newest(&self, from: &str, before: &str, limit: u32) -> Result<Vec<Said>> {
        read_stale!(&self.db, Scope::Tenant(&self.tenant), NEWEST, pool => sqlx::query_as::<_, Row>(NEWEST.sql)
            .bind(self.tenant.as_str())
            .bind(from)
            .bind(before)
            .bind(i64::from(limit))
            .fetch_all(pool))?
        .into_iter()
        .map(Row::read)
        .collect()
    }

    async fn oldest(&self, after: &str, before: &str, limit: u32) -> Result<Vec<Said>> {
        read!(&self.db, Scope::Tenant(&self.tenant), OLDEST, pool => sqlx::query_as::<_, Row>(OLDEST.sql)
            .bind(self.tenant.as_str())
            .bind(after)
            .bind(before)
            .bind(i64::from(limit))
            .fetch_all(pool))?
        .into_iter()
        .map(Row::read)
        .collect()
    }

    async fn has(&self, after: &str, before: &str, count: u32) -> Result<bool> {
        let nth = read!(&self.db, Scope::Tenant(&self.tenant), NTH, pool => sqlx::query_scalar::<_, String>(NTH.sql)
            .bind(self.tenant.as_str())
            .bind(after)
            .bind(before)
            .bind(i64::from(count) - 1)
            .fetch_optional(pool))?;
        Ok(nth.is_some())
    }

    async fn indexed_to(&self) -> Result<Option<MessageId>> {
        let last = read!(&self.db, Scope::Tenant(&self.tenant), INDEXED_TO, pool => sqlx::query_scalar::<_, String>(INDEXED_TO.sql)
            .bind(self.tenant.as_str())
            .fetch_optional(pool))?;
        last.map(|last| read_id("search_blocks.last_id", &last, MessageId::parse)).transpose()
    }

    async fn blocks(&self, probes: &[Probe; PROBES], before: &str, limit: u32) -> Result<Vec<SearchBlock>> {
        let rows = read!(&self.db, Scope::Tenant(&self.tenant), BLOCKS, pool => {
            let mut query = sqlx::query_as::<_, (String, String)>(BLOCKS.sql)
                .bind(self.tenant.as_str())
                .bind(before)
                .bind(i64::from(limit));
            for probe in probes {
                query = query.bind(i64::from(probe.bucket)).bind(&probe.text);
            }
            query.fetch_all(pool)
        })?;
        let read = |(first, last): (String, String)| {
            Ok(SearchBlock {
                first: read_id("search_blocks.first_id", &first, MessageId::parse)?,
                last: read_id("search_blocks.last_id", &last, MessageId::parse)?,
            })
        };
        rows.into_iter().map(read).collect()
    }

    async fn add(&self, block: &NewSearchBlock) -> Result<bool> {
        let rows: Vec<(i64, &str)> = (0..).zip(block.buckets.iter().map(String::as_str)).collect();
        let Some((first, others)) = rows.split_first() else { return Ok(false) };
        transaction!(&self.db, Scope::Tenant(&self.tenant), connection => {
            if add!(self.tenant, block, std::slice::from_ref(first), connection) == 0 {
                return Ok(false);
            }
            if !others.is_empty() {
                add!(self.tenant, block, others, connection);
            }
            Ok(true)
        })
    }

    async fn forget(&self, since: &MessageId) -> Result<()> {
        affected!(
            &self.db,
            Scope::Tenant(&self.tenant),
            FORGET,
            sqlx::query(FORGET.sql).bind(self.tenant.as_str()).bind(since.as_str())
        )?;
        Ok(())
    }

    async fn forget_before(&self, before: &str) -> Result<()> {
        affected!(
            &self.db,
            Scope::Tenant(&self.tenant),
            FORGET_BEFORE,
            sqlx::query(FORGET_BEFORE.sql).bind(self.tenant.as_str()).bind(before)
        )?;
        Ok(())
    }
}
