//! Messages in the database: their way from accepted to answered, and how they are read. How a message becomes durable
//! in the first place is in `accept`.

use std::time::Duration;

use astrfleet_core::{
    Error, Result,
    event::NewEvent,
    id::{AttachmentId, MessageId, SessionId, TenantId},
    message::{Event, Exchange, Failure, Message, State, TokenUsage, next},
    page::{Page, PageRequest},
    ports::{Accepted, Delivery, Fence, Messages, NewMessage, Outcome},
    time::Timestamp,
};
use async_trait::async_trait;

use crate::{
    db::Db,
    events::{Told, append},
    scope::Scope,
    statement::{affected, read, read_stale, run, statements, transaction},
    values::{read_id, read_json, read_number, read_word, storable, word},
};

/// What [`Row`] reads.
macro_rules! message_columns {
    () => {
        "tenant_id, id, session_id, author, body, attachments, state, reply_to, failure_code, failure_detail, \
         prompt_tokens, completion_tokens, created_at, updated_at, sender"
    };
}
pub(crate) use message_columns;

/// A write that depends on a lease: `$lease` still under `$epoch`, in the same statement. Of whoever has no lease, nothing
/// is asked.
macro_rules! held {
    ($lease:literal, $epoch:literal) => {
        concat!(
            "(EXISTS (SELECT 1 FROM leases WHERE leases.name = ",
            $lease,
            " AND leases.epoch = ",
            $epoch,
            ") OR CAST(",
            $epoch,
            " AS BIGINT) IS NULL)"
        )
    };
}

/// Whether the bot answers in the session of a row of `messages`.
macro_rules! bot_answers {
    () => {
        "EXISTS (SELECT 1 FROM sessions WHERE sessions.tenant_id = $1 AND sessions.id = messages.session_id
            AND sessions.state = 'bot')"
    };
}

