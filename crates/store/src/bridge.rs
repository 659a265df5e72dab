//! Messages of IM channels in the database: each once, by the IM platform's own number, in the one open session of its
//! conversation, all in one transaction.

use astrfleet_core::{
    Error, Result,
    bridge::{Verdict, decide, decide_again},
    event::NewEvent,
    id::{MessageId, SessionId, TenantId},
    message::{Author, Failure, Message, State},
    ports::{Bridge, Heard, Inbound, Outcome, Spoken, TakenIn, Told},
    session::Session,
    time::Timestamp,
};
use async_trait::async_trait;

use crate::{
    db::Db,
    events::{self, append},
    messages::{self, bind_message, message_columns},
    scope::Scope,
    sessions::{self, bind_session, session_columns},
    statement::{read, run, statements, transaction},
    values::{read_id, word},
};

statements! {
    "message";
    /// Whoever comes here holds the session until the message is in: nobody takes it over in between.
    ENTER_SESSION = "bridge.enter_session", concat!("UPDATE sessions
        SET last_active_at = CASE WHEN last_active_at > $3 THEN last_active_at ELSE $3 END
        WHERE tenant_id = $1 AND umo = $2 AND state <> 'closed' RETURNING ", session_columns!());
    OPEN_SESSION = "bridge.open_session", concat!("INSERT INTO sessions (", session_columns!(), ")
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) ON CONFLICT DO NOTHING RETURNING ",
        session_columns!());
    TAKE_IN = "bridge.take_in", concat!("INSERT INTO messages (", message_columns!(),
            ", platform_id, delivery, delivery_start)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)
        ON CONFLICT DO NOTHING RETURNING id");
    FIND = "bridge.find", concat!("SELECT ", message_columns!(), ", delivery, delivery_start FROM messages
        WHERE tenant_id = $1 AND platform_id = $2");
    SESSION = "bridge.session", concat!("SELECT ", session_columns!(), " FROM sessions WHERE tenant_id = $1 AND id = $2");
    /// By the peer, for which there is an index; of an open session alone, `umo` has one.
    NEWEST_SESSION = "bridge.newest_session", concat!("SELECT ", session_columns!(), " FROM sessions
        WHERE tenant_id = $1 AND end_user = $2 AND umo = $3 ORDER BY id DESC LIMIT 1");
    /// A later start of the bot got a message again that an earlier one had left without an answer.
    TAKE_OVER = "bridge.take_over", "UPDATE messages SET delivery = $3, delivery_start = $4
        WHERE tenant_id = $1 AND id = $2 AND state = 'delivering' AND delivery_start < $4 RETURNING id";
    END = "bridge.end", "UPDATE messages SET state = $3, failure_code = $4, failure_detail = $5, updated_at = $6
        WHERE tenant_id = $1 AND id = $2 AND state = 'delivering' RETURNING id";
    /// The message that it answers has no other answer yet, or it stands for itself.
    SAY = "bridge.say", concat!("INSERT INTO messages (", message_columns!(), ", platform_id)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)
        ON CONFLICT DO NOTHING RETURNING id");
    SAID_BEFORE = "bridge.said_before", "SELECT id FROM messages WHERE tenant_id = $1 AND platform_id = $2";
    /// Holds the session, as [`ENTER_SESSION`] does.
    TOUCH_SESSION = "bridge.touch_session", "UPDATE sessions
        SET last_active_at = CASE WHEN last_active_at > $3 THEN last_active_at ELSE $3 END
        WHERE tenant_id = $1 AND id = $2";
    /// Of a session that is held: what is said now comes after its newest message, whatever the clocks of those who say
    /// it. And the time at which it is, by the one clock that says how long a bot has been at a message.
    NEWEST = "bridge.newest", "SELECT micros, (
            SELECT id FROM messages WHERE tenant_id = $1 AND session_id = $2 ORDER BY id DESC LIMIT 1
        ) AS newest FROM database_clock";
}

/// The messages of IM channels of one tenant.
pub struct BridgeRows {
    db: Db,
    tenant: TenantId,
}

/// A message with who is to answer it.
#[derive(sqlx::FromRow)]
struct Row {
    #[sqlx(flatten)]
    message: messages::Row,
    delivery: Option<String>,
    delivery_start: Option<i64>,
}

impl BridgeRows {
    /// Of `tenant`.
    #[must_use]
    pub fn new(db: &Db, tenant: &TenantId) -> Self {
        Self { db: db.clone(), tenant: tenant.clone() }
    }

    /// Refuses what nobody can mean.
    fn check(&self, inbound: &Inbound) -> Result<()> {
        let Inbound { message, session, .. } = inbound;
        let ours = message.tenant_id == self.tenant && session.tenant_id == self.tenant;
        if ours && session.umo.is_some() && message.reply_to.is_none() && message.usage.is_none() {
            return Ok(());
        }
        Err(Error::internal(format!("{} cannot come from an IM channel", message.id)))
    }
}

/// What was told before of the same message: runs within a transaction.
macro_rules! met {
    ($tenant:expr, $row:expr, $inbound:expr, $connection:expr) => {{
        let row: Row = $row;
        let mine = row.delivery.as_deref() == Some($inbound.delivery.as_str());
        let start = row.delivery_start.unwrap_or(i64::MAX);
        let message = row.message.read()?;
        let session =
            sqlx::query_as::<_, sessions::Row>(SESSION.sql).bind($tenant.as_str()).bind(message.session_id.as_str());
        let session = run(&SESSION, session.fetch_one(&mut *$connection)).await?.read()?;
        let is_theirs = mine || {
            let take_over = sqlx::query_scalar::<_, String>(TAKE_OVER.sql)
                .bind($tenant.as_str())
                .bind(message.id.as_str())
                .bind(&$inbound.delivery)
                .bind($inbound.start);
            start < $inbound.start && !run(&TAKE_OVER, take_over.fetch_all(&mut *$connection)).await?.is_empty()
        };
        let again = decide_again(session.state, message.state, &$inbound.arrival);
        let verdict = if is_theirs { again } else { Verdict::Drop };
        TakenIn { message, session, is_new: false, is_theirs, opened: false, verdict }
    }};
}

/// Stores what went out, whatever it answers. `None` where the same was told before: runs within a transaction.
macro_rules! say {
    ($said:expr, $told_id:expr, $connection:expr) => {{
        let said: &Message = $said;
        let say = bind_message!(sqlx::query_scalar::<_, String>(SAY.sql), said).bind($told_id);
        if run(&SAY, say.fetch_all(&mut *$connection)).await?.is_empty() {
            // Undoes the above: the same is being told at the same moment, or was it answered otherwise.
            return Err(Error::unavailable("storage", format!("{} met another one", said.id)));
        }
    }};
}

/// What was told before under the same name: runs within a transaction.
macro_rules! said_before {
    ($tenant:expr, $told_id:expr, $connection:expr) => {{
        let before = sqlx::query_scalar::<_, String>(SAID_BEFORE.sql).bind($tenant.as_str()).bind($told_id);
        match run(&SAID_BEFORE, before.fetch_optional(&mut *$connection)).await? {
            Some(id) => Some(read_id("messages.id", &id, MessageId::parse)?),
            None => None,
        }
    }};
}

/// The database's time, and the newest message of a session that is held: runs within a transaction.
macro_rules! newest {
    ($tenant:expr, $session:expr, $connection:expr) => {{
        let ask = sqlx::query_as::<_, (i64, Option<String>)>(NEWEST.sql).bind($tenant.as_str()).bind($session.as_str());
        let (now, newest) = run(&NEWEST, ask.fetch_one(&mut *$connection)).await?;
        let newest = newest.map(|id| read_id("messages.id", &id, MessageId::parse)).transpose()?;
        (Timestamp::from_micros(now), newest)
    }};
}

/// Somebody says something in a session: holds its row from here on, and returns the newest message in it.
macro_rules! touch {
    ($tenant:expr, $session:expr, $now:expr, $connection:expr) => {{
        let touch = sqlx::query(TOUCH_SESSION.sql).bind($tenant.as_str()).bind($session.as_str()).bind($now.micros());
        run(&TOUCH_SESSION, touch.execute(&mut *$connection)).await?;
        newest!($tenant, $session, $connection).1
    }};
}

#[async_trait]
impl Bridge for BridgeRows {
    async fn take_in(&self, inbound: Inbound) -> Result<TakenIn> {
        self.check(&inbound)?;
        let Inbound { session: new, message: asked, platform_id, .. } = &inbound;
        let (umo, now) = (new.umo.as_deref(), new.created_at.micros());
        let (new_state, new_reason) = (word(&new.state)?, None::<String>);
        transaction!(&self.db, Scope::Tenant(&self.tenant), connection => {
            let mut opened = false;
            let mut entered = None::<Session>;
            // Twice, where somebody else opens it at the same moment.
            for _ in 0..2 {
                let enter = sqlx::query_as::<_, sessions::Row>(ENTER_SESSION.sql)
                    .bind(self.tenant.as_str())
                    .bind(umo)
                    .bind(now);
                if let Some(row) = run(&ENTER_SESSION, enter.fetch_all(&mut *connection)).await?.pop() {
                    entered = Some(row.read()?);
                    break;
                }
                // It may be told of once more after its session was closed: no other one is opened for it.
                let find = sqlx::query_as::<_, Row>(FIND.sql).bind(self.tenant.as_str()).bind(platform_id);
                if let Some(row) = run(&FIND, find.fetch_optional(&mut *connection)).await? {
                    return Ok(met!(self.tenant, row, inbound, connection));
                }
                let open = sqlx::query_as::<_, sessions::Row>(OPEN_SESSION.sql);
                let open = bind_session!(open, self.tenant, new, new_state, new_reason);
                let row = run(&OPEN_SESSION, open.fetch_all(&mut *connection)).await.map_err(|failed| failed.or_missing("tenant"))?.pop();
                if let Some(row) = row {
                    opened = true;
                    entered = Some(row.read()?);
                    break;
                }
            }
            let session = entered.ok_or_else(|| Error::unavailable("storage", "a session was closed as soon as it was opened"))?;
            let (verdict, state, failure) = decide(session.state, &inbound.arrival);
            let (updated_at, newest) = newest!(self.tenant, session.id, connection);
            let id = asked.id.clone().after(newest.as_ref());
            let message = Message { id, session_id: session.id.clone(), state, failure, updated_at, ..asked.clone() };
            let insert = bind_message!(sqlx::query_scalar::<_, String>(TAKE_IN.sql), &message)
                .bind(platform_id)
                .bind(&inbound.delivery)
                .bind(inbound.start);
            if !run(&TAKE_IN, insert.fetch_all(&mut *connection)).await?.is_empty() {
                let begun = opened.then(|| NewEvent::of_session(None, &session)).flatten();
                let told = begun.into_iter().chain([NewEvent::of_accepted(&message)]);
                let told: Vec<_> = told.map(|event| events::Told::new(&self.tenant, event)).collect();
                append!(connection, &told);
                return Ok(TakenIn { message, session, is_new: true, is_theirs: true, opened, verdict });
            }
            let find = sqlx::query_as::<_, Row>(FIND.sql).bind(self.tenant.as_str()).bind(platform_id);
            let row = run(&FIND, find.fetch_one(&mut *connection)).await?;
            Ok(met!(self.tenant, row, inbound, connection))
        })
    }

    async fn find(&self, platform_id: &str) -> Result<(Message, Session)> {
        let row = read!(&self.db, Scope::Tenant(&self.tenant), FIND, pool => sqlx::query_as::<_, Row>(FIND.sql)
            .bind(self.tenant.as_str())
            .bind(platform_id)
            .fetch_one(pool))?;
        let message = row.message.read()?;
        let session = read!(&self.db, Scope::Tenant(&self.tenant), SESSION, pool => sqlx::query_as::<_, sessions::Row>(SESSION.sql)
            .bind(self.tenant.as_str())
            .bind(message.session_id.as_str())
            .fetch_one(pool))?;
        Ok((message, session.read()?))
    }

    async fn told(&self, platform_id: &str, told_id: &str, told: Told, now: Timestamp) -> Result<Heard> {
        transaction!(&self.db, Scope::Tenant(&self.tenant), connection => {
            let find = sqlx::query_as::<_, Row>(FIND.sql).bind(self.tenant.as_str()).bind(platform_id);
            let asked = run(&FIND, find.fetch_one(&mut *connection)).await?.message.read()?;
            let (state, failure) = match &told {
                Told::Sent { .. } => (State::Done, None),
                Told::Ended(state, failure) => (*state, failure.as_ref()),
            };
            if let Told::Sent { .. } = &told {
                let said = said_before!(self.tenant, told_id, connection);
                if said.is_some() {
                    return Ok(Heard { said, session: asked.session_id, is_new: false });
                }
            }
            let end = sqlx::query_scalar::<_, String>(END.sql)
                .bind(self.tenant.as_str())
                .bind(asked.id.as_str())
                .bind(word(&state)?)
                .bind(failure.map(|failure: &Failure| failure.code.as_str()))
                .bind(failure.map(|failure: &Failure| failure.detail.as_str()))
                .bind(now.micros());
            let ended = !run(&END, end.fetch_all(&mut *connection)).await?.is_empty();
            let Told::Sent { id, text, usage } = &told else {
                let outcome = Outcome::NoReply(state, failure.cloned());
                let over = NewEvent::of_outcome(&asked.id, asked.session_id.clone(), &outcome, false, now);
                if let Some(event) = over.filter(|_| ended) {
                    append!(connection, &[events::Told::new(&self.tenant, event)]);
                }
                return Ok(Heard { said: None, session: asked.session_id, is_new: ended });
            };
            let newest = touch!(self.tenant, asked.session_id, now, connection);
            let reply = Message {
                id: id.clone().after(newest.as_ref()),
                author: Author::Bot,
                sender: None,
                text: text.clone(),
                attachments: Vec::new(),
                state: State::Done,
                // A further piece of an answer, or one that came after the message's end, stands for itself.
                reply_to: ended.then(|| asked.id.clone()),
                failure: None,
                usage: *usage,
                created_at: now,
                updated_at: now,
                ..asked
            };
            say!(&reply, told_id, connection);
            let said = Outcome::Reply(reply.clone());
            let event = match &reply.reply_to {
                Some(asked) => NewEvent::of_outcome(asked, reply.session_id.clone(), &said, false, now),
                None => Some(NewEvent::of_accepted(&reply)),
            };
            if let Some(event) = event {
                append!(connection, &[events::Told::new(&self.tenant, event)]);
            }
            Ok(Heard { said: Some(reply.id), session: reply.session_id, is_new: true })
        })
    }

    async fn newest_session(&self, end_user: &str, umo: &str) -> Result<Session> {
        let row = read!(&self.db, Scope::Tenant(&self.tenant), NEWEST_SESSION, pool => sqlx::query_as::<_, sessions::Row>(NEWEST_SESSION.sql)
            .bind(self.tenant.as_str())
            .bind(end_user)
            .bind(umo)
            .fetch_one(pool))?;
        row.read()
    }

    async fn spoken(&self, spoken: &Spoken, told_id: &str, now: Timestamp) -> Result<Heard> {
        transaction!(&self.db, Scope::Tenant(&self.tenant), connection => {
            let session = sqlx::query_as::<_, sessions::Row>(SESSION.sql).bind(self.tenant.as_str()).bind(spoken.session.as_str());
            let session: SessionId = run(&SESSION, session.fetch_one(&mut *connection)).await?.read()?.id;
            let said = said_before!(self.tenant, told_id, connection);
            if said.is_some() {
                return Ok(Heard { said, session, is_new: false });
            }
            let newest = touch!(self.tenant, session, now, connection);
            let said = Message {
                id: spoken.id.clone().after(newest.as_ref()),
                tenant_id: self.tenant.clone(),
                session_id: session.clone(),
                author: Author::Bot,
                sender: None,
                text: spoken.text.clone(),
                attachments: Vec::new(),
                state: State::Done,
                reply_to: None,
                failure: None,
                usage: None,
                created_at: now,
                updated_at: now,
            };
            say!(&said, told_id, connection);
            append!(connection, &[events::Told::new(&self.tenant, NewEvent::of_accepted(&said))]);
            Ok(Heard { said: Some(said.id), session, is_new: true })
        })
    }
}
