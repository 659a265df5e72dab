//! What is behind the port that accepts messages: its limits, its end, and what it does when the database goes away.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::time::Duration;

use astrfleet_core::{
    Error,
    id::TenantId,
    message::Message,
    page::PageRequest,
    ports::{Accepted, NewMessage, Store},
    session::Session,
};
use astrfleet_store::{AcceptSettings, Db, PgSettings};
use astrfleet_testkit::{
    contract::{
        messages::message,
        sessions::stored_session,
        store::{Make, NOW},
    },
    postgres::Postgres,
};
use futures_util::future::join_all;

async fn prepared(db: &Db, make: &Make) -> Session {
    db.migrate_up(NOW).await.unwrap();
    let tenant = make.stored_tenant(db, "accepts").await;
    stored_session(db, make, &tenant, "ada").await
}

async fn accept(db: &Db, message: &Message) -> Result<Accepted, Error> {
    let new = NewMessage { message: message.clone(), idempotency: None };
    db.messages(&message.tenant_id).accept(new).await
}

async fn stored(db: &Db, session: &Session) -> Vec<Message> {
    let tenant: &TenantId = &session.tenant_id;
    db.messages(tenant).list(&session.id, &PageRequest::first()).await.unwrap().items
}

#[tokio::test]
async fn more_than_may_wait_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let make = Make::new();
    let settings = AcceptSettings { queue_max: 3, ..AcceptSettings::default() };
    let db = Db::open_sqlite(&folder.path().join("store.db")).await.unwrap().with_accepts(&settings);
    let session = prepared(&db, &make).await;
    let said: Vec<_> = (0..10).map(|_| message(&make, &session)).collect();
    // All of them ask before the task has its first turn: there is one thread.
    let outcomes = join_all(said.iter().map(|message| accept(&db, message))).await;
    for (number, outcome) in outcomes.into_iter().enumerate() {
        if number < 3 {
            assert_eq!(outcome.unwrap(), Accepted::New);
        } else {
            assert!(matches!(outcome, Err(Error::TooMany { .. })), "{number}: {outcome:?}");
        }
    }
    assert_eq!(stored(&db, &session).await, said[..3]);
    assert_eq!(accept(&db, &said[3]).await.unwrap(), Accepted::New, "and there is room again");
}

#[tokio::test]
async fn what_was_taken_in_before_the_end_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let make = Make::new();
    let db = Db::open_sqlite(&path).await.unwrap();
    let session = prepared(&db, &make).await;
    let said: Vec<_> = (0..150).map(|_| message(&make, &session)).collect();
    let (outcomes, ()) = tokio::join!(join_all(said.iter().map(|message| accept(&db, message))), db.close());
    for outcome in outcomes {
        assert_eq!(outcome.unwrap(), Accepted::New);
    }
    let late = accept(&db, &message(&make, &session)).await;
    assert!(matches!(late, Err(Error::Unavailable { what: "storage", .. })), "{late:?}");
    db.close().await;
    assert_eq!(stored(&Db::open_sqlite(&path).await.unwrap(), &session).await, said);
}

#[tokio::test]
async fn whoever_left_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let make = Make::new();
    let db = Db::open_sqlite(&folder.path().join("store.db")).await.unwrap();
    let session = prepared(&db, &make).await;
    let (left, stayed) = (message(&make, &session), message(&make, &session));
    {
        let mut leaving = Box::pin(accept(&db, &left));
        // Asked once, which puts it into the queue, and given up.
        assert!(futures_util::poll!(&mut leaving).is_pending());
    }
    accept(&db, &stayed).await.unwrap();
    assert_eq!(stored(&db, &session).await, [stayed]);
}

#[tokio::test]
async fn a_server_that_comes_back_is_written_to_again() {
    let server = Postgres::start().await;
    let database = server.database().await;
    let make = Make::new();
    let settings = PgSettings { acquire_timeout: Duration::from_secs(2), ..PgSettings::default() };
    let db = Db::open_postgres(&database.url().into(), &settings).await.unwrap();
    let session = prepared(&db, &make).await;
    let mut said: Vec<_> = (0..3).map(|_| message(&make, &session)).collect();
    assert_eq!(accept(&db, &said[0]).await.unwrap(), Accepted::New);

    server.kill_9();
    // A process of the server that does not know yet that it is alone may take one more.
    let last = message(&make, &session);
    loop {
        match accept(&db, &last).await {
            Ok(taken) => assert_eq!(taken, Accepted::New, "the same message again is the same"),
            Err(Error::Unavailable { what: "storage", .. }) => break,
            Err(other) => panic!("{other:?}"),
        }
    }
    server.restart().await;
    assert_eq!(accept(&db, &last).await.unwrap(), Accepted::New, "whatever became of it");
    said.push(last);
    assert_eq!(accept(&db, &said[1]).await.unwrap(), Accepted::New);

    // With a connection that does not know yet that its server is another one.
    server.kill_9();
    server.restart().await;
    assert_eq!(accept(&db, &said[2]).await.unwrap(), Accepted::New, "nobody notices");
    said.sort_by(|one, other| one.id.cmp(&other.id));
    assert_eq!(stored(&db, &session).await, said);
    db.close().await;
}

