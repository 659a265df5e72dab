//! What the store bears from PostgreSQL: limits that end what takes too long, servers that are gone without a word or are not
//! the primary any more, and ends of which nobody knows whether they came about.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::time::Duration;

use astrfleet_core::{
    Error,
    ports::{Sessions, Store},
};
use astrfleet_store::{Db, PgSettings};
use astrfleet_testkit::{
    contract::{
        sessions::{session, stored_session},
        store::{Make, NOW},
    },
    postgres::{Database, Postgres},
    way::Way,
};
use sqlx::AssertSqlSafe;

/// Longer than anything here may take, and far shorter than TCP would.
const PATIENCE: Duration = Duration::from_mins(1);

async fn migrated(database: &Database) {
    let db = Db::open_postgres(&database.url().into(), &PgSettings::default()).await.unwrap();
    db.migrate_up(NOW).await.unwrap();
    db.close().await;
}

/// Connects by a way instead of straight on.
async fn opened_by(way: &Way, database: &Database, settings: &PgSettings) -> Db {
    let url = database.url().replace(&format!(":{}/", database.port()), &format!(":{}/", way.port()));
    assert!(url.contains(&way.port().to_string()), "{url}");
    Db::open_postgres(&url.into(), settings).await.unwrap()
}

fn says(error: &Error, words: &str) -> bool {
    matches!(error, Error::Unavailable { source, .. } if source.to_string().contains(words))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_gone_without_a_word_is_given_up_and_another_one_is_used() {
    let server = Postgres::shared().await;
    let database = server.database().await;
    migrated(&database).await;
    let way = Way::to(server.port());
    let settings = PgSettings {
        connections_max: 3,
        acquire_timeout: Duration::from_millis(500),
        statement_timeout: Duration::from_millis(500),
        ..PgSettings::default()
    };
    let db = opened_by(&way, &database, &settings).await;
    let make = Make::new();
    let tenant = make.stored_tenant(&db, "silent").await;
    let stored = stored_session(&db, &make, &tenant, "ada").await;
    // As many connections as there may be, each in the middle of something: the second statement of a transaction, the
    // statement of a read.
    sqlx::raw_sql(
        "CREATE FUNCTION linger() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.3); RETURN NEW; END $$;
         CREATE TRIGGER linger BEFORE UPDATE ON sessions FOR EACH ROW EXECUTE FUNCTION linger();
         GRANT EXECUTE ON FUNCTION linger TO PUBLIC;",
    )
    .execute(&database.pool)
    .await
    .unwrap();
    let sessions = [
        stored.clone(),
        stored_session(&db, &make, &tenant, "bob").await,
        stored_session(&db, &make, &tenant, "eve").await,
    ];
    let writers: Vec<_> = sessions
        .into_iter()
        .map(|session| {
            let of: Box<dyn Sessions> = db.sessions(&tenant);
            tokio::spawn(async move { of.update(&session).await.map(|_| ()) })
        })
        .collect();
    let busy = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'";
    while sqlx::query_scalar::<_, i64>(busy).fetch_one(&database.pool).await.unwrap() < 3 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    way.fall_silent();
    let ended = async {
        for writer in writers {
            let error = writer.await.unwrap().unwrap_err();
            assert!(says(&error, "does not answer"), "{error:?}");
        }
    };
    tokio::time::timeout(PATIENCE, ended).await.expect("each gives up");

    // A new primary under the same name.
    way.lead_to(server.port());
    let again = async {
        while db.sessions(&tenant).get(&stored.id).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, again).await.expect("the connections that fell silent have given their places back");
    db.close().await;
}

#[tokio::test]
async fn a_server_that_is_not_the_primary_any_more_is_not_written_to_again() {
    let (old, new) = (Postgres::start().await, Postgres::shared().await);
    let database = new.database().await;
    migrated(&database).await;
    let copy = old.database_named(database.name()).await;
    migrated(&copy).await;
    let way = Way::to(old.port());
    let db = opened_by(&way, &copy, &PgSettings { connections_max: 2, ..PgSettings::default() }).await;
    let make = Make::new();
    make.stored_tenant(&db, "before").await;
    // It becomes a standby; who is connected to it through a pooler or a proxy stays connected to the name.
    old.become_standby().await;
    let (tenant, instance) = make.tenant("meanwhile");
    let error = db.tenants().insert(&tenant, &instance, None).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
    way.lead_to(new.port());
    let stored = make.stored_tenant(&db, "after").await;
    assert_eq!(db.tenants().get(&stored).await.unwrap().name, "after");
    let there: i64 = sqlx::query_scalar("SELECT count(*) FROM tenants WHERE name = 'after'")
        .fetch_one(&database.pool)
        .await
        .unwrap();
    assert_eq!(there, 1, "at the new primary");
    db.close().await;
}

#[tokio::test]
async fn the_servers_own_limits_are_set_for_each_connection() {
    let database = Postgres::shared().await.database().await;
    migrated(&database).await;
    let settings = PgSettings {
        statement_timeout: Duration::from_millis(300),
        lock_timeout: Duration::from_millis(250),
        idle_in_transaction_timeout: Duration::from_secs(7),
        ..PgSettings::default()
    };
    let db = Db::open_postgres(&database.url().into(), &settings).await.unwrap();
    let make = Make::new();
    let tenant = make.stored_tenant(&db, "limited").await;
    let one = stored_session(&db, &make, &tenant, "ada").await;
    sqlx::raw_sql(
        "CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             NEW.end_user := concat_ws(' ', current_setting('statement_timeout'), current_setting('lock_timeout'),
                 current_setting('idle_in_transaction_session_timeout'), current_setting('synchronous_commit'));
             RETURN NEW;
         END $$;
         CREATE TRIGGER tell BEFORE UPDATE ON sessions FOR EACH ROW EXECUTE FUNCTION tell();
         GRANT EXECUTE ON FUNCTION tell TO PUBLIC;",
    )
    .execute(&database.pool)
    .await
    .unwrap();
    let told = db.sessions(&tenant).update(&one).await.unwrap();
    assert_eq!(told.end_user, "300ms 250ms 7s on");

    sqlx::raw_sql("CREATE OR REPLACE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(60); RETURN NEW; END $$")
        .execute(&database.pool)
        .await
        .unwrap();
    let error = tokio::time::timeout(PATIENCE, db.sessions(&tenant).update(&told)).await.unwrap().unwrap_err();
    assert!(says(&error, "statement timeout"), "{error:?}");
    db.close().await;
}

