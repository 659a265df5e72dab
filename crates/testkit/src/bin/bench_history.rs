//! A long history to measure in: `bench_history --sqlite PATH | --postgres URL --tenant NAME --messages N` makes up N
//! messages of a tenant that is there and has none, and the search's index of them, and prints what may be asked for:
//! `{"bytes", "sessions", "messages", "cursors", "frequent", "unique"}`, lists as the API takes them. Nobody may use the
//! database meanwhile; to PostgreSQL, it comes as somebody who may do everything.
//!
//! What is written stands as if it had been said and answered in the last months: 100 messages in a session, 64 sessions
//! at the same time, half of them in Chinese. Rows go in without the indexes, which are made after them: ten million
//! would take an hour otherwise.

use std::{
    collections::{BTreeSet, HashMap},
    error::Error,
    fmt::Write as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use astrfleet_core::{
    id::{Ids, MessageId, SessionId, TenantId},
    ports::{Clock, NewSearchBlock, Rng, Store},
    search::{BLOCK_MESSAGES, bucketed, words},
    time::Timestamp,
};
use astrfleet_store::{Db, PgSettings};
use sqlx::{
    AssertSqlSafe, Connection as _, PgConnection, QueryBuilder, Sqlite, SqliteConnection, sqlite::SqliteConnectOptions,
};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Sessions in which something is said at the same time.
const AT_ONCE: u32 = 64;
const OF_SESSION: u32 = 100;
const WAVE: u32 = AT_ONCE * OF_SESSION;
/// A page of the API.
const PAGE: u32 = 50;
/// Between two messages.
const STEP: Duration = Duration::from_millis(2_500);
/// The newest message is so old: the platform indexes nothing by itself that is younger than an hour.
const AGE: Duration = Duration::from_hours(2);
/// Messages that no block of the index holds, as there are always some.
const UNINDEXED: u32 = 512;
/// How many of each thing that may be asked for are told.
const SAMPLE: u32 = 4_000;
/// One message of so many has a number in it that no other has.
const NUMBERED: u32 = 50;
/// Rows of one statement, where rows go in by statements.
const ROWS: u32 = 500;
/// Bytes that are sent at once.
const CHUNK_BYTES: usize = 1 << 20;

#[tokio::main]
async fn main() -> Outcome<()> {
    let arguments = arguments()?;
    let db = match &arguments.engine {
        Engine::Sqlite(path) => Db::open_sqlite(path).await?,
        Engine::Postgres(url) => Db::open_postgres(&url.clone().into(), &PgSettings::default()).await?,
    };
    let tenant = db.tenants().by_name(&arguments.tenant).await?.id;
    let mut history = History::new(tenant, arguments.messages);
    match &arguments.engine {
        Engine::Sqlite(path) => lite(path, &mut history).await?,
        Engine::Postgres(url) => postgres(url, &mut history).await?,
    }
    index(&db, &history).await?;
    db.close().await;
    let bytes = match &arguments.engine {
        Engine::Sqlite(path) => i64::try_from(std::fs::metadata(path)?.len())?,
        Engine::Postgres(url) => settled(url).await?,
    };
    println!("{}", history.told(bytes));
    Ok(())
}

struct Arguments {
    engine: Engine,
    tenant: String,
    messages: u32,
}

enum Engine {
    Sqlite(PathBuf),
    Postgres(String),
}

fn arguments() -> Outcome<Arguments> {
    let (mut engine, mut tenant, mut messages) = (None, None, None);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next().ok_or_else(|| format!("{word} wants a value"))?;
        match word.as_str() {
            "--sqlite" => engine = Some(Engine::Sqlite(value.into())),
            "--postgres" => engine = Some(Engine::Postgres(value)),
            "--tenant" => tenant = Some(value),
            "--messages" => messages = Some(value.parse()?),
            other => return Err(format!("unknown: {other}").into()),
        }
    }
    let engine = engine.ok_or("which database? --sqlite PATH or --postgres URL")?;
    let messages = messages.filter(|count| *count >= WAVE).ok_or_else(|| format!("--messages wants {WAVE} or more"))?;
    Ok(Arguments { engine, tenant: tenant.ok_or("whose? --tenant NAME")?, messages })
}