#[tokio::test]
async fn an_accepted_message_survives_the_servers_death() {
    let server = Postgres::start_durable().await;
    let database = server.database().await;
    let make = Make::new();
    let db = Db::open_postgres(&database.url().into(), &PgSettings::default()).await.unwrap();
    let session = prepared(&db, &make).await;
    let said: Vec<_> = (0..150).map(|_| message(&make, &session)).collect();
    for outcome in join_all(said.iter().map(|message| accept(&db, message))).await {
        assert_eq!(outcome.unwrap(), Accepted::New);
    }
    server.kill_9();
    server.restart().await;
    let after = Db::open_postgres(&database.url().into(), &PgSettings::default()).await.unwrap();
    assert_eq!(stored(&after, &session).await, said);
}

/// A process that was stopped between telling something and its `COMMIT` holds the events of one tenant. Nobody else waits
/// for it, however often that tenant's messages come.
#[tokio::test]
async fn whoever_holds_one_tenants_events_holds_up_nobody_else() {
    let database = Postgres::shared().await.database().await;
    let make = Make::new();
    let db = Db::open_postgres(&database.url().into(), &PgSettings::default()).await.unwrap();
    let held = prepared(&db, &make).await;
    let tenant = make.stored_tenant(&db, "beside").await;
    let beside = stored_session(&db, &make, &tenant, "bob").await;
    for session in [&held, &beside] {
        assert_eq!(accept(&db, &message(&make, session)).await.unwrap(), Accepted::New);
    }
    let mut holder = database.pool.begin().await.unwrap();
    let take = "UPDATE event_heads SET seq = seq + 1 WHERE tenant_id = $1";
    sqlx::query(take).bind(held.tenant_id.as_str()).execute(&mut *holder).await.unwrap();

    let (mut waiting, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        // Of both in one batch: all are there before the task has its next turn.
        let said: Vec<_> =
            (0..40).map(|number| message(&make, if number % 2 == 0 { &held } else { &beside })).collect();
        let (ours, others): (Vec<_>, Vec<_>) = said.into_iter().partition(|said| said.session_id == held.id);
        for message in ours {
            let db = db.clone();
            theirs.push(message.clone());
            waiting.push(tokio::spawn(async move { accept(&db, &message).await }));
        }
        for outcome in join_all(others.iter().map(|message| accept(&db, message))).await {
            assert_eq!(outcome.unwrap(), Accepted::New, "while one holds the other's events");
        }
    }
    let stored = "SELECT COUNT(*) FROM messages WHERE tenant_id = $1";
    let count: i64 = sqlx::query_scalar(stored).bind(held.tenant_id.as_str()).fetch_one(&database.pool).await.unwrap();
    assert_eq!(count, 1, "the holder still holds");

    holder.rollback().await.unwrap();
    for (outcome, message) in waiting.into_iter().zip(&theirs) {
        match outcome.await.unwrap() {
            Ok(accepted) => assert_eq!(accepted, Accepted::New),
            // On a machine that is so slow its patience is over first: nothing happened, and it is sent again.
            Err(Error::Unavailable { .. }) => assert_eq!(accept(&db, message).await.unwrap(), Accepted::New),
            Err(other) => panic!("{other:?}"),
        }
    }
    for (session, count) in [(&held, 61), (&beside, 61)] {
        let tenant = session.tenant_id.as_str();
        let count_now: i64 = sqlx::query_scalar(stored).bind(tenant).fetch_one(&database.pool).await.unwrap();
        assert_eq!(count_now, count, "each once");
        let (_, newest) = db.events(&session.tenant_id).bounds().await.unwrap();
        assert!(newest >= count, "and each was told");
    }
    db.close().await;
}
