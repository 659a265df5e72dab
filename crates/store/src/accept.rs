//! How messages become durable: many in one statement.
//!
//! One task takes whatever waits and writes it as one `INSERT`, so that 64 messages share one way to the disk. Each of
//! them has an outcome of its own nevertheless: what one of them does wrong must not fail its neighbours, and nothing
//! is acknowledged that is not on the disk. Whoever holds one tenant's events holds up nobody else: see `aside`.

use std::{
    collections::HashSet,
    sync::{Arc, LazyLock},
    time::Duration,
};

use astrfleet_core::{
    Error, Result,
    event::{Kind, NewEvent},
    id::{MessageId, SessionId, TenantId},
    message::Message,
    ports::{Accepted, NewMessage},
};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::{
    sync::{Mutex, Notify, mpsc, oneshot},
    task::JoinHandle,
    time::{Instant, timeout},
};

use crate::{
    aside::Aside,
    db::{Db, Engine},
    dialect,
    events::{Told, UNNUMBERED_INSERT_TEXTS, append_with},
    failed::Failed,
    messages::attachments_json,
    moments::Moments,
    postgres::Servers,
    rows::{MAX_ROWS, Texts, many, unnumbered_texts, values},
    scope::{self, SETTING, Scope},
    statement::{BEGIN, COMMIT, read, run, statements},
    values::{hex, storable, word},
};

statements! {
    "message";
    /// Its rows follow: see [`ACCEPT_TEXTS`].
    ACCEPT = "message.accept", "INSERT INTO messages (tenant_id, id, session_id, author, body, attachments, state,
        failure_code, failure_detail, created_at, updated_at, idempotency_key, idempotency_hash)";
    /// What a message that was not inserted met with.
    FIND_ACCEPTED = "message.find_accepted", "SELECT id, idempotency_hash FROM messages
        WHERE tenant_id = $1 AND (id = $2 OR (session_id = $3 AND idempotency_key = $4))";
}
const COLUMNS: usize = 13;
const TAIL: &str = "ON CONFLICT DO NOTHING RETURNING id";
static ACCEPT_TEXTS: Texts = LazyLock::new(|| unnumbered_texts(ACCEPT.sql, COLUMNS, TAIL));
/// The same for PostgreSQL, with their events, which elsewhere are statements of their own: one way to the server and
/// back. The statement itself says whose rows they are, which saves the `BEGIN` and the `COMMIT`: not before the list is
/// set is there any row, and each row is compared with the list after that.
static SCOPED_ACCEPT_TEXTS: Texts = LazyLock::new(|| many(scoped_text));

fn scoped_text(rows: usize) -> String {
    let columns = ACCEPT.sql.split_once('(').map_or("", |(_, columns)| columns);
    let (insert, values, list) = (ACCEPT.sql, values(COLUMNS, rows), rows * COLUMNS + 1);
    let (accepted, blocked) = (Kind::MessageAccepted.name(), Kind::MessageBlocked.name());
    format!(
        "WITH said ({columns} AS (VALUES {values}),
        inserted AS (
            {insert} SELECT * FROM said WHERE (SELECT set_config('{SETTING}', ${list}, true)) IS NOT NULL
            ON CONFLICT DO NOTHING RETURNING tenant_id, id, session_id, state, created_at
        ),
        heads AS (
            INSERT INTO event_heads (tenant_id, seq)
            SELECT tenant_id, COUNT(*) FROM inserted GROUP BY tenant_id ORDER BY tenant_id
            ON CONFLICT (tenant_id) DO UPDATE SET seq = event_heads.seq + excluded.seq RETURNING tenant_id, seq
        ),
        told AS (
            INSERT INTO events (tenant_id, seq, session_id, message_id, kind, data, created_at)
            SELECT inserted.tenant_id,
                heads.seq + 1 - ROW_NUMBER() OVER (PARTITION BY inserted.tenant_id ORDER BY inserted.id DESC),
                session_id, id, CASE WHEN state = 'blocked' THEN '{blocked}' ELSE '{accepted}' END,
                '{{\"message_id\":\"' || id || '\"}}', created_at
            FROM inserted JOIN heads ON heads.tenant_id = inserted.tenant_id
        )
        SELECT id FROM inserted"
    )
}

