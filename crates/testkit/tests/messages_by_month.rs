//! On PostgreSQL, messages lie in a partition for each month: what was there before becomes the first one, what comes
//! belongs to its month, keys and answers stay unique over all of them, and months go as a whole.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::{sync::Arc, time::Duration};

use astrfleet_core::{
    Error,
    id::{Ids, MessageId, TenantId},
    message::{Author, Message, State},
    ports::{
        Accepted, Inbound, NewMessage, Outcome, Store, Told,
        testing::{CountingRng, FixedClock},
    },
    session::Session,
    time::Timestamp,
};
use astrfleet_store::{Db, PgSettings, migrate::MIGRATIONS};
use astrfleet_testkit::{
    contract::{
        bridge::inbound,
        messages::message,
        sessions::stored_session,
        store::{Make, NOW},
    },
    postgres::{Database, Postgres},
};
use sqlx::AssertSqlSafe;

/// The step before the first that has to do with months.
const BEFORE: i64 = 11;
const UMO: &str = "tg1:FriendMessage:7";

async fn texts(database: &Database, sql: &str) -> Vec<String> {
    sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_all(&database.pool).await.unwrap()
}

/// Now, to the server: where the first month ends depends on it.
async fn clock(database: &Database) -> Timestamp {
    let micros = texts(database, "SELECT (extract(epoch FROM now()) * 1000000)::bigint::text").await;
    Timestamp::from_micros(micros[0].parse().unwrap())
}

/// Where each message lies.
async fn places(database: &Database) -> Vec<String> {
    texts(database, "SELECT tableoid::regclass::text FROM messages ORDER BY id").await
}

fn month_after(moment: Timestamp, months: u32) -> Timestamp {
    (0..months).fold(moment.month_start(), |moment, _| moment.plus(Duration::from_hours(32 * 24)).month_start())
}

/// A message whose id is made at `moment`.
fn said_at(session: &Session, moment: Timestamp) -> Message {
    let ids = Ids::new(Arc::new(FixedClock::at(moment.micros())), Arc::new(CountingRng::default()));
    Message { id: ids.message(), created_at: moment, ..message(&Make::new(), session) }
}

async fn accept(db: &Db, message: &Message, key: Option<&str>) -> Accepted {
    let idempotency = key.map(|key| (key.to_owned(), [1; 32]));
    db.messages(&message.tenant_id).accept(NewMessage { message: message.clone(), idempotency }).await.unwrap()
}

async fn opened(database: &Database) -> Db {
    Db::open_postgres(&database.url().into(), &PgSettings::default()).await.unwrap()
}

#[tokio::test]
async fn what_there_was_becomes_the_first_month_and_goes_back() {
    let database = Postgres::shared().await.database().await;
    let db = opened(&database).await;
    db.migrate_up_to(NOW, BEFORE).await.unwrap();
    // The tenants of that step are fewer columns: behind the store's back.
    let held = sqlx::PgPool::connect(&database.url()).await.unwrap();
    let old = "SET astrfleet.scope = '*';
        INSERT INTO tenants (id, name, display_name, email, plan, status, created_at, updated_at, version)
            VALUES ('ten_0190000000007000800000000000abcd', 'old', 'old', 'old@tenants.example', 'free', 'active', 1, 1, 1);
        INSERT INTO sessions (tenant_id, id, end_user, channel, state, metadata, generation, created_at, last_active_at, version)
            VALUES ('ten_0190000000007000800000000000abcd', 'ses_0190000000007000800000000000abcd', 'ada', 'api', 'bot',
                '{}', 0, 1, 1, 1);
        INSERT INTO messages (tenant_id, id, session_id, author, body, attachments, state, created_at, updated_at,
                idempotency_key, idempotency_hash, platform_id)
            SELECT 'ten_0190000000007000800000000000abcd', 'msg_0190000000007000800000000000' || to_char(n, 'FM0000'),
                'ses_0190000000007000800000000000abcd', 'user', 'Hi', '[]', 'done', 1, 1, 'key-' || n, 'hash',
                CASE WHEN n > 7 THEN 'in tg1:FriendMessage:7 ' || n END
            FROM generate_series(1, 9) AS n;";
    sqlx::raw_sql(old).execute(&held).await.unwrap();
    held.close().await;
    db.migrate_up(NOW).await.unwrap();
    assert_eq!(places(&database).await, vec!["messages_begin"; 9]);
    assert_eq!(texts(&database, "SELECT count(*)::text FROM message_keys").await, ["11"]);

    let tenant = db.tenants().by_name("old").await.unwrap().id;
    let id = MessageId::parse("msg_01900000000070008000000000000003").unwrap();
    assert_eq!(db.messages(&tenant).get(&id).await.unwrap().text, "Hi");
    let again = db.bridge(&tenant).take_in(inbound(&Make::new(), &tenant, UMO, "9", 1)).await.unwrap();
    assert_eq!((again.is_new, again.message.id.as_str()), (false, "msg_01900000000070008000000000000009"));
    let session = stored_session(&db, &Make::new(), &tenant, "eve").await;
    let later = month_after(clock(&database).await, 9);
    assert_eq!(accept(&db, &said_at(&session, later), None).await, Accepted::New);
    db.system("test").make_message_month(later).await.unwrap();
    assert_ne!(places(&database).await[9], "messages_begin");

    db.migrate_down(BEFORE).await.unwrap();
    assert_eq!(places(&database).await, vec!["messages"; 10], "one table again, with all of them");
    db.close().await;
}

