//! Sessions in the database.

use astrfleet_core::{
    Error, Result,
    event::NewEvent,
    id::{MessageId, SessionId, TenantId},
    message::without_bot,
    page::{Page, PageRequest},
    ports::{Outcome, Sessions},
    session::{CloseReason, Session},
    time::Timestamp,
};
use async_trait::async_trait;

use crate::{
    db::Db,
    events::{Told, append},
    messages::end_open,
    rows::MAX_ROWS,
    scope::Scope,
    statement::{read, read_stale, run, statements, transaction},
    values::{read_id, read_json, read_word, word},
};

/// What a [`Row`] is made of.
macro_rules! session_columns {
    () => {
        "tenant_id, id, end_user, channel, state, close_reason, metadata, generation, created_at, last_active_at, \
         version, umo"
    };
}
pub(crate) use session_columns;

/// An exchange may have ended since the caller read the session: its last activity never goes back.
macro_rules! change {
    () => {
        "UPDATE sessions SET state = $4, close_reason = $5, metadata = $6,
            generation = $7, last_active_at = CASE WHEN last_active_at > $8 THEN last_active_at ELSE $8 END,
            version = version + 1
        WHERE tenant_id = $1 AND id = $2 AND version = $3"
    };
}

statements! {
    "session";
    INSERT = "session.insert", concat!("INSERT INTO sessions (", session_columns!(), ")
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)");
    GET_WITH_NEWEST = "session.get_with_newest", concat!("SELECT ", session_columns!(), ",
            (SELECT messages.id FROM messages WHERE messages.tenant_id = $1 AND messages.session_id = $2
             ORDER BY messages.id DESC LIMIT 1) AS newest
        FROM sessions WHERE tenant_id = $1 AND id = $2");
    GET = "session.get", concat!("SELECT ", session_columns!(), " FROM sessions WHERE tenant_id = $1 AND id = $2");
    LIST = "session.list", concat!("SELECT ", session_columns!(), " FROM sessions
        WHERE tenant_id = $1 AND id < $2 ORDER BY id DESC LIMIT $3");
    LIST_OF_END_USER = "session.list_of_end_user", concat!("SELECT ", session_columns!(), " FROM sessions
        WHERE tenant_id = $1 AND id < $2 AND end_user = $4 ORDER BY id DESC LIMIT $3");
    /// The state before a change: that is of this version.
    STATE = "session.state", "SELECT state FROM sessions WHERE tenant_id = $1 AND id = $2 AND version = $3";
    UPDATE = "session.update", concat!(change!(), " RETURNING ", session_columns!());
    /// Whoever writes in a session does not change its version: what made it idle (`system.idle_sessions`) is asked once
    /// more.
    CLOSE_IDLE = "session.close_idle", concat!(change!(), " AND state <> 'closed' AND last_active_at < $9
        AND NOT EXISTS (
            SELECT 1 FROM messages WHERE messages.tenant_id = sessions.tenant_id AND messages.session_id = sessions.id
            AND messages.state IN ('accepted', 'delivering', 'streaming')
        )
        AND COALESCE((
            SELECT messages.created_at FROM messages
            WHERE messages.tenant_id = sessions.tenant_id AND messages.session_id = sessions.id
            ORDER BY messages.id DESC LIMIT 1
        ), 0) < $9 RETURNING ", session_columns!());
}

/// Later than every id of a session: where a list that begins with the newest begins.
const AFTER_ALL: &str = "ses_g";

/// The sessions of one tenant.
pub struct SessionRows {
    db: Db,
    tenant: TenantId,
}

impl SessionRows {
    /// Of `tenant`.
    #[must_use]
    pub fn new(db: &Db, tenant: &TenantId) -> Self {
        Self { db: db.clone(), tenant: tenant.clone() }
    }

    /// Stores a changed session where its version is the stored one, and where nobody wrote in it since `idle_since`, if
    /// that is given. Returns it as stored.
    async fn change(&self, session: &Session, idle_since: Option<Timestamp>) -> Result<Option<Session>> {
        let state = word(&session.state)?;
        let reason = session.close_reason.map(|reason| word(&reason)).transpose()?;
        transaction!(&self.db, Scope::Tenant(&self.tenant), connection => {
            let ask = sqlx::query_scalar::<_, String>(STATE.sql)
                .bind(self.tenant.as_str())
                .bind(session.id.as_str())
                .bind(session.version);
            let Some(before) = run(&STATE, ask.fetch_optional(&mut *connection)).await? else { return Ok(None) };
            let statement = if idle_since.is_some() { &CLOSE_IDLE } else { &UPDATE };
            let mut update = sqlx::query_as::<_, Row>(statement.sql)
                .bind(self.tenant.as_str())
                .bind(session.id.as_str())
                .bind(session.version)
                .bind(&state)
                .bind(reason.as_deref())
                .bind(session.metadata.to_string())
                .bind(session.generation)
                .bind(session.last_active_at.micros());
            if let Some(since) = idle_since {
                update = update.bind(since.micros());
            }
            // All rows rather than one: SQLite checks and commits only when it was asked for the last one.
            let Some(row) = run(statement, update.fetch_all(&mut *connection)).await?.pop() else { return Ok(None) };
            let stored = row.read()?;
            let before = read_word("sessions.state", before)?;
            let mut told = Vec::new();
            if let Some((state, failure)) = without_bot(stored.state).filter(|_| before != stored.state) {
                let now = session.last_active_at;
                let ended = end_open!(connection, &stored, state, failure.as_ref(), now);
                if stored.close_reason == Some(CloseReason::Idle) && !ended.is_empty() {
                    // Undoes the above: somebody has written meanwhile.
                    return Err(Error::Stale { what: "session" });
                }
                let outcome = Outcome::NoReply(state, failure);
                let over = |id| NewEvent::of_outcome(id, stored.id.clone(), &outcome, false, now);
                told.extend(ended.iter().filter_map(over).map(|event| Told::new(&self.tenant, event)));
            }
            told.extend(NewEvent::of_session(Some(before), &stored).map(|event| Told::new(&self.tenant, event)));
            for events in told.chunks(MAX_ROWS) {
                append!(connection, events);
            }
            Ok(Some(stored))
        })
    }
}

/// A row, as it stands.
#[derive(Clone, sqlx::FromRow)]
pub(crate) struct Row {
    tenant_id: String,
    id: String,
    end_user: String,
    channel: String,
    state: String,
    close_reason: Option<String>,
    metadata: String,
    generation: i64,
    created_at: i64,
    last_active_at: i64,
    version: i64,
    umo: Option<String>,
}

/// With the newest message in it.
#[derive(Clone, sqlx::FromRow)]
pub(crate) struct RowWithNewest {
    #[sqlx(flatten)]
    pub session: Row,
    pub newest: Option<String>,
}

impl Row {
    /// By what it is found: its tenant's id and its own.
    pub(crate) fn key(&self) -> (&str, &str) {
        (&self.tenant_id, &self.id)
    }

    pub(crate) fn read(self) -> Result<Session> {
        Ok(Session {
            id: read_id("sessions.id", &self.id, SessionId::parse)?,
            tenant_id: read_id("sessions.tenant_id", &self.tenant_id, TenantId::parse)?,
            end_user: self.end_user,
            channel: self.channel,
            umo: self.umo,
            state: read_word("sessions.state", self.state)?,
            close_reason: self.close_reason.map(|word| read_word("sessions.close_reason", word)).transpose()?,
            metadata: read_json("sessions.metadata", &self.metadata)?,
            generation: self.generation,
            created_at: Timestamp::from_micros(self.created_at),
            last_active_at: Timestamp::from_micros(self.last_active_at),
            version: self.version,
        })
    }
}

/// Binds [`session_columns!`] in their order; the words of the state and of the reason are made before.
macro_rules! bind_session {
    ($query:expr, $tenant:expr, $session:expr, $state:expr, $reason:expr) => {
        $query
            .bind($tenant.as_str())
            .bind($session.id.as_str())
            .bind(&$session.end_user)
            .bind(&$session.channel)
            .bind(&$state)
            .bind($reason.as_deref())
            .bind($session.metadata.to_string())
            .bind($session.generation)
            .bind($session.created_at.micros())
            .bind($session.last_active_at.micros())
            .bind($session.version)
            .bind($session.umo.as_deref())
    };
}
pub(crate) use bind_session;

#[async_trait]
impl Sessions for SessionRows {
    async fn insert(&self, session: &Session) -> Result<()> {
        let state = word(&session.state)?;
        let reason = session.close_reason.map(|reason| word(&reason)).transpose()?;
        let opened = NewEvent::of_session(None, session);
        transaction!(&self.db, Scope::Tenant(&self.tenant), connection => {
            let insert = bind_session!(sqlx::query(INSERT.sql), self.tenant, session, state, reason);
            run(&INSERT, insert.execute(&mut *connection)).await.map_err(|failed| failed.or_missing("tenant"))?;
            if let Some(opened) = &opened {
                append!(connection, &[Told::new(&self.tenant, opened.clone())]);
            }
            Ok(())
        })
    }

    async fn get(&self, id: &SessionId) -> Result<Session> {
        read!(&self.db, Scope::Tenant(&self.tenant), GET, pool => sqlx::query_as::<_, Row>(GET.sql)
            .bind(self.tenant.as_str())
            .bind(id.as_str())
            .fetch_one(pool))?
        .read()
    }

    async fn get_with_newest(&self, id: &SessionId) -> Result<(Session, Option<MessageId>)> {
        let together = match &self.db.lookups {
            Some(lookups) => lookups.find(&self.tenant, id).await,
            None => None,
        };
        let row = match together {
            Some(row) => row,
            None => read!(&self.db, Scope::Tenant(&self.tenant), GET_WITH_NEWEST, pool =>
                sqlx::query_as::<_, RowWithNewest>(GET_WITH_NEWEST.sql)
                    .bind(self.tenant.as_str())
                    .bind(id.as_str())
                    .fetch_one(pool))?,
        };
        let newest = row.newest.map(|id| read_id("messages.id", &id, MessageId::parse)).transpose()?;
        Ok((row.session.read()?, newest))
    }

    async fn list(&self, end_user: Option<&str>, page: &PageRequest) -> Result<Page<Session>> {
        let after = page.after.as_deref().unwrap_or(AFTER_ALL);
        let limit = i64::from(page.limit) + 1;
        let rows = match end_user {
            Some(end_user) => {
                read_stale!(&self.db, Scope::Tenant(&self.tenant), LIST_OF_END_USER, pool => sqlx::query_as::<_, Row>(LIST_OF_END_USER.sql)
                    .bind(self.tenant.as_str())
                    .bind(after)
                    .bind(limit)
                    .bind(end_user)
                    .fetch_all(pool))?
            }
            None => read_stale!(&self.db, Scope::Tenant(&self.tenant), LIST, pool => sqlx::query_as::<_, Row>(LIST.sql)
                .bind(self.tenant.as_str())
                .bind(after)
                .bind(limit)
                .fetch_all(pool))?,
        };
        let sessions = rows.into_iter().map(Row::read).collect::<Result<Vec<_>>>()?;
        Ok(Page::from_rows(sessions, page, |session| session.id.to_string()))
    }

    async fn update(&self, session: &Session) -> Result<Session> {
        if let Some(stored) = self.change(session, None).await? {
            return Ok(stored);
        }
        self.get(&session.id).await?;
        Err(Error::Stale { what: "session" })
    }

    async fn close_idle(&self, closed: &Session, before: Timestamp) -> Result<bool> {
        match self.change(closed, Some(before)).await {
            Err(Error::Stale { .. }) => Ok(false),
            outcome => Ok(outcome?.is_some()),
        }
    }
}
