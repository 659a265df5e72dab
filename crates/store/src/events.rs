//! What happened, in the database: written in the transaction of whatever happened, and read in order.
//!
//! A tenant's events have places in one sequence, and the row that counts them ([`HEAD`]) is held from the moment in
//! which a place is taken until the transaction ends. So a later place becomes visible after an earlier one, and whoever
//! reads on from the last place that they saw misses nothing. That row is the last that a transaction takes: whoever
//! waits for it waits for nobody who waits for them.

use std::{collections::BTreeMap, sync::LazyLock};

use astrfleet_core::{
    Error, Result,
    event::{Brief, Event, NewEvent, TEXT_CHARS_MAX, ToldMessage},
    id::{AttachmentId, EventId, MessageId, SessionId, TenantId},
    message::{Failure, TokenUsage},
    ports::Events,
    time::Timestamp,
};
use async_trait::async_trait;

use crate::{
    db::Db,
    failed::Failed,
    rows::{Texts, texts, unnumbered_texts},
    scope::Scope,
    statement::{affected, read, statements, transaction},
    values::{read_id, read_json, read_number, read_word},
};

/// What a [`Row`] reads.
macro_rules! event_columns {
    () => {
        "events.seq, events.session_id, events.kind, events.data, events.created_at, told.id AS message_id, \
         told.author, SUBSTR(told.body, 1, 16384) AS body, CAST(LENGTH(told.body) AS BIGINT) AS body_chars, \
         told.attachments, told.state, told.reply_to, told.failure_code, told.failure_detail, told.prompt_tokens, \
         told.completion_tokens, told.created_at AS accepted_at \
         FROM events LEFT JOIN messages AS told \
         ON told.tenant_id = events.tenant_id AND told.id = events.message_id"
    };
}

statements! {
    "event";
    /// Takes places in the sequences of tenants: the last place of each comes back. Its rows follow, see [`HEAD_TEXTS`].
    HEAD = "event.head", "INSERT INTO event_heads (tenant_id, seq)";
    /// Its rows follow, see [`INSERT_TEXTS`].
    INSERT = "event.insert", "INSERT INTO events (tenant_id, seq, session_id, message_id, kind, data, created_at)";
    BOUNDS = "event.bounds", "SELECT
            COALESCE((SELECT seq FROM events WHERE tenant_id = $1 ORDER BY seq LIMIT 1), seq + 1), seq
        FROM event_heads WHERE tenant_id = $1";
    AFTER = "event.after", concat!("SELECT ", event_columns!(), "
        WHERE events.tenant_id = $1 AND events.seq > $2 ORDER BY events.seq LIMIT $3");
    AFTER_IN_SESSION = "event.after_in_session", concat!("SELECT ", event_columns!(), "
        WHERE events.tenant_id = $1 AND events.seq > $2 AND events.session_id = $4 ORDER BY events.seq LIMIT $3");
    BRIEF_AFTER = "event.brief_after", "SELECT seq, kind, session_id FROM events
        WHERE tenant_id = $1 AND seq > $2 ORDER BY seq LIMIT $3";
    /// The same number of tenants in each: one text.
    NEWEST = "event.newest", "SELECT tenant_id, seq FROM event_heads WHERE tenant_id IN (
        $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24,
        $25, $26, $27, $28, $29, $30, $31, $32)";
    DELETE_OLD = "event.delete_old", "DELETE FROM events WHERE (tenant_id, seq) IN (
        SELECT tenant_id, seq FROM events WHERE created_at < $1 ORDER BY created_at LIMIT $2)";
}

const HEAD_COLUMNS: usize = 2;
const HEAD_TAIL: &str = "ON CONFLICT (tenant_id) DO UPDATE SET seq = event_heads.seq + excluded.seq
    RETURNING tenant_id, seq";
pub(crate) static HEAD_TEXTS: Texts = LazyLock::new(|| texts(HEAD.sql, HEAD_COLUMNS, HEAD_TAIL));
const INSERT_COLUMNS: usize = 7;
pub(crate) static INSERT_TEXTS: Texts = LazyLock::new(|| texts(INSERT.sql, INSERT_COLUMNS, ""));
/// For SQLite, where many are written at once.
pub(crate) static UNNUMBERED_INSERT_TEXTS: Texts = LazyLock::new(|| unnumbered_texts(INSERT.sql, INSERT_COLUMNS, ""));
/// As the columns have it.
const _: () = assert!(TEXT_CHARS_MAX == 16_384);
/// Tenants in [`NEWEST`].
const TENANTS_AT_ONCE: usize = 32;