#[tokio::test]
async fn while_the_release_before_runs_messages_are_one_table_and_it_says_so() {
    let database = Postgres::shared().await.database().await;
    let db = opened(&database).await;
    let parted = MIGRATIONS.iter().find(|step| step.name.ends_with("_contract_messages_by_month")).unwrap().version;
    db.migrate_up_to(NOW, parted - 1).await.unwrap();
    let make = Make::new();
    let tenant = make.stored_tenant(&db, "one-table").await;
    let session = stored_session(&db, &make, &tenant, "ada").await;
    let system = db.system("test months");
    let today = clock(&database).await;
    for refused in [
        system.make_message_month(today).await.map(u64::from),
        system.drop_message_months(&MessageId::edge(today)).await,
    ] {
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains("`astrfleet migrate up --contract`"), "{refused}");
    }

    let question = said_at(&session, today);
    assert_eq!(accept(&db, &question, Some("one")).await, Accepted::New);
    let again = said_at(&session, today.plus(Duration::from_secs(1)));
    assert_eq!(accept(&db, &again, Some("one")).await, Accepted::Before(question.id.clone()));
    let answer = Message {
        id: said_at(&session, today.plus(Duration::from_secs(2))).id,
        author: Author::Bot,
        state: State::Done,
        attachments: Vec::new(),
        reply_to: Some(question.id.clone()),
        ..question.clone()
    };
    let messages = db.messages(&tenant);
    assert!(messages.finish(&question.id, &[State::Accepted], Outcome::Reply(answer.clone()), NOW).await.unwrap());
    assert_eq!(places(&database).await, ["messages", "messages"]);

    db.migrate_up(NOW).await.unwrap();
    assert_eq!(places(&database).await, ["messages_begin", "messages_begin"]);
    assert_eq!(messages.exchange(&question.id).await.unwrap().reply.unwrap().id, answer.id);
    assert_eq!(accept(&db, &again, Some("one")).await, Accepted::Before(question.id));
    db.close().await;
}

