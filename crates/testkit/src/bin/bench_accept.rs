//! How many messages a second become durable: `bench_accept --sqlite PATH | --postgres URL [--clients N] [--seconds S]`
//! prints `{"accepts_per_s": …}`. With `--raw` (SQLite alone) the same row is written with the same durability one by
//! one instead; with `--pgbench` (PostgreSQL alone) nothing is measured, and a script for `pgbench` is printed that
//! writes the same row; with `--count` nothing is measured, and `{"messages": …}` says how many there are. The database
//! may have been used before.

use std::{
    error::Error,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use astrfleet_core::{
    id::Ids,
    message::{Author, Message, State},
    ports::{Accepted, Clock, NewMessage, Rng, Store},
    session::Session,
    time::Timestamp,
};
use astrfleet_store::{Db, PgSettings};
use astrfleet_testkit::contract::{sessions, store::Make};
use sqlx::{
    PgPool, SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// What is written besides the ids: as long as what people write.
const TEXT: &str = "Hello, my order 4711 of last Tuesday has not come yet. The tracking page says that it left the \
                    warehouse on Wednesday, and nothing since. Could you please find out where it is?";

const INSERT: &str = "INSERT INTO messages (tenant_id, id, session_id, author, body, attachments, state, failure_code,
    failure_detail, created_at, updated_at, idempotency_key, idempotency_hash)
    VALUES ($1, $2, $3, 'user', $4, '[]', 'accepted', NULL, NULL, $5, $5, NULL, NULL)";

struct Arguments {
    engine: Engine,
    clients: usize,
    seconds: u64,
    mode: Mode,
}

enum Engine {
    Sqlite(PathBuf),
    Postgres(String),
}

enum Mode {
    Store,
    Raw,
    Pgbench,
    Count,
}

fn arguments() -> Outcome<Arguments> {
    let (mut engine, mut clients, mut seconds, mut mode) = (None, 64, 5, Mode::Store);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} wants a value"));
        match word.as_str() {
            "--sqlite" => engine = Some(Engine::Sqlite(value()?.into())),
            "--postgres" => engine = Some(Engine::Postgres(value()?)),
            "--clients" => clients = value()?.parse()?,
            "--seconds" => seconds = value()?.parse()?,
            "--raw" => mode = Mode::Raw,
            "--pgbench" => mode = Mode::Pgbench,
            "--count" => mode = Mode::Count,
            other => return Err(format!("unknown: {other}").into()),
        }
    }
    let engine = engine.ok_or("which database? --sqlite PATH or --postgres URL")?;
    Ok(Arguments { engine, clients, seconds, mode })
}

/// A measurement has no clock passed in.
struct Now;

impl Clock for Now {
    #[expect(clippy::disallowed_methods, reason = "the ids of a second run must differ from those of the first")]
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp::from_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
    }

    fn elapsed(&self) -> Duration {
        static BEGAN: std::sync::LazyLock<std::time::Instant> = std::sync::LazyLock::new(std::time::Instant::now);
        BEGAN.elapsed()
    }
}

struct Random;

impl Rng for Random {
    fn fill(&self, bytes: &mut [u8]) {
        aws_lc_rs::rand::fill(bytes).unwrap_or_default();
    }
}

#[tokio::main]
async fn main() -> Outcome<()> {
    let Arguments { engine, clients, seconds, mode } = arguments()?;
    if let Mode::Count = mode {
        println!("{}", serde_json::json!({ "messages": count(&engine).await? }));
        return Ok(());
    }
    let db = match &engine {
        Engine::Sqlite(path) => Db::open_sqlite(path).await?,
        Engine::Postgres(url) => Db::open_postgres(&url.clone().into(), &PgSettings::default()).await?,
    };
    db.migrate_up(Now.now()).await?;
    let make = Make { ids: Ids::new(Arc::new(Now), Arc::new(Random)) };
    let (mut tenant, instance) = make.tenant("bench");
    tenant.name = format!("bench-{}", &tenant.id.as_str()[28..]);
    tenant.email = format!("{}@tenants.example", tenant.name);
    db.tenants().insert(&tenant, &instance, None).await?;
    let session = sessions::session(&make, &tenant.id, "ada");
    db.sessions(&tenant.id).insert(&session).await?;

    let duration = Duration::from_secs(seconds);
    let rate = match (mode, &engine) {
        (Mode::Store, _) => through_the_store(&db, Arc::new(make), session, clients, duration).await?,
        (Mode::Raw, Engine::Sqlite(path)) => raw(path, Arc::new(make), session, clients, duration).await?,
        (Mode::Pgbench, Engine::Postgres(_)) => {
            println!("{}", pgbench(&session));
            return Ok(());
        }
        (Mode::Count, _) => return Ok(()),
        (Mode::Raw, Engine::Postgres(_)) => return Err("--raw is for SQLite: PostgreSQL has pgbench".into()),
        (Mode::Pgbench, Engine::Sqlite(_)) => return Err("--pgbench is for PostgreSQL".into()),
    };
    println!("{}", serde_json::json!({ "accepts_per_s": rate }));
    db.close().await;
    Ok(())
}