/// A clock that is turned by hand: ids have the time of what they name.
#[derive(Default)]
struct Dial(AtomicI64);

impl Clock for Dial {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.0.load(Relaxed))
    }
}

struct Random;

impl Rng for Random {
    fn fill(&self, bytes: &mut [u8]) {
        aws_lc_rs::rand::fill(bytes).unwrap_or_default();
    }
}

/// What is made up.
struct History {
    tenant: TenantId,
    messages: u32,
    begin: Timestamp,
    sessions: Vec<SessionId>,
    /// The first and the last messages of the index's blocks, by their number.
    edges: HashMap<u32, Option<MessageId>>,
    /// Messages that are told, by their number.
    sample: HashMap<u32, Option<MessageId>>,
}

/// One message.
struct Line<'a> {
    id: MessageId,
    session: &'a SessionId,
    author: &'static str,
    text: String,
    reply_to: Option<&'a MessageId>,
    at: Timestamp,
}

impl History {
    fn new(tenant: TenantId, messages: u32) -> Self {
        let begin = now().minus(AGE).minus(STEP * messages);
        let dial = Arc::new(Dial::default());
        let ids = Ids::new(Arc::clone(&dial) as _, Arc::new(Random));
        let session = |number: u32| {
            dial.0.store(at(begin, number / AT_ONCE * WAVE).micros(), Relaxed);
            ids.session()
        };
        let sessions = (0..messages.div_ceil(WAVE) * AT_ONCE).map(session).collect();
        let edges = blocks(messages).flat_map(|(first, last)| [(first, None), (last, None)]).collect();
        let sample = (0..SAMPLE).map(|number| (sampled(number, messages), None)).collect();
        Self { tenant, messages, begin, sessions, edges, sample }
    }