#[tokio::test]
async fn what_may_have_been_committed_is_not_done_again() {
    let database = Postgres::shared().await.database().await;
    migrated(&database).await;
    let db = Db::open_postgres(&database.url().into(), &PgSettings::default()).await.unwrap();
    let make = Make::new();
    let tenant = make.stored_tenant(&db, "unsure").await;
    // The connection ends with the COMMIT on its way. A sequence counts also what is undone.
    let ends_when = |when: &str| {
        AssertSqlSafe(format!(
            "DROP TRIGGER IF EXISTS ends ON sessions; CREATE SEQUENCE IF NOT EXISTS tries; GRANT USAGE ON SEQUENCE tries TO PUBLIC;
             CREATE OR REPLACE FUNCTION ends() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
                 IF nextval('tries') = 1 THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF;
                 RETURN NEW;
             END $$;
             CREATE CONSTRAINT TRIGGER ends AFTER INSERT ON sessions DEFERRABLE INITIALLY {when}
                 FOR EACH ROW EXECUTE FUNCTION ends();"
        ))
    };
    let tries =
        async || sqlx::query_scalar::<_, i64>("SELECT last_value FROM tries").fetch_one(&database.pool).await.unwrap();
    sqlx::raw_sql(ends_when("DEFERRED")).execute(&database.pool).await.unwrap();
    let one = session(&make, &tenant, "ada");
    let error = db.sessions(&tenant).insert(&one).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
    assert_eq!(tries().await, 1, "once");

    // The same before the COMMIT has left nothing, and is done again.
    sqlx::raw_sql(ends_when("IMMEDIATE")).execute(&database.pool).await.unwrap();
    sqlx::raw_sql("ALTER SEQUENCE tries RESTART").execute(&database.pool).await.unwrap();
    db.sessions(&tenant).insert(&one).await.unwrap();
    assert_eq!(tries().await, 2, "twice");
    db.close().await;
}