#[tokio::test]
async fn a_message_lies_in_its_month_and_its_key_holds_in_all() {
    let database = Postgres::shared().await.database().await;
    let db = opened(&database).await;
    db.migrate_up(NOW).await.unwrap();
    let make = Make::new();
    let tenant = make.stored_tenant(&db, "by-month").await;
    let session = stored_session(&db, &make, &tenant, "ada").await;
    let system = db.system("test months");
    let today = clock(&database).await;
    let (next, later) = (month_after(today, 4), month_after(today, 5));
    assert!(!system.make_message_month(today).await.unwrap(), "the first one has it");
    assert!(system.make_message_month(next).await.unwrap());
    assert!(!system.make_message_month(next).await.unwrap(), "once");

    let now = said_at(&session, today);
    let then = said_at(&session, next.plus(Duration::from_hours(1)));
    let ahead = said_at(&session, later.plus(Duration::from_hours(1)));
    assert_eq!(accept(&db, &now, Some("one")).await, Accepted::New);
    assert_eq!(accept(&db, &then, Some("two")).await, Accepted::New);
    assert_eq!(accept(&db, &ahead, Some("three")).await, Accepted::New, "an insert never fails");
    let name = |moment: Timestamp| format!("messages_{}", moment.month().replace('-', "_"));
    assert_eq!(places(&database).await, ["messages_begin".to_owned(), name(next), "messages_rest".to_owned()]);
    for (message, key) in [(&now, "one"), (&then, "two"), (&ahead, "three")] {
        let again = Message { id: said_at(&session, later.plus(Duration::from_hours(9))).id, ..message.clone() };
        assert_eq!(accept(&db, &again, Some(key)).await, Accepted::Before(message.id.clone()), "{key}");
        assert_eq!(db.messages(&tenant).get(&message.id).await.unwrap().id, message.id);
    }

    assert!(system.make_message_month(later).await.unwrap());
    assert_eq!(places(&database).await, ["messages_begin".to_owned(), name(next), name(later)], "it moved");
    assert_eq!(accept(&db, &ahead, Some("three")).await, Accepted::New, "it is the same one");
    let again = said_at(&session, later.plus(Duration::from_hours(8)));
    assert_eq!(accept(&db, &again, Some("three")).await, Accepted::Before(ahead.id.clone()), "and has its key still");

    // An answer in a later month than its question, broken off first.
    let answer = |state, moment: Timestamp| Message {
        id: said_at(&session, moment).id,
        author: Author::Bot,
        state,
        attachments: Vec::new(),
        reply_to: Some(now.id.clone()),
        ..now.clone()
    };
    let messages = db.messages(&tenant);
    let open = [State::Accepted, State::Interrupted];
    let partial = answer(State::Interrupted, next.plus(Duration::from_hours(2)));
    assert!(messages.finish(&now.id, &open, Outcome::Reply(partial), NOW).await.unwrap());
    let whole = answer(State::Done, later.plus(Duration::from_hours(2)));
    assert!(messages.finish(&now.id, &open, Outcome::Reply(whole.clone()), NOW).await.unwrap());
    assert!(!messages.finish(&now.id, &open, Outcome::Reply(whole.clone()), NOW).await.unwrap());
    assert_eq!(messages.exchange(&now.id).await.unwrap().reply.unwrap().id, whole.id);
    assert_eq!(places(&database).await.len(), 4, "one answer");

    assert_eq!(
        system.drop_message_months(&MessageId::edge(next)).await.unwrap(),
        1,
        "the first one, to the month before"
    );
    assert_eq!(system.drop_message_months(&MessageId::edge(next)).await.unwrap(), 0);
    assert!(messages.get(&now.id).await.is_err() && messages.get(&then.id).await.is_ok());
    assert_eq!(texts(&database, "SELECT key FROM message_keys ORDER BY 1").await, ["three", "two"]);
    db.migrate_down(BEFORE).await.unwrap();
    assert_eq!(places(&database).await, vec!["messages"; 3], "also without the first one");
    db.close().await;
}