/// The texts for one event, for [`crate::texts`].
pub(crate) fn texts_of_one() -> [(&'static str, String); 2] {
    [(HEAD.name, HEAD_TEXTS[0].to_string()), (INSERT.name, INSERT_TEXTS[0].to_string())]
}

/// An event that is to be written.
pub(crate) struct Told {
    pub(crate) tenant: TenantId,
    pub(crate) event: NewEvent,
}

impl Told {
    /// Of `tenant`.
    pub(crate) fn new(tenant: &TenantId, event: NewEvent) -> Self {
        Self { tenant: tenant.clone(), event }
    }
}

/// How many places each tenant needs, in the order in which everybody takes them.
pub(crate) fn wanted(events: &[Told]) -> BTreeMap<&TenantId, i64> {
    let mut wanted = BTreeMap::new();
    for told in events {
        *wanted.entry(&told.tenant).or_default() += 1;
    }
    wanted
}

/// The place of each event, `last` being the last place that its tenant got.
pub(crate) fn places(
    events: &[Told],
    mut wanted: BTreeMap<&TenantId, i64>,
    last: &[(String, i64)],
) -> Result<Vec<i64>, Failed> {
    let last: BTreeMap<&str, i64> = last.iter().map(|(tenant, seq)| (tenant.as_str(), *seq)).collect();
    let place = |told: &Told| {
        let left = wanted.get_mut(&told.tenant)?;
        *left -= 1;
        Some(last.get(told.tenant.as_str())? - *left)
    };
    let places: Option<Vec<i64>> = events.iter().map(place).collect();
    places.ok_or_else(|| Failed::new(&HEAD, sqlx::Error::RowNotFound))
}

/// Writes at most [`crate::rows::MAX_ROWS`] events within a transaction, as the last thing in it.
macro_rules! append {
    ($connection:expr, $events:expr) => {
        $crate::events::append_with!($connection, $events, $crate::events::INSERT_TEXTS)
    };
}
pub(crate) use append;

/// The same with other texts of [`INSERT`].
macro_rules! append_with {
    ($connection:expr, $events:expr, $texts:expr) => {{
        let events: &[$crate::events::Told] = $events;
        let wanted = $crate::events::wanted(events);
        let text = ::std::sync::Arc::clone(&$crate::events::HEAD_TEXTS[wanted.len() - 1]);
        let mut heads = sqlx::query_as::<_, (String, i64)>(sqlx::AssertSqlSafe(text));
        for (tenant, count) in &wanted {
            heads = heads.bind(tenant.as_str()).bind(*count);
        }
        let last = $crate::statement::run(&$crate::events::HEAD, heads.fetch_all(&mut *$connection)).await?;
        let places = $crate::events::places(events, wanted, &last)?;
        let text = ::std::sync::Arc::clone(&$texts[events.len() - 1]);
        let mut insert = sqlx::query(sqlx::AssertSqlSafe(text));
        for (told, seq) in events.iter().zip(places) {
            insert = insert
                .bind(told.tenant.as_str())
                .bind(seq)
                .bind(told.event.session_id.as_ref().map(|id| id.as_str()))
                .bind(told.event.message_id.as_ref().map(|id| id.as_str()))
                .bind(told.event.kind.name())
                .bind(told.event.data.to_string())
                .bind(told.event.at.micros());
        }
        $crate::statement::run(&$crate::events::INSERT, insert.execute(&mut *$connection)).await?;
    }};
}
pub(crate) use append_with;

/// What happened to one tenant.
pub struct EventRows {
    db: Db,
    tenant: TenantId,
}

impl EventRows {
    /// Of `tenant`.
    #[must_use]
    pub fn new(db: &Db, tenant: &TenantId) -> Self {
        Self { db: db.clone(), tenant: tenant.clone() }
    }
}

#[derive(sqlx::FromRow)]
struct Row {
    seq: i64,
    session_id: Option<String>,
    kind: String,
    data: String,
    created_at: i64,
    message_id: Option<String>,
    author: Option<String>,
    body: Option<String>,
    body_chars: Option<i64>,
    attachments: Option<String>,
    state: Option<String>,
    reply_to: Option<String>,
    failure_code: Option<String>,
    failure_detail: Option<String>,
    prompt_tokens: Option<i64>,
    completion_tokens: Option<i64>,
    accepted_at: Option<i64>,
}

impl Row {
    fn read(mut self, tenant: &TenantId) -> Result<Event> {
        let mut data: serde_json::Value = read_json("events.data", &self.data)?;
        let (kind, at) = (std::mem::take(&mut self.kind), Timestamp::from_micros(self.created_at));
        let session = self.session_id.take();
        let session_id = session.map(|id| read_id("events.session_id", &id, SessionId::parse)).transpose()?;
        let id = EventId::of(tenant, self.seq);
        if let Some(message) = self.message()? {
            data["message"] = serde_json::to_value(message).map_err(Error::internal)?;
        }
        Ok(Event { id, kind, timestamp: at, tenant_id: tenant.clone(), session_id, data })
    }

    /// None where it was deleted since, or none was meant.
    fn message(self) -> Result<Option<ToldMessage>> {
        let (Some(id), Some(author), Some(state)) = (self.message_id, self.author, self.state) else { return Ok(None) };
        let usage = match self.prompt_tokens.zip(self.completion_tokens) {
            Some((prompt, completion)) => Some(TokenUsage {
                prompt_tokens: read_number("messages.prompt_tokens", prompt)?,
                completion_tokens: read_number("messages.completion_tokens", completion)?,
            }),
            None => None,
        };
        let shown = i64::try_from(TEXT_CHARS_MAX).unwrap_or(i64::MAX);
        Ok(Some(ToldMessage {
            id: read_id("messages.id", &id, MessageId::parse)?,
            author: read_word("messages.author", author)?,
            state: read_word("messages.state", state)?,
            text: self.body.unwrap_or_default(),
            text_cut: self.body_chars.is_some_and(|chars| chars > shown),
            attachments: match self.attachments {
                Some(list) => read_json::<Vec<AttachmentId>>("messages.attachments", &list)?,
                None => Vec::new(),
            },
            reply_to: self.reply_to.map(|id| read_id("messages.reply_to", &id, MessageId::parse)).transpose()?,
            failure: self.failure_code.zip(self.failure_detail).map(|(code, detail)| Failure { code, detail }),
            usage,
            created_at: Timestamp::from_micros(self.accepted_at.unwrap_or_default()),
        }))
    }
}

#[async_trait]
impl Events for EventRows {
    async fn bounds(&self) -> Result<(i64, i64)> {
        let bounds = read!(&self.db, Scope::Tenant(&self.tenant), BOUNDS, pool => sqlx::query_as::<_, (i64, i64)>(BOUNDS.sql)
            .bind(self.tenant.as_str())
            .fetch_optional(pool))?;
        Ok(bounds.unwrap_or((1, 0)))
    }

    async fn after(&self, seq: i64, session: Option<&SessionId>, limit: u32) -> Result<Vec<Event>> {
        let rows = match session {
            Some(session) => {
                read!(&self.db, Scope::Tenant(&self.tenant), AFTER_IN_SESSION, pool => sqlx::query_as::<_, Row>(AFTER_IN_SESSION.sql)
                    .bind(self.tenant.as_str())
                    .bind(seq)
                    .bind(i64::from(limit))
                    .bind(session.as_str())
                    .fetch_all(pool))?
            }
            None => read!(&self.db, Scope::Tenant(&self.tenant), AFTER, pool => sqlx::query_as::<_, Row>(AFTER.sql)
                .bind(self.tenant.as_str())
                .bind(seq)
                .bind(i64::from(limit))
                .fetch_all(pool))?,
        };
        rows.into_iter().map(|row| row.read(&self.tenant)).collect()
    }

    async fn brief_after(&self, seq: i64, limit: u32) -> Result<Vec<Brief>> {
        let rows = read!(&self.db, Scope::Tenant(&self.tenant), BRIEF_AFTER, pool =>
            sqlx::query_as::<_, (i64, String, Option<String>)>(BRIEF_AFTER.sql)
                .bind(self.tenant.as_str())
                .bind(seq)
                .bind(i64::from(limit))
                .fetch_all(pool))?;
        let read = |(seq, kind, session): (i64, String, Option<String>)| {
            let session_id = session.map(|id| read_id("events.session_id", &id, SessionId::parse)).transpose()?;
            Ok(Brief { id: EventId::of(&self.tenant, seq), kind, session_id })
        };
        rows.into_iter().map(read).collect()
    }

    async fn append(&self, event: &NewEvent) -> Result<()> {
        transaction!(&self.db, Scope::Tenant(&self.tenant), connection => {
            append!(connection, &[Told::new(&self.tenant, event.clone())]);
            Ok(())
        })
    }
}

/// The place of the newest event of each of these tenants that has any.
pub(crate) async fn newest(db: &Db, tenants: &[TenantId]) -> Result<Vec<(TenantId, i64)>> {
    let mut found = Vec::new();
    for some in tenants.chunks(TENANTS_AT_ONCE) {
        // The last one again and again: one text for every number of them.
        let padded = some.iter().chain(some.last().into_iter().cycle()).take(TENANTS_AT_ONCE);
        let names: Vec<&str> = padded.map(TenantId::as_str).collect();
        let rows = read!(db, Scope::System, NEWEST, pool => names
            .iter()
            .fold(sqlx::query_as::<_, (String, i64)>(NEWEST.sql), |query, name| query.bind(*name))
            .fetch_all(pool))?;
        for (tenant, seq) in rows {
            found.push((read_id("event_heads.tenant_id", &tenant, TenantId::parse)?, seq));
        }
    }
    Ok(found)
}

/// Deletes at most `limit` events of all tenants from before `before`. Returns how many.
pub(crate) async fn delete_before(db: &Db, before: Timestamp, limit: u32) -> Result<u64> {
    let deleted = affected!(
        db,
        Scope::System,
        DELETE_OLD,
        sqlx::query(DELETE_OLD.sql).bind(before.micros()).bind(i64::from(limit))
    )?;
    Ok(deleted)
}