    /// Makes every message up, in the order in which they were said.
    async fn each(&mut self, mut take: impl AsyncFnMut(Line<'_>) -> Outcome<()>) -> Outcome<()> {
        let dial = Arc::new(Dial::default());
        let ids = Ids::new(Arc::clone(&dial) as _, Arc::new(Random));
        let mut last = None;
        for number in 0..self.messages {
            let moment = at(self.begin, number);
            dial.0.store(moment.micros(), Relaxed);
            let id = ids.message();
            for known in [&mut self.edges, &mut self.sample] {
                if let Some(known) = known.get_mut(&number) {
                    *known = Some(id.clone());
                }
            }
            let (author, reply_to) = if number.is_multiple_of(2) { ("user", None) } else { ("bot", last.as_ref()) };
            let session = &self.sessions[session_of(number) as usize];
            take(Line { id: id.clone(), session, author, text: text(number), reply_to, at: moment }).await?;
            last = Some(id);
        }
        Ok(())
    }

    /// What may be asked for.
    fn told(&self, bytes: i64) -> serde_json::Value {
        let numbers: Vec<u32> = (0..SAMPLE).map(|number| sampled(number, self.messages)).collect();
        let of_session = |number: &u32| self.sessions[session_of(*number) as usize].as_str();
        let message = |number: &u32| self.sample.get(number).and_then(Option::as_ref).map(MessageId::as_str);
        // A page behind a cursor is a whole one, and each sample another.
        let sessions = self.messages.div_ceil(WAVE) * AT_ONCE;
        let cursor = |number: u32| {
            let place = PAGE + below(mixed(number.into()), sessions - PAGE);
            self.sessions[place as usize].as_str()
        };
        let numbered = self.messages / NUMBERED;
        let unique = |number: u32| number_in(below(mixed(number.into()), numbered) * NUMBERED);
        serde_json::json!({
            "bytes": bytes,
            "sessions": numbers.iter().map(of_session).collect::<Vec<_>>(),
            "messages": numbers.iter().map(message).collect::<Vec<_>>(),
            "cursors": (0..SAMPLE).map(cursor).collect::<Vec<_>>(),
            "frequent": FREQUENT,
            "unique": (0..SAMPLE).map(unique).collect::<Vec<_>>(),
        })
    }
}

#[expect(clippy::disallowed_methods, reason = "the platform that is measured has the same clock")]
fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

fn at(begin: Timestamp, number: u32) -> Timestamp {
    begin.plus(STEP * number)
}

/// Questions and their answers follow each other; then comes the next session.
fn session_of(number: u32) -> u32 {
    number / WAVE * AT_ONCE + number / 2 % AT_ONCE
}

/// Where a message is in its session.
fn place_of(number: u32) -> u32 {
    number % WAVE / (2 * AT_ONCE) * 2 + number % 2
}

/// The first and the last message of each block. The first block takes what is left over, so that as many messages are in
/// none at the end of every history.
fn blocks(messages: u32) -> impl Iterator<Item = (u32, u32)> {
    let indexed = messages - UNINDEXED;
    let left = indexed % BLOCK_MESSAGES;
    let first = (left > 0).then(|| (0, left - 1));
    first.into_iter().chain((left..indexed).step_by(BLOCK_MESSAGES as usize).map(|at| (at, at + BLOCK_MESSAGES - 1)))
}

/// Which messages are told: such as have a page of older ones in their session.
fn sampled(number: u32, messages: u32) -> u32 {
    let mut seed = u64::from(number);
    loop {
        seed = mixed(seed);
        let number = below(seed, messages);
        if place_of(number) >= PAGE {
            return number;
        }
    }
}

/// `SplitMix64`: spreads whatever it is given, and is the same in every run.
fn mixed(seed: u64) -> u64 {
    let mut state = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ (state >> 31)
}

/// A number below `limit`, from one that is spread over all of its own.
fn below(spread: u64, limit: u32) -> u32 {
    u32::try_from(spread % u64::from(limit)).unwrap_or_default()
}

/// Of one message in twenty, in each of the languages.
const FREQUENT: [&str; 2] = ["refund", "退款"];
/// Different words of a language; most are rare.
const VOCABULARY: u32 = 10_000;
const SYLLABLES: [&str; 20] = [
    "ba", "be", "do", "da", "fi", "go", "ha", "ki", "ka", "lo", "le", "mi", "na", "no", "pa", "ro", "sa", "ti", "tu",
    "we",
];

fn is_chinese(number: u32) -> bool {
    number / 2 % 2 == 1
}

/// The words of a message, the same whenever they are asked for.
fn text(number: u32) -> String {
    let mut text = String::new();
    let mut seed = u64::from(number);
    let mut any = || {
        seed = mixed(seed);
        below(seed, VOCABULARY)
    };
    let chinese = is_chinese(number);
    for place in 0..8 {
        // A product of evenly spread numbers is small more often than not, as frequent words are.
        let word = any() * any() / VOCABULARY * any() / VOCABULARY;
        if chinese {
            text.extend([0x4e00 + word / 40 * 3, 0x5a00 + word % 40 * 7].map(character));
            text.push_str(if place == 4 { "，" } else { "" });
        } else {
            text.extend([word % 20, word / 20 % 20, word / 400 % 20, word / 8_000].map(syllable));
            text.push(' ');
        }
    }
    if [4, 6].contains(&(number % 20)) {
        text.push_str(FREQUENT[usize::from(chinese)]);
    }
    if number.is_multiple_of(NUMBERED) {
        let _ = write!(text, " {}", number_in(number));
    }
    text
}

fn character(code: u32) -> char {
    char::from_u32(code).unwrap_or('字')
}

fn syllable(number: u32) -> &'static str {
    SYLLABLES[number as usize % SYLLABLES.len()]
}

/// What is said in this message alone.
fn number_in(number: u32) -> String {
    let what = if is_chinese(number) { "订单" } else { "order" };
    format!("{what} {number:010}")
}

const COLUMNS_OF_SESSION: &str =
    "tenant_id, id, end_user, channel, state, close_reason, metadata, generation, created_at, last_active_at, version";
const COLUMNS_OF_MESSAGE: &str =
    "tenant_id, id, session_id, author, body, attachments, state, reply_to, created_at, updated_at";