#[tokio::test]
async fn a_message_of_a_channel_is_stored_once_over_all_months() {
    let database = Postgres::shared().await.database().await;
    let db = opened(&database).await;
    db.migrate_up(NOW).await.unwrap();
    let make = Make::new();
    let tenant = make.stored_tenant(&db, "channel-months").await;
    let other = make.stored_tenant(&db, "channel-months-too").await;
    let system = db.system("test months");
    let today = clock(&database).await;
    let (next, later) = (month_after(today, 4), month_after(today, 5));
    system.make_message_month(next).await.unwrap();
    let brought = |tenant: &TenantId, number: &str, moment: Timestamp| {
        let inbound = inbound(&make, tenant, UMO, number, 1);
        Inbound { message: Message { id: said_at(&inbound.session, moment).id, ..inbound.message.clone() }, ..inbound }
    };
    let bridge = db.bridge(&tenant);
    let first = bridge.take_in(brought(&tenant, "1", today)).await.unwrap();
    assert!(first.is_new);
    for moment in [today, next, later] {
        let again = bridge.take_in(brought(&tenant, "1", moment.plus(Duration::from_hours(1)))).await.unwrap();
        assert_eq!((again.is_new, again.is_theirs, &again.message.id), (false, false, &first.message.id));
    }
    assert!(db.bridge(&other).take_in(brought(&other, "1", next)).await.unwrap().is_new, "within a tenant");
    let same_moment = async |number: &str| {
        let tries =
            (0..8).map(|hours| bridge.take_in(brought(&tenant, number, next.plus(Duration::from_hours(hours)))));
        let taken = futures_util::future::join_all(tries).await;
        taken.into_iter().filter(|taken| taken.as_ref().is_ok_and(|taken| taken.is_new)).count()
    };
    assert_eq!(same_moment("2").await, 1);

    // What went out in answer, in another month, once.
    let platform_id = format!("in {UMO} 1");
    let told = |moment: Timestamp| Told::Sent {
        id: said_at(&first.session, moment).id,
        text: "Hello".to_owned(),
        usage: None,
    };
    let heard = bridge.told(&platform_id, "out 1", told(later), NOW).await.unwrap();
    assert!(heard.is_new);
    let again = bridge.told(&platform_id, "out 1", told(next.plus(Duration::from_hours(9))), NOW).await.unwrap();
    assert_eq!((again.is_new, &again.said), (false, &heard.said));
    assert_eq!(db.messages(&tenant).exchange(&first.message.id).await.unwrap().reply.unwrap().id, heard.said.unwrap());

    // Its place in the order of months changes nothing of that.
    assert!(system.make_message_month(later).await.unwrap());
    let again = bridge.told(&platform_id, "out 1", told(next.plus(Duration::from_hours(10))), NOW).await.unwrap();
    assert!(!again.is_new, "it has its number still");
    let numbers = "SELECT key FROM message_keys WHERE session_id = '' ORDER BY 1";
    assert_eq!(texts(&database, numbers).await.len(), 4);
    let planned = "EXPLAIN SELECT id FROM messages WHERE tenant_id = 'a' AND platform_id = 'b'";
    let plan = texts(&database, planned).await.join("\n");
    assert!(!plan.contains("Seq Scan"), "found by an index of each month: {plan}");

    // It is forgotten with the message, and not before.
    assert_eq!(system.drop_message_months(&MessageId::edge(next)).await.unwrap(), 1);
    assert!(matches!(bridge.find(&platform_id).await, Err(Error::NotFound { .. })));
    assert!(bridge.take_in(brought(&tenant, "1", next.plus(Duration::from_hours(20)))).await.unwrap().is_new);
    db.migrate_down(BEFORE).await.unwrap();
    let again = "SELECT indexdef FROM pg_indexes WHERE tablename = 'messages' AND indexdef LIKE '%platform_id%'";
    assert!(texts(&database, again).await.iter().any(|index| index.starts_with("CREATE UNIQUE INDEX")));
    db.close().await;
}

#[tokio::test]
async fn a_role_that_owns_nothing_makes_and_drops_months_where_it_was_granted() {
    let database = Postgres::shared().await.database().await;
    let db = opened(&database).await;
    db.migrate_up(NOW).await.unwrap();
    let guest = Db::open_postgres(&database.url_of_guest().into(), &PgSettings::default()).await.unwrap();
    let today = clock(&database).await;
    let refused = guest.system("test").make_message_month(month_after(today, 4)).await.unwrap_err();
    assert!(refused.to_string().contains("--grant-to"), "{refused}");
    db.grant_use_to(database.guest()).await.unwrap();
    assert!(guest.system("test").make_message_month(month_after(today, 4)).await.unwrap());
    assert_eq!(guest.system("test").drop_message_months(&MessageId::edge(month_after(today, 5))).await.unwrap(), 2);
    guest.close().await;
    db.close().await;
}