/// Asked without the store, which says this of nobody but one tenant.
async fn count(engine: &Engine) -> Outcome<i64> {
    const COUNT: &str = "SELECT count(*) FROM messages WHERE author = 'user'";
    Ok(match engine {
        Engine::Sqlite(path) => {
            let pool = SqlitePool::connect_with(SqliteConnectOptions::new().filename(path).read_only(true)).await?;
            sqlx::query_scalar(COUNT).fetch_one(&pool).await?
        }
        Engine::Postgres(url) => {
            let everybody = "BEGIN READ ONLY; SET LOCAL astrfleet.scope = '*'";
            let mut transaction = PgPool::connect(url).await?.begin_with(everybody).await?;
            sqlx::query_scalar(COUNT).fetch_one(&mut *transaction).await?
        }
    })
}

fn message(make: &Make, session: &Session) -> Message {
    let now = Now.now();
    Message {
        id: make.ids.message(),
        tenant_id: session.tenant_id.clone(),
        session_id: session.id.clone(),
        author: Author::User,
        sender: None,
        text: TEXT.to_owned(),
        attachments: vec![],
        state: State::Accepted,
        reply_to: None,
        failure: None,
        usage: None,
        created_at: now,
        updated_at: now,
    }
}

async fn through_the_store(
    db: &Db,
    make: Arc<Make>,
    session: Session,
    clients: usize,
    duration: Duration,
) -> Outcome<f64> {
    let began = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..clients {
        let (messages, make, session) = (db.messages(&session.tenant_id), Arc::clone(&make), session.clone());
        tasks.spawn(async move {
            let mut count = 0_u32;
            while began.elapsed() < duration {
                let new = NewMessage { message: message(&make, &session), idempotency: None };
                if messages.accept(new).await? != Accepted::New {
                    return Err("a new message was taken for an old one".into());
                }
                count += 1;
            }
            Outcome::Ok(count)
        });
    }
    rate(tasks, began).await
}

/// One statement a message, each with its own way to the disk.
async fn raw(path: &Path, make: Arc<Make>, session: Session, clients: usize, duration: Duration) -> Outcome<f64> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true);
    let pool = SqlitePoolOptions::new().max_connections(1).test_before_acquire(false);
    let pool: SqlitePool = pool.connect_with(options).await?;
    let began = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..clients {
        let (pool, make, session) = (pool.clone(), Arc::clone(&make), session.clone());
        tasks.spawn(async move {
            let mut count = 0_u32;
            while began.elapsed() < duration {
                let message = message(&make, &session);
                sqlx::query(INSERT)
                    .bind(message.tenant_id.as_str())
                    .bind(message.id.as_str())
                    .bind(message.session_id.as_str())
                    .bind(&message.text)
                    .bind(message.created_at.micros())
                    .execute(&pool)
                    .await?;
                count += 1;
            }
            Outcome::Ok(count)
        });
    }
    rate(tasks, began).await
}

async fn rate(mut tasks: tokio::task::JoinSet<Outcome<u32>>, began: Instant) -> Outcome<f64> {
    let mut count = 0.0;
    while let Some(done) = tasks.join_next().await {
        count += f64::from(done??);
    }
    Ok((count / began.elapsed().as_secs_f64()).round())
}

/// The same row for `pgbench -n -f SCRIPT`. Its ids grow with time, as ours do.
fn pgbench(session: &Session) -> String {
    let id = "'msg_' || lpad(to_hex((extract(epoch FROM clock_timestamp()) * 1000000)::bigint), 14, '0') \
              || lpad(to_hex(cast(:client_id AS bigint)), 4, '0') || substr(md5(random()::text), 1, 14)";
    let now = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
    INSERT
        .replace("$1", &format!("'{}'", session.tenant_id))
        .replace("$2", id)
        .replace("$3", &format!("'{}'", session.id))
        .replace("$4", &format!("'{TEXT}'"))
        .replace("$5", now)
        .replace('\n', " ")
        + ";"
}