/// The texts for one message, for [`crate::texts`]: SQLite's, and PostgreSQL's own.
pub(crate) fn texts_of_one() -> [(&'static str, String); 2] {
    [(ACCEPT.name, ACCEPT_TEXTS[0].to_string()), ("message.accept (PostgreSQL)", SCOPED_ACCEPT_TEXTS[0].to_string())]
}

/// Not declared: there is nothing to run.
const CONNECT: crate::statement::Statement =
    crate::statement::Statement { name: "message.connect", what: "database", sql: "" };
const WRITE: crate::statement::Statement =
    crate::statement::Statement { name: "message.accept", what: "message", sql: "" };

/// How long a statement waits for a row that somebody else holds. Whoever tells of something holds their tenant's head for
/// as long as a `COMMIT` takes, some milliseconds: whoever holds it for longer than this stands still, or their disk does.
const LOCK_WAIT: Duration = Duration::from_millis(250);
/// How long a tenant whose head was found held is kept apart from the others.
const HELD_FOR: Duration = Duration::from_secs(2);
/// Places to remember such tenants in; who shares one with them is written a little later.
const HELD_PLACES: usize = 4_096;

/// How many messages may wait to become durable, and how long.
#[derive(Clone, Debug)]
pub struct AcceptSettings {
    /// Messages that wait, at the most; more are refused.
    pub queue_max: usize,
    /// How long one waits, at the most. Also how long one statement may take.
    pub wait_max: Duration,
}

impl Default for AcceptSettings {
    fn default() -> Self {
        Self { queue_max: 1_024, wait_max: Duration::from_secs(15) }
    }
}

/// The way to the task.
#[derive(Clone)]
pub(crate) struct Accepts {
    queue: mpsc::Sender<Waiting>,
    wait_max: Duration,
    closing: Arc<Notify>,
    task: Arc<Mutex<Option<JoinHandle<()>>>>,
}

/// A message that waits.
pub(crate) struct Waiting {
    row: Row,
    answer: oneshot::Sender<Result<Written>>,
}

impl Waiting {
    pub(crate) fn tenant(&self) -> &TenantId {
        &self.row.message.tenant_id
    }

    /// Whoever left was told nothing: their message needs no place on the disk.
    pub(crate) fn is_wanted(&self) -> bool {
        !self.answer.is_closed()
    }

    pub(crate) fn refuse(self, error: Error) {
        self.answer.send(Err(error)).ok();
    }
}

/// What became of its row.
#[derive(Debug)]
enum Written {
    /// It is on the disk.
    Inserted,
    /// There was one like it.
    Met,
}

/// What is bound, in the order of the columns.
struct Row {
    message: Message,
    author: String,
    attachments: String,
    state: String,
    key: Option<String>,
    hash: Option<String>,
}

impl Accepts {
    /// Starts the task. It ends when all of the handles are gone, or with [`Accepts::close`]; what waits is written
    /// before.
    pub(crate) fn start(engine: Engine, settings: &AcceptSettings) -> Self {
        let (queue, waiting) = mpsc::channel(settings.queue_max.max(1));
        let closing = Arc::new(Notify::new());
        let writer = Writer::new(engine, settings.wait_max);
        let aside = Aside::start(writer.another(), settings.queue_max.max(1));
        let task = tokio::spawn(writer.run(waiting, Arc::clone(&closing), aside));
        Self { queue, wait_max: settings.wait_max, closing, task: Arc::new(Mutex::new(Some(task))) }
    }

    /// Takes no more, and waits until everything that was taken is written.
    pub(crate) async fn close(&self) {
        self.closing.notify_one();
        if let Some(task) = self.task.lock().await.take() {
            // It has ended either way; a panic in it was reported by the runtime.
            task.await.ok();
        }
    }

    async fn write(&self, row: Row) -> Result<Written> {
        let (answer, answered) = oneshot::channel();
        self.queue.try_send(Waiting { row, answer }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => {
                Error::TooMany { what: "messages at once", retry_after: Duration::from_secs(1) }
            }
            mpsc::error::TrySendError::Closed(_) => Error::unavailable("storage", "it is being closed"),
        })?;
        match timeout(self.wait_max, answered).await {
            Ok(Ok(written)) => written,
            Ok(Err(_)) => Err(Error::unavailable("storage", "it was closed before the message was written")),
            Err(_) => Err(Error::unavailable("storage", format!("no answer within {} s", self.wait_max.as_secs()))),
        }
    }
}