/// In one transaction, so that PostgreSQL knows rows for visible as soon as they are there, and no vacuum has to write all
/// of them again.
async fn postgres(url: &str, history: &mut History) -> Outcome<()> {
    let mut connection = PgConnection::connect(url).await?;
    run(&mut connection, "BEGIN; SET LOCAL maintenance_work_mem = '256MB'; TRUNCATE sessions, messages").await?;
    let constraints: Vec<(String, String)> = sqlx::query_as(
        "SELECT format('ALTER TABLE messages DROP CONSTRAINT %I', conname),
            format('ALTER TABLE messages ADD CONSTRAINT %I %s', conname, pg_get_constraintdef(oid))
        FROM pg_constraint WHERE conrelid = 'messages'::regclass AND contype IN ('p', 'u', 'f')",
    )
    .fetch_all(&mut connection)
    .await?;
    let indexes: Vec<(String, String)> = sqlx::query_as(
        "SELECT format('DROP INDEX %s', indexrelid::regclass),
            replace(pg_get_indexdef(indexrelid), ' ON ONLY ', ' ON ') FROM pg_index
        WHERE indrelid = 'messages'::regclass AND NOT EXISTS (
            SELECT 1 FROM pg_constraint WHERE conrelid = indrelid AND conindid = indexrelid
        )",
    )
    .fetch_all(&mut connection)
    .await?;
    for (drop, _) in constraints.iter().chain(&indexes) {
        run(&mut connection, drop).await?;
    }

    let mut rows = String::new();
    for (number, id) in (0..).zip(&history.sessions) {
        let (tenant, moment) = (&history.tenant, at(history.begin, number / AT_ONCE * WAVE).micros());
        writeln!(rows, "{tenant}\t{id}\tuser-{number}\tapi\tclosed\tidle\t{{}}\t1\t{moment}\t{moment}\t1")?;
    }
    let copy = format!("COPY sessions ({COLUMNS_OF_SESSION}) FROM STDIN (FREEZE)");
    let mut sink = connection.copy_in_raw(&copy).await?;
    sink.send(rows.into_bytes()).await?;
    sink.finish().await?;

    let copy = format!("COPY messages ({COLUMNS_OF_MESSAGE}) FROM STDIN");
    let mut sink = connection.copy_in_raw(&copy).await?;
    let (mut rows, tenant) = (String::new(), history.tenant.clone());
    let each = history.each(async |line: Line<'_>| {
        let Line { id, session, author, text, reply_to, at } = line;
        let (reply_to, moment) = (reply_to.map_or("\\N", MessageId::as_str), at.micros());
        writeln!(rows, "{tenant}\t{id}\t{session}\t{author}\t{text}\t[]\tdone\t{reply_to}\t{moment}\t{moment}")?;
        if rows.len() >= CHUNK_BYTES {
            sink.send(std::mem::take(&mut rows).into_bytes()).await?;
        }
        Ok(())
    });
    each.await?;
    sink.send(rows.into_bytes()).await?;
    sink.finish().await?;

    for (_, make) in indexes.iter().chain(&constraints) {
        run(&mut connection, make).await?;
    }
    run(&mut connection, "COMMIT").await?;
    connection.close().await?;
    Ok(())
}

/// Only with what the server says of its own tables, or what we wrote ourselves.
async fn run(connection: &mut PgConnection, statement: &str) -> Outcome<()> {
    sqlx::raw_sql(AssertSqlSafe(statement.to_owned())).execute(connection).await?;
    Ok(())
}

/// Does what the server would do by itself within minutes, and says how large everything is.
async fn settled(url: &str) -> Outcome<i64> {
    let mut connection = PgConnection::connect(url).await?;
    for statement in ["VACUUM (ANALYZE)", "CHECKPOINT"] {
        run(&mut connection, statement).await?;
    }
    let bytes = sqlx::query_scalar("SELECT pg_database_size(current_database())").fetch_one(&mut connection).await?;
    connection.close().await?;
    Ok(bytes)
}

