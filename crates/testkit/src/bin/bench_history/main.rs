//! A long history to measure in: `bench_history --sqlite PATH | --postgres URL --tenant NAME --messages N` makes up N
//! messages of a tenant that is there and has none, and the search's index of them, and prints what may be asked for:
//! `{"bytes", "sessions", "messages", "cursors", "frequent", "unique"}`, lists as the API takes them. Nobody may use the
//! database meanwhile; to PostgreSQL, it comes as somebody who may do everything.
//!
//! What is written stands as if it had been said and answered in the last months: 100 messages in a session, 64 sessions
//! at the same time, half of them in Chinese. Rows go in without the indexes, which are made after them: ten million
//! would take an hour otherwise.

mod history;
mod postgres;
mod said;
mod sqlite;

use std::{collections::BTreeSet, error::Error, path::PathBuf};

use astrfleet_core::{
    ports::{NewSearchBlock, Store},
    search::{bucketed, words},
};
use astrfleet_store::{Db, PgSettings};

use crate::{
    history::{History, WAVE, blocks},
    said::text,
};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const COLUMNS_OF_SESSION: &str =
    "tenant_id, id, end_user, channel, state, close_reason, metadata, generation, created_at, last_active_at, version";
const COLUMNS_OF_MESSAGE: &str =
    "tenant_id, id, session_id, author, body, attachments, state, reply_to, created_at, updated_at";

#[tokio::main]
async fn main() -> Outcome<()> {
    let arguments = arguments()?;
    let db = match &arguments.engine {
        Engine::Sqlite(path) => Db::open_sqlite(path).await?,
        Engine::Postgres(url) => Db::open_postgres(&url.clone().into(), &PgSettings::default()).await?,
    };
    let history = fill(&db, &arguments).await?;
    db.close().await;
    let bytes = match &arguments.engine {
        Engine::Sqlite(path) => i64::try_from(std::fs::metadata(path)?.len())?,
        Engine::Postgres(url) => postgres::settled(url).await?,
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

/// All that is made up, and its index.
async fn fill(db: &Db, arguments: &Arguments) -> Outcome<History> {
    let tenant = db.tenants().by_name(&arguments.tenant).await?.id;
    let mut history = History::new(tenant, arguments.messages);
    match &arguments.engine {
        Engine::Sqlite(path) => sqlite::fill(path, &mut history).await?,
        Engine::Postgres(url) => postgres::fill(url, &mut history).await?,
    }
    index(db, &history).await?;
    Ok(history)
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
    use astrfleet_core::page::PageRequest;
    use astrfleet_testkit::{
        contract::store::{Make, NOW},
        postgres::Postgres,
    };

    use super::*;
    use crate::history::session_of;

    const MESSAGES: u32 = WAVE + 1_000;

    async fn filled(db: &Db, engine: Engine) -> History {
        db.migrate_up(NOW).await.unwrap();
        Make::new().stored_tenant(db, "acme").await;
        fill(db, &Arguments { engine, tenant: "acme".to_owned(), messages: MESSAGES }).await.unwrap()
    }

    async fn assert_readable(db: &Db, history: &History) {
        let newest = PageRequest { limit: 3, after: None };
        let page = db.messages(&history.tenant).list(&history.sessions[0], &newest).await.unwrap();
        let told: Vec<String> = page.items.into_iter().map(|message| message.text).collect();
        let said: Vec<String> = (0..WAVE).filter(|number| session_of(*number) == 0).map(text).collect();
        assert!(said.ends_with(&told) && told.len() == 3, "{told:?}");
    }

    #[tokio::test]
    async fn a_file_is_filled() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("astrfleet.db");
        let db = Db::open_sqlite(&path).await.unwrap();
        let history = filled(&db, Engine::Sqlite(path)).await;
        assert_readable(&db, &history).await;
    }

    #[tokio::test]
    async fn a_server_is_filled_month_by_month_with_all_indexes() {
        let database = Postgres::shared().await.database().await;
        let db = Db::open_postgres(&database.url().into(), &PgSettings::default()).await.unwrap();
        let history = filled(&db, Engine::Postgres(database.url_of_superuser())).await;
        assert_readable(&db, &history).await;
        let number =
            async |sql: &'static str| sqlx::query_scalar::<_, i64>(sql).fetch_one(&database.pool).await.unwrap();
        assert_eq!(number("SELECT count(*) FROM messages").await, i64::from(MESSAGES));
        let in_no_month = "SELECT count(*) FROM messages
            WHERE tableoid::regclass::text <> 'messages_' || to_char(to_timestamp(created_at / 1000000) AT TIME ZONE 'UTC', 'YYYY_MM')";
        assert_eq!(number(in_no_month).await, 0);
        // What a partition without data has had from the beginning, beside what the others got.
        let unlike = "SELECT count(*) FROM pg_partition_tree('messages') AS part WHERE isleaf AND (
            SELECT count(*) FILTER (WHERE indisvalid) FROM pg_index WHERE indrelid = part.relid
        ) <> (SELECT count(*) FROM pg_index WHERE indrelid = 'messages_rest'::regclass)";
        assert_eq!(number(unlike).await, 0);
        assert_eq!(
            number("SELECT count(*) FROM pg_index WHERE indrelid = 'messages'::regclass AND NOT indisvalid").await,
            0
        );
        assert!(postgres::settled(&database.url_of_superuser()).await.unwrap() > 1_000_000);
    }
}