impl Db {
    /// Makes a message durable.
    pub(crate) async fn accept(&self, tenant: &TenantId, new: NewMessage) -> Result<Accepted> {
        let NewMessage { message, idempotency } = new;
        if message.tenant_id != *tenant || message.reply_to.is_some() || message.usage.is_some() {
            return Err(Error::internal(format!("{} cannot be accepted: it is an answer, or another's", message.id)));
        }
        let (id, session) = (message.id.clone(), message.session_id.clone());
        let (key, hash) = idempotency.map(|(key, hash)| (key, hex(&hash))).unzip();
        let row = Row {
            author: word(&message.author)?,
            attachments: attachments_json(&message)?,
            state: word(&message.state)?,
            key: key.clone(),
            hash: hash.clone(),
            message,
        };
        match self.accepts.write(row).await? {
            Written::Inserted => return Ok(Accepted::New),
            Written::Met => {}
        }
        let met = read!(self, Scope::Tenant(tenant), FIND_ACCEPTED, pool => sqlx::query_as::<_, (String, Option<String>)>(FIND_ACCEPTED.sql)
            .bind(tenant.as_str())
            .bind(id.as_str())
            .bind(session.as_str())
            .bind(key.as_deref())
            .fetch_all(pool))?;
        // The message itself is found where a statement was given again whose answer had been lost on the way.
        if met.iter().any(|(met, _)| met == id.as_str()) {
            return Ok(Accepted::New);
        }
        match met.first() {
            Some((met, met_hash)) if *met_hash == hash => Ok(Accepted::Before(MessageId::parse(met)?)),
            Some(_) => Err(Error::KeyReused),
            None => Err(Error::unavailable("storage", "what the message met with is gone")),
        }
    }

    /// What was accepted in a session under this key.
    pub(crate) async fn accepted_before(
        &self,
        tenant: &TenantId,
        session: &SessionId,
        key: &str,
        hash: &[u8; 32],
    ) -> Result<Option<MessageId>> {
        let met = read!(self, Scope::Tenant(tenant), FIND_ACCEPTED, pool => sqlx::query_as::<_, (String, Option<String>)>(FIND_ACCEPTED.sql)
            .bind(tenant.as_str())
            .bind("")
            .bind(session.as_str())
            .bind(key)
            .fetch_all(pool))?;
        match met.first() {
            Some((met, Some(met_hash))) if *met_hash == hex(hash) => MessageId::parse(met).map(Some),
            Some(_) => Err(Error::KeyReused),
            None => Ok(None),
        }
    }
}

/// What writes: the task, and [`Aside`].
pub(crate) struct Writer {
    engine: Engine,
    /// PostgreSQL alone: a connection beside the pool, so that nobody has to wait for a free one, and that costs no
    /// question before each use whether it is still there.
    connection: Option<PgConnection>,
    wait_max: Duration,
    /// Tenants whose head was found held.
    held: Arc<Moments>,
}