async fn lite(path: &Path, history: &mut History) -> Outcome<()> {
    let options = SqliteConnectOptions::new().filename(path).foreign_keys(false).pragma("synchronous", "off");
    let mut connection = SqliteConnection::connect_with(&options).await?;
    let mut transaction = connection.begin().await?;
    let tenant = history.tenant.to_string();
    for (chunk, ids) in (0..).step_by(ROWS as usize).zip(history.sessions.chunks(ROWS as usize)) {
        let mut insert = QueryBuilder::<Sqlite>::new(format!("INSERT INTO sessions ({COLUMNS_OF_SESSION}) "));
        insert.push_values((chunk..).zip(ids), |mut row, (number, id): (u32, _)| {
            let moment = at(history.begin, number / AT_ONCE * WAVE).micros();
            row.push_bind(&tenant).push_bind(id.as_str()).push_bind(format!("user-{number}"));
            row.push("'api', 'closed', 'idle', '{}', 1").push_bind(moment).push_bind(moment).push("1");
        });
        insert.build().execute(&mut *transaction).await?;
    }
    let empty = || QueryBuilder::<Sqlite>::new(format!("INSERT INTO messages ({COLUMNS_OF_MESSAGE}) VALUES "));
    let (mut insert, mut rows) = (empty(), 0);
    let each = history.each(async |line: Line<'_>| {
        let Line { id, session, author, text, reply_to, at } = line;
        insert.push(if rows == 0 { "(" } else { ", (" });
        let mut row = insert.separated(", ");
        row.push_bind(tenant.clone()).push_bind(id.to_string()).push_bind(session.to_string()).push_bind(author);
        row.push_bind(text).push("'[]', 'done'").push_bind(reply_to.map(MessageId::to_string));
        row.push_bind(at.micros()).push_bind(at.micros());
        insert.push(")");
        rows += 1;
        if rows == ROWS {
            std::mem::replace(&mut insert, empty()).build().execute(&mut *transaction).await?;
            rows = 0;
        }
        Ok(())
    });
    each.await?;
    if rows > 0 {
        insert.build().execute(&mut *transaction).await?;
    }
    transaction.commit().await?;
    connection.close().await?;
    Ok(())
}

/// The words of all blocks, as the platform would write them in the background over some days.
async fn index(db: &Db, history: &History) -> Outcome<()> {
    let rows = db.search(&history.tenant);
    for (first, last) in blocks(history.messages) {
        let known: BTreeSet<String> =
            (first..=last).flat_map(|number| words(&text(number)).collect::<Vec<_>>()).collect();
        let edge = |number| history.edges.get(&number).cloned().flatten().ok_or("a block without an edge");
        let block = NewSearchBlock { first: edge(first)?, last: edge(last)?, buckets: bucketed(&known) };
        if !rows.add(&block).await? {
            return Err("there is an index already".into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use astrfleet_core::search::Query;

    use super::*;

    #[test]
    fn sessions_take_turns_and_are_full() {
        let mut counts = HashMap::<u32, u32>::new();
        for number in 0..2 * WAVE {
            let place = counts.entry(session_of(number)).or_default();
            assert_eq!(place_of(number), *place, "message {number}");
            *place += 1;
        }
        assert_eq!(counts.len(), 2 * AT_ONCE as usize);
        assert!(counts.values().all(|count| *count == OF_SESSION));
    }

    #[test]
    fn blocks_follow_each_other_and_leave_the_newest_out() {
        for messages in [WAVE, 10_000, 10_240 + UNINDEXED] {
            let mut next = 0;
            for (first, last) in blocks(messages) {
                assert!(first == next && last - first < BLOCK_MESSAGES);
                next = last + 1;
            }
            assert_eq!(next, messages - UNINDEXED);
        }
    }

    #[test]
    fn what_was_said_once_is_found_once() {
        let messages = 10_000;
        for number in [0, 50, 100, 9_950] {
            let query = Query::parse(&number_in(number)).unwrap();
            let found: Vec<u32> = (0..messages).filter(|number| query.hits(&text(*number)).is_some()).collect();
            assert_eq!(found, [number]);
        }
        for word in FREQUENT {
            let query = Query::parse(word).unwrap();
            assert!((0..messages).filter(|number| query.hits(&text(*number)).is_some()).count() >= 500, "{word}");
        }
    }
}