statements! {
    "message";
    GET = "message.get", concat!("SELECT ", message_columns!(), " FROM messages WHERE tenant_id = $1 AND id = $2");
    EXCHANGE = "message.exchange",
        concat!("SELECT ", message_columns!(), " FROM messages WHERE tenant_id = $1 AND (id = $2 OR reply_to = $2)");
    LIST = "message.list", concat!("SELECT ", message_columns!(), " FROM messages
        WHERE tenant_id = $1 AND session_id = $2 AND id < $3 ORDER BY id DESC LIMIT $4");
    SET_STATE = "message.set_state", concat!("UPDATE messages SET state = $4, updated_at = $5
        WHERE tenant_id = $1 AND id = $2 AND state = $3 AND ", held!("$6", "$7"));
    /// A message goes to the bot only where that answers in its session at this moment.
    CLAIM = "message.claim", concat!("UPDATE messages SET state = $4, delivery_start = $5, updated_at = $6
        WHERE tenant_id = $1 AND id = $2 AND state = $3 AND ", bot_answers!(), " AND ", held!("$7", "$8"));
    SET_BOT_RECORD = "message.set_bot_record", concat!("UPDATE messages SET bot_record = $3
        WHERE tenant_id = $1 AND id = $2 AND ", held!("$4", "$5"));
    SET_PARTIAL = "message.set_partial", concat!("UPDATE messages SET partial = $3
        WHERE tenant_id = $1 AND id = $2 AND state NOT IN ('done', 'failed', 'blocked') AND ", held!("$4", "$5"));
    /// Whether a lease still stands.
    IS_HELD = "message.is_held", "SELECT COUNT(*) FROM leases WHERE name = $1 AND epoch = $2";
    /// A whole answer stays. What was interrupted once and is found so again was not changed: its time to be repaired
    /// is over at some point. `$16` is 1 for an answer of the bot: whoever takes the session from it ends the message
    /// ([`END_OPEN`]), but for one that was stored at that very moment; that one is refused here.
    FINISH = "message.finish", concat!("UPDATE messages SET state = $3, failure_code = $4, failure_detail = $5,
            partial = CASE WHEN $3 = 'interrupted' THEN partial ELSE '' END,
            updated_at = CASE WHEN state = $3 THEN updated_at ELSE $6 END
        WHERE tenant_id = $1 AND id = $2 AND state IN ($7, $8, $9, $10, $11, $12, $13)
        AND NOT EXISTS (
            SELECT 1 FROM messages AS reply
            WHERE reply.tenant_id = $1 AND reply.reply_to = $2 AND reply.state <> 'interrupted'
        )
        AND (CAST($16 AS BIGINT) = 0 OR ", bot_answers!(), ")
        AND ", held!("$14", "$15"), " RETURNING session_id");
    /// The bot does not answer in a session any more: what waits for it, or for the end of its answer, is over. The row of the
    /// message decides who came first, the end of the answer or this.
    END_OPEN = "message.end_open", "UPDATE messages SET state = $3, failure_code = $4, failure_detail = $5, partial = '',
            updated_at = $6
        WHERE tenant_id = $1 AND session_id = $2 AND state IN ('accepted', 'delivering', 'streaming')
        AND author = 'user' AND platform_id IS NULL RETURNING id";
    /// What was cut off is the person's too: it is not repaired after they have answered, nor when they have handed back.
    LEAVE_CUT_OFF = "message.leave_cut_off", "UPDATE messages SET state = 'done', updated_at = $3
        WHERE tenant_id = $1 AND session_id = $2 AND state = 'interrupted' AND reply_to IS NULL AND updated_at > $4";
    /// What came of the answer before it broke off makes room for the whole one, which the bot knows by the same number.
    DROP_PARTIAL = "message.drop_partial", "DELETE FROM messages
        WHERE tenant_id = $1 AND reply_to = $2 AND state = 'interrupted' RETURNING bot_record";
    /// Nobody else answers the same message meanwhile: whoever ends one holds its row ([`FINISH`]). An answer may be in
    /// another month than its message, so that no index over both could say so.
    REPLY = "message.reply", concat!("INSERT INTO messages (", message_columns!(), ", bot_record)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)
        ON CONFLICT DO NOTHING");
    TOUCH_SESSION = "message.touch_session", "UPDATE sessions SET last_active_at = $3
        WHERE tenant_id = $1 AND id = $2 AND last_active_at < $3";
    DELIVERY = "message.delivery", concat!("SELECT ", message_columns!(), ", bot_record, delivery_start, partial,
            (SELECT end_user FROM sessions WHERE sessions.tenant_id = messages.tenant_id
             AND sessions.id = messages.session_id) AS end_user,
            (SELECT sessions.state FROM sessions WHERE sessions.tenant_id = messages.tenant_id
             AND sessions.id = messages.session_id) AS session_state,
            (SELECT MIN(recent.id) FROM (
                SELECT earlier.id, earlier.state FROM messages AS earlier WHERE earlier.tenant_id = $1
                AND earlier.session_id = (SELECT session_id FROM messages WHERE tenant_id = $1 AND id = $2)
                AND earlier.id < $2 ORDER BY earlier.id DESC LIMIT $3
            ) AS recent WHERE recent.state IN ('accepted', 'delivering', 'streaming')) AS behind
        FROM messages WHERE tenant_id = $1 AND id = $2");
    /// An answer belongs to the message that it answers, also where it came after the next question.
    LAST_BOT_RECORD = "message.last_bot_record", "SELECT bot_record FROM messages
        WHERE tenant_id = $1 AND session_id = $2 AND bot_record IS NOT NULL AND COALESCE(reply_to, id) < $3
        ORDER BY bot_record DESC LIMIT 1";
    OPEN = "message.open", "SELECT session_id, id, state FROM messages
        WHERE tenant_id = $1 AND state IN ('accepted', 'delivering', 'streaming') AND id > $2
        AND author = 'user' AND platform_id IS NULL ORDER BY id LIMIT $3";
    COUNT_WAITING = "message.count_waiting", "SELECT COUNT(*) FROM messages
        WHERE tenant_id = $1 AND state = 'accepted' AND state IN ('accepted', 'delivering', 'streaming')";
    COUNT_SINCE = "message.count_since", "SELECT COUNT(*) FROM messages
        WHERE tenant_id = $1 AND author = 'user' AND id >= $2";
}

/// Later than every id of a message: where a list that begins with the newest begins.
const AFTER_ALL: &str = "msg_g";
/// Longer than anybody looks for the rest of an answer that was cut off. What is older stays as it is.
pub(crate) const REPAIRED_FOR: Duration = Duration::from_hours(24);
/// As many as there are, so that one text serves every choice of them.
const STATES: usize = 7;

/// The messages of one tenant.
pub struct MessageRows {
    db: Db,
    tenant: TenantId,
    fence: Option<Fence>,
}

/// A row, as it stands.
#[derive(sqlx::FromRow)]
pub(crate) struct Row {
    tenant_id: String,
    id: String,
    session_id: String,
    author: String,
    body: String,
    attachments: String,
    state: String,
    reply_to: Option<String>,
    failure_code: Option<String>,
    failure_detail: Option<String>,
    prompt_tokens: Option<i64>,
    completion_tokens: Option<i64>,
    created_at: i64,
    updated_at: i64,
    sender: Option<String>,
}

impl Row {
    pub(crate) fn read(self) -> Result<Message> {
        let failure = self.failure_code.zip(self.failure_detail).map(|(code, detail)| Failure { code, detail });
        let usage = match self.prompt_tokens.zip(self.completion_tokens) {
            Some((prompt, completion)) => Some(TokenUsage {
                prompt_tokens: read_number("messages.prompt_tokens", prompt)?,
                completion_tokens: read_number("messages.completion_tokens", completion)?,
            }),
            None => None,
        };
        Ok(Message {
            id: read_id("messages.id", &self.id, MessageId::parse)?,
            tenant_id: read_id("messages.tenant_id", &self.tenant_id, TenantId::parse)?,
            session_id: read_id("messages.session_id", &self.session_id, SessionId::parse)?,
            author: read_word("messages.author", self.author)?,
            sender: self.sender.map(|sender| read_json("messages.sender", &sender)).transpose()?,
            text: self.body,
            attachments: read_json::<Vec<AttachmentId>>("messages.attachments", &self.attachments)?,
            state: read_word("messages.state", self.state)?,
            reply_to: self.reply_to.map(|id| read_id("messages.reply_to", &id, MessageId::parse)).transpose()?,
            failure,
            usage,
            created_at: Timestamp::from_micros(self.created_at),
            updated_at: Timestamp::from_micros(self.updated_at),
        })
    }
}

#[derive(sqlx::FromRow)]
struct DeliveryRow {
    #[sqlx(flatten)]
    message: Row,
    bot_record: Option<i64>,
    delivery_start: Option<i64>,
    partial: String,
    end_user: String,
    session_state: String,
    behind: Option<String>,
}

/// The list of an answer's attachments, as it stands in its column.
pub(crate) fn attachments_json(message: &Message) -> Result<String> {
    serde_json::to_string(&message.attachments).map_err(Error::internal)
}

/// In which states a message is looked for, one turn after the other, each as [`FINISH`] wants them; and whether its end
/// is then a repair: only the state that it was found in tells.
fn turns(from: &[State], outcome: &Outcome) -> Result<Vec<(bool, Vec<String>)>> {
    let whole = matches!(outcome, Outcome::Reply(reply) if reply.state == State::Done);
    let (cut_off, others): (Vec<State>, Vec<State>) =
        from.iter().partition(|state| whole && **state == State::Interrupted);
    let mut turns = Vec::new();
    for (repaired, states) in [(false, others), (true, cut_off)] {
        let Some(first) = states.first() else { continue };
        let words = (0..STATES).map(|index| word(states.get(index).unwrap_or(first))).collect::<Result<_>>()?;
        turns.push((repaired, words));
    }
    Ok(turns)
}

/// Ends what waits for the bot in a session in which it does not answer any more ([`astrfleet_core::message::without_bot`] says how), within the
/// transaction that says so of the session. Returns the messages that were open.
macro_rules! end_open {
    ($connection:ident, $session:expr, $state:expr, $failure:expr, $now:expr) => {{
        let (session, failure): (&astrfleet_core::session::Session, Option<&astrfleet_core::message::Failure>) =
            ($session, $failure);
        let now: astrfleet_core::time::Timestamp = $now;
        let end = sqlx::query_scalar::<_, String>($crate::messages::END_OPEN.sql)
            .bind(session.tenant_id.as_str())
            .bind(session.id.as_str())
            .bind($crate::values::word(&$state)?)
            .bind(failure.map(|failure| failure.code.as_str()))
            .bind(failure.map(|failure| failure.detail.as_str()))
            .bind(now.micros());
        let ended = run(&$crate::messages::END_OPEN, end.fetch_all(&mut *$connection)).await?;
        if $state == astrfleet_core::message::State::Done {
            let leave = sqlx::query($crate::messages::LEAVE_CUT_OFF.sql)
                .bind(session.tenant_id.as_str())
                .bind(session.id.as_str())
                .bind(now.micros())
                .bind(now.minus($crate::messages::REPAIRED_FOR).micros());
            run(&$crate::messages::LEAVE_CUT_OFF, leave.execute(&mut *$connection)).await?;
        }
        ended
            .iter()
            .map(|id| read_id("messages.id", id, astrfleet_core::id::MessageId::parse))
            .collect::<Result<Vec<_>>>()?
    }};
}
pub(crate) use end_open;

/// Binds [`message_columns!`] in their order.
macro_rules! bind_message {
    ($query:expr, $reply:expr) => {
        $query
            .bind($reply.tenant_id.as_str())
            .bind($reply.id.as_str())
            .bind($reply.session_id.as_str())
            .bind($crate::values::word(&$reply.author)?)
            .bind($crate::values::storable(&$reply.text))
            .bind($crate::messages::attachments_json($reply)?)
            .bind($crate::values::word(&$reply.state)?)
            .bind($reply.reply_to.as_ref().map(astrfleet_core::id::MessageId::as_str))
            .bind($reply.failure.as_ref().map(|failure| failure.code.as_str()))
            .bind($reply.failure.as_ref().map(|failure| failure.detail.as_str()))
            .bind($reply.usage.map(|usage| $crate::values::token_count(usage.prompt_tokens)))
            .bind($reply.usage.map(|usage| $crate::values::token_count(usage.completion_tokens)))
            .bind($reply.created_at.micros())
            .bind($reply.updated_at.micros())
            .bind($crate::messages::sender_json($reply)?)
    };
}
pub(crate) use bind_message;

/// Who wrote, as it stands in its column.
pub(crate) fn sender_json(message: &Message) -> Result<Option<String>> {
    message.sender.as_ref().map(serde_json::to_string).transpose().map_err(Error::internal)
}

impl MessageRows {
    /// Of `tenant`.
    #[must_use]
    pub fn new(db: &Db, tenant: &TenantId) -> Self {
        Self { db: db.clone(), tenant: tenant.clone(), fence: None }
    }

    /// Of `tenant`, for whoever holds a lease.
    #[must_use]
    pub fn fenced(db: &Db, tenant: &TenantId, fence: &Fence) -> Self {
        Self { fence: Some(fence.clone()), ..Self::new(db, tenant) }
    }

    fn lease(&self) -> Option<&str> {
        self.fence.as_ref().map(|fence| fence.lease.as_str())
    }

    fn epoch(&self) -> Option<i64> {
        self.fence.as_ref().map(|fence| fence.epoch)
    }

    /// Why a write changed nothing: [`Error::Stale`] where the lease that it depends on does not stand any more.
    async fn still_held(&self) -> Result<()> {
        let Some(fence) = &self.fence else { return Ok(()) };
        let held = read!(&self.db, Scope::Platform, IS_HELD, pool => sqlx::query_scalar::<_, i64>(IS_HELD.sql)
            .bind(&fence.lease)
            .bind(fence.epoch)
            .fetch_one(pool))?;
        if held == 1 { Ok(()) } else { Err(Error::Stale { what: "lease" }) }
    }

    /// Refuses outcomes that nobody can mean.
    fn check(&self, id: &MessageId, outcome: &Outcome) -> Result<()> {
        let right = match outcome {
            Outcome::Reply(reply) => {
                reply.reply_to.as_ref() == Some(id)
                    && reply.tenant_id == self.tenant
                    && matches!(reply.state, State::Done | State::Interrupted)
            }
            Outcome::NoReply(state, _) => state.is_final(),
        };
        if right { Ok(()) } else { Err(Error::internal(format!("an outcome that {id} cannot have"))) }
    }

    /// [`Error::NotFound`] where no row was changed.
    async fn changed(&self, rows: u64) -> Result<()> {
        if rows > 0 {
            return Ok(());
        }
        self.still_held().await?;
        Err(Error::NotFound { what: "message" })
    }
}

#[async_trait]
impl Messages for MessageRows {
    async fn accept(&self, new: NewMessage) -> Result<Accepted> {
        self.db.accept(&self.tenant, new).await
    }

    async fn accepted_before(&self, session: &SessionId, key: &str, hash: &[u8; 32]) -> Result<Option<MessageId>> {
        self.db.accepted_before(&self.tenant, session, key, hash).await
    }

    async fn get(&self, id: &MessageId) -> Result<Message> {
        read!(&self.db, Scope::Tenant(&self.tenant), GET, pool => sqlx::query_as::<_, Row>(GET.sql)
            .bind(self.tenant.as_str())
            .bind(id.as_str())
            .fetch_one(pool))?
        .read()
    }

    async fn exchange(&self, id: &MessageId) -> Result<Exchange> {
        let rows = read!(&self.db, Scope::Tenant(&self.tenant), EXCHANGE, pool => sqlx::query_as::<_, Row>(EXCHANGE.sql)
            .bind(self.tenant.as_str())
            .bind(id.as_str())
            .fetch_all(pool))?;
        let (mut message, mut reply) = (None, None);
        for row in rows {
            let read = row.read()?;
            if read.id == *id {
                message = Some(read);
            } else {
                reply = Some(read);
            }
        }
        let message = message.ok_or(Error::NotFound { what: "message" })?;
        Ok(Exchange { message, reply })
    }

    async fn list(&self, session: &SessionId, page: &PageRequest) -> Result<Page<Message>> {
        let messages =
            read_stale!(&self.db, Scope::Tenant(&self.tenant), LIST, pool => sqlx::query_as::<_, Row>(LIST.sql)
            .bind(self.tenant.as_str())
            .bind(session.as_str())
            .bind(page.after.as_deref().unwrap_or(AFTER_ALL))
            .bind(i64::from(page.limit) + 1)
            .fetch_all(pool))?
            .into_iter()
            .map(Row::read)
            .collect::<Result<Vec<_>>>()?;
        let mut page = Page::from_rows(messages, page, |message| message.id.to_string());
        page.items.reverse();
        Ok(page)
    }

    async fn set_state(&self, id: &MessageId, from: State, to: State, now: Timestamp) -> Result<bool> {
        let (from, to) = (word(&from)?, word(&to)?);
        let done = affected!(
            &self.db,
            Scope::Tenant(&self.tenant),
            SET_STATE,
            sqlx::query(SET_STATE.sql)
                .bind(self.tenant.as_str())
                .bind(id.as_str())
                .bind(&from)
                .bind(&to)
                .bind(now.micros())
                .bind(self.lease())
                .bind(self.epoch())
        )?;
        if done == 0 {
            self.still_held().await?;
        }
        Ok(done == 1)
    }

    async fn claim(&self, id: &MessageId, start: i64, now: Timestamp) -> Result<bool> {
        let (from, to) = (word(&State::Accepted)?, word(&next(State::Accepted, Event::Claimed)?)?);
        let claimed = affected!(
            &self.db,
            Scope::Tenant(&self.tenant),
            CLAIM,
            sqlx::query(CLAIM.sql)
                .bind(self.tenant.as_str())
                .bind(id.as_str())
                .bind(&from)
                .bind(&to)
                .bind(start)
                .bind(now.micros())
                .bind(self.lease())
                .bind(self.epoch())
        )?;
        if claimed == 0 {
            self.still_held().await?;
        }
        Ok(claimed == 1)
    }

    async fn set_bot_record(&self, id: &MessageId, record: i64) -> Result<()> {
        let rows = affected!(
            &self.db,
            Scope::Tenant(&self.tenant),
            SET_BOT_RECORD,
            sqlx::query(SET_BOT_RECORD.sql)
                .bind(self.tenant.as_str())
                .bind(id.as_str())
                .bind(record)
                .bind(self.lease())
                .bind(self.epoch())
        )?;
        self.changed(rows).await
    }

    async fn set_partial(&self, id: &MessageId, partial: &str) -> Result<bool> {
        let rows = affected!(
            &self.db,
            Scope::Tenant(&self.tenant),
            SET_PARTIAL,
            sqlx::query(SET_PARTIAL.sql)
                .bind(self.tenant.as_str())
                .bind(id.as_str())
                .bind(storable(partial))
                .bind(self.lease())
                .bind(self.epoch())
        )?;
        if rows == 0 {
            self.still_held().await?;
            self.get(id).await?;
        }
        Ok(rows > 0)
    }

    async fn finish(&self, id: &MessageId, from: &[State], outcome: Outcome, now: Timestamp) -> Result<bool> {
        self.check(id, &outcome)?;
        let turns = turns(from, &outcome)?;
        let (state, failure) = match &outcome {
            Outcome::Reply(reply) => (reply.state, None),
            Outcome::NoReply(state, failure) => (*state, failure.as_ref()),
        };
        let state = word(&state)?;
        let is_reply = i64::from(matches!(outcome, Outcome::Reply(_)));
        let finished = transaction!(&self.db, Scope::Tenant(&self.tenant), connection => {
            let mut found = None;
            for (repaired, states) in &turns {
                let mut finish = sqlx::query_scalar::<_, String>(FINISH.sql)
                    .bind(self.tenant.as_str())
                    .bind(id.as_str())
                    .bind(&state)
                    .bind(failure.map(|failure| failure.code.as_str()))
                    .bind(failure.map(|failure| storable(&failure.detail)))
                    .bind(now.micros());
                for state in states {
                    finish = finish.bind(state);
                }
                finish = finish.bind(self.lease()).bind(self.epoch()).bind(is_reply);
                if let Some(session) = run(&FINISH, finish.fetch_all(&mut *connection)).await?.pop() {
                    found = Some((session, *repaired));
                    break;
                }
            }
            let Some((session, repaired)) = found else { return Ok(false) };
            if let Outcome::Reply(reply) = &outcome {
                if reply.session_id.as_str() != session {
                    return Err(Error::internal(format!("the answer to {id} is in another session")));
                }
                let partial = sqlx::query_scalar::<_, Option<i64>>(DROP_PARTIAL.sql)
                    .bind(self.tenant.as_str())
                    .bind(id.as_str());
                let record = run(&DROP_PARTIAL, partial.fetch_all(&mut *connection)).await?.pop().flatten();
                let insert = bind_message!(sqlx::query(REPLY.sql), reply).bind(record);
                if run(&REPLY, insert.execute(&mut *connection)).await?.rows_affected() == 0 {
                    // Undoes the above.
                    return Err(Error::internal(format!("{id} has a whole answer, and was not done")));
                }
            }
            let touch = sqlx::query(TOUCH_SESSION.sql)
                .bind(self.tenant.as_str())
                .bind(&session)
                .bind(now.micros());
            run(&TOUCH_SESSION, touch.execute(&mut *connection)).await?;
            let session = read_id("messages.session_id", &session, SessionId::parse)?;
            if let Some(ended) = NewEvent::of_outcome(id, session, &outcome, repaired, now) {
                append!(connection, &[Told::new(&self.tenant, ended)]);
            }
            Ok(true)
        })?;
        if !finished {
            self.still_held().await?;
        }
        Ok(finished)
    }

    async fn delivery(&self, id: &MessageId) -> Result<Delivery> {
        let row = read!(&self.db, Scope::Tenant(&self.tenant), DELIVERY, pool => sqlx::query_as::<_, DeliveryRow>(DELIVERY.sql)
            .bind(self.tenant.as_str())
            .bind(id.as_str())
            .bind(i64::from(Delivery::LOOK_BACK))
            .fetch_one(pool))?;
        let behind = match row.behind {
            Some(id) => {
                let earlier = self.get(&read_id("messages.id", &id, MessageId::parse)?).await?;
                Some((earlier.id, earlier.state)).filter(|(_, state)| !state.is_final())
            }
            None => None,
        };
        Ok(Delivery {
            message: row.message.read()?,
            end_user: row.end_user,
            session_state: read_word("sessions.state", row.session_state)?,
            bot_record: row.bot_record,
            start: row.delivery_start,
            partial: row.partial,
            behind,
        })
    }

    async fn last_bot_record(&self, session: &SessionId, before: &MessageId) -> Result<i64> {
        let record = read!(&self.db, Scope::Tenant(&self.tenant), LAST_BOT_RECORD, pool => sqlx::query_scalar::<_, i64>(LAST_BOT_RECORD.sql)
            .bind(self.tenant.as_str())
            .bind(session.as_str())
            .bind(before.as_str())
            .fetch_optional(pool))?;
        Ok(record.unwrap_or(0))
    }

    async fn set_reply_record(&self, reply: &MessageId, record: i64) -> Result<()> {
        self.set_bot_record(reply, record).await
    }

    async fn open(&self, after: Option<&MessageId>, limit: u32) -> Result<Vec<(SessionId, MessageId, State)>> {
        let open = read!(&self.db, Scope::Tenant(&self.tenant), OPEN, pool => sqlx::query_as::<_, (String, String, String)>(OPEN.sql)
            .bind(self.tenant.as_str())
            .bind(after.map_or("", MessageId::as_str))
            .bind(i64::from(limit))
            .fetch_all(pool))?;
        let read = |(session, id, state): (String, String, String)| {
            Ok((
                read_id("messages.session_id", &session, SessionId::parse)?,
                read_id("messages.id", &id, MessageId::parse)?,
                read_word("messages.state", state)?,
            ))
        };
        open.into_iter().map(read).collect()
    }

    async fn count_waiting(&self) -> Result<u64> {
        let count = read!(&self.db, Scope::Tenant(&self.tenant), COUNT_WAITING, pool => sqlx::query_scalar::<_, i64>(COUNT_WAITING.sql)
            .bind(self.tenant.as_str())
            .fetch_one(pool))?;
        read_number("messages.count", count)
    }

    async fn count_since(&self, since: Timestamp) -> Result<u64> {
        let count = read!(&self.db, Scope::Tenant(&self.tenant), COUNT_SINCE, pool => sqlx::query_scalar::<_, i64>(COUNT_SINCE.sql)
            .bind(self.tenant.as_str())
            .bind(MessageId::edge(since))
            .fetch_one(pool))?;
        read_number("messages.count", count)
    }
}