/// One statement for all of `$rows`.
macro_rules! insert {
    ($texts:expr, $scope:expr, $rows:expr, $executor:expr) => {{
        let text = Arc::clone(&$texts[$rows.len() - 1]);
        let mut query = sqlx::query_scalar::<_, String>(AssertSqlSafe(text));
        for Waiting { row, .. } in $rows {
            let failure = row.message.failure.as_ref();
            query = query
                .bind(row.message.tenant_id.as_str())
                .bind(row.message.id.as_str())
                .bind(row.message.session_id.as_str())
                .bind(&row.author)
                .bind(storable(&row.message.text))
                .bind(&row.attachments)
                .bind(&row.state)
                .bind(failure.map(|failure| failure.code.as_str()))
                .bind(failure.map(|failure| failure.detail.as_str()))
                .bind(row.message.created_at.micros())
                .bind(row.message.updated_at.micros())
                .bind(row.key.as_deref())
                .bind(row.hash.as_deref());
        }
        if let Some(scope) = $scope {
            query = query.bind(scope);
        }
        // All rows, to the end: only then has SQLite committed.
        run(&ACCEPT, query.fetch_all($executor)).await
    }};
}

impl Writer {
    fn new(engine: Engine, wait_max: Duration) -> Self {
        Self { engine, connection: None, wait_max, held: Arc::new(Moments::new(HELD_PLACES)) }
    }

    /// One that remembers the same, with a connection of its own.
    fn another(&self) -> Self {
        Self { engine: self.engine.clone(), connection: None, wait_max: self.wait_max, held: Arc::clone(&self.held) }
    }

    async fn run(mut self, mut queue: mpsc::Receiver<Waiting>, closing: Arc<Notify>, aside: Aside) {
        let mut batch = Vec::with_capacity(MAX_ROWS);
        let mut closed = false;
        loop {
            let taken = tokio::select! {
                () = closing.notified(), if !closed => {
                    closed = true;
                    queue.close();
                    continue;
                }
                taken = queue.recv_many(&mut batch, MAX_ROWS) => taken,
            };
            if taken == 0 {
                break;
            }
            let (apart, together) = std::mem::replace(&mut batch, Vec::with_capacity(MAX_ROWS))
                .into_iter()
                .partition(|waiting| self.held.within(waiting.tenant().as_str(), HELD_FOR));
            aside.put(apart);
            aside.put(self.write(together).await);
        }
        self.disconnect().await;
        aside.end().await;
    }

    /// Ends the connection; the next write makes another one.
    pub(crate) async fn disconnect(&mut self) {
        if let Some(connection) = self.connection.take() {
            connection.close().await.ok();
        }
    }

    /// Writes and answers all but those of tenants whose head somebody holds, which it returns: the others do not wait
    /// for them. Where a row is refused, the batch is halved until that row is alone. At most [`MAX_ROWS`].
    pub(crate) async fn write(&mut self, mut batch: Vec<Waiting>) -> Vec<Waiting> {
        batch.retain(Waiting::is_wanted);
        let (begun, mut parts, mut left) = (Instant::now(), vec![batch], Vec::new());
        while let Some(mut part) = parts.pop() {
            if part.is_empty() {
                continue;
            }
            let outcome = match timeout(self.wait_max, self.insert(&part)).await {
                Ok(outcome) => outcome,
                Err(_) => Err(Failed::new(&WRITE, sqlx::Error::PoolTimedOut)),
            };
            match outcome {
                Ok(inserted) => answer(part, &inserted.into_iter().collect()),
                Err(failed) if part.len() > 1 && failed.is_about_a_row() => {
                    let half = part.split_off(part.len() / 2);
                    parts.extend([half, part]);
                }
                // Not of a head, it is of a table: for that one waits as everybody does.
                Err(failed) if failed.is_locked() && begun.elapsed() < self.lock_timeout() => {
                    let held = self.find_held(&part).await;
                    let (theirs, others) =
                        part.into_iter().partition(|waiting| held.contains(waiting.tenant().as_str()));
                    left.extend::<Vec<_>>(theirs);
                    parts.push(others);
                }
                Err(failed) => {
                    let error = failed.or_missing("session");
                    for waiting in part {
                        waiting.refuse(again(&error));
                    }
                }
            }
        }
        left
    }

    fn lock_timeout(&self) -> Duration {
        match &self.engine {
            Engine::Pg(servers) => servers.lock_timeout(),
            Engine::Lite { .. } => Duration::ZERO,
        }
    }

    /// Whose heads somebody holds at this moment; none where the server does not say so.
    async fn find_held(&mut self, rows: &[Waiting]) -> HashSet<String> {
        let Some(connection) = &mut self.connection else { return HashSet::new() };
        let list = scope::list(rows.iter().map(Waiting::tenant));
        let held = match timeout(self.wait_max, dialect::held_heads(connection, &list)).await {
            Ok(Ok(held)) => held,
            Ok(Err(error)) => {
                tracing::debug!(%error, "it is not known whose events wait");
                self.connection = None;
                return HashSet::new();
            }
            Err(_) => {
                self.connection = None;
                return HashSet::new();
            }
        };
        for tenant in &held {
            if !self.held.within(tenant, HELD_FOR) {
                tracing::warn!(tenant_id = tenant, "somebody holds a tenant's events: its new messages wait for them");
            }
            self.held.note(tenant);
        }
        held.into_iter().collect()
    }

    /// The ids of the rows that were inserted.
    async fn insert(&mut self, rows: &[Waiting]) -> Result<Vec<String>, Failed> {
        let servers = match &self.engine {
            Engine::Lite { writer, .. } => {
                let mut begun = run(&BEGIN, writer.begin_with(dialect::SQLITE_BEGIN)).await?;
                let inserted = insert!(ACCEPT_TEXTS, None::<&str>, rows, &mut *begun)?;
                let events = told(rows, &inserted);
                if !events.is_empty() {
                    append_with!(begun, &events, UNNUMBERED_INSERT_TEXTS);
                }
                run(&COMMIT, begun.commit()).await?;
                return Ok(inserted);
            }
            Engine::Pg(servers) => servers,
        };
        let scope = scope::list(rows.iter().map(|waiting| &waiting.row.message.tenant_id));
        // Taken out: it is not used again when this is given up half-way.
        if let Some(mut connection) = self.connection.take() {
            match insert!(SCOPED_ACCEPT_TEXTS, Some(&scope), rows, &mut connection) {
                // The server was started anew since. Giving it the same rows again changes nothing where they had
                // arrived.
                Err(failed) if failed.is_disconnect() => {
                    tracing::info!("the connection for new messages was lost: making another one");
                }
                outcome => {
                    self.connection = Some(connection);
                    note(servers, rows);
                    return outcome;
                }
            }
        }
        let mut connection = servers.connect_with(&CONNECT, LOCK_WAIT).await?;
        let outcome = insert!(SCOPED_ACCEPT_TEXTS, Some(&scope), rows, &mut connection);
        if !outcome.as_ref().is_err_and(Failed::is_disconnect) {
            self.connection = Some(connection);
            note(servers, rows);
        }
        outcome
    }
}

/// What those that were inserted tell.
fn told(rows: &[Waiting], inserted: &[String]) -> Vec<Told> {
    let inserted: HashSet<&str> = inserted.iter().map(String::as_str).collect();
    let messages = rows.iter().map(|waiting| &waiting.row.message);
    let new = messages.filter(|message| inserted.contains(message.id.as_str()));
    new.map(|message| Told::new(&message.tenant_id, NewEvent::of_accepted(message))).collect()
}

/// Whoever has written reads what they wrote.
fn note(servers: &Servers, rows: &[Waiting]) {
    for waiting in rows {
        servers.wrote(waiting.row.message.tenant_id.as_str());
    }
}

fn answer(part: Vec<Waiting>, inserted: &HashSet<String>) {
    for waiting in part {
        let written = if inserted.contains(waiting.row.message.id.as_str()) { Written::Inserted } else { Written::Met };
        waiting.answer.send(Ok(written)).ok();
    }
}

/// The same error for one more of those who share it.
fn again(error: &Error) -> Error {
    match error {
        Error::NotFound { what } => Error::NotFound { what },
        Error::Unavailable { what, source } => Error::unavailable(what, source.to_string()),
        Error::Internal { source } => Error::internal(source.to_string()),
        other => Error::internal(other.to_string()),
    }
}
