//! How the store deals with PostgreSQL servers: their limits, their ends, their replicas, and what it tries again.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::time::Duration;

use astrfleet_core::{
    Error,
    page::PageRequest,
    policy::Role,
    ports::{Store, Tenants},
    session::Session,
};
use astrfleet_store::{
    Db, PgSettings,
    migrate::{MIGRATIONS, Migration, contracts, is_contract},
};
use astrfleet_testkit::{
    contract::{
        sessions::{session, stored_session},
        store::{Make, NOW},
        tenants::fill,
    },
    ports::free_port,
    postgres::{Database, Postgres},
};
use sqlx::AssertSqlSafe;

async fn opened(database: &Database, settings: &PgSettings) -> Db {
    let db = Db::open_postgres(&database.url().into(), settings).await.unwrap();
    db.migrate_up(NOW).await.unwrap();
    db
}

async fn sessions(db: &Db, of: &Session) -> Vec<Session> {
    db.sessions(&of.tenant_id).list(None, &PageRequest::first()).await.unwrap().items
}

#[tokio::test]
async fn every_step_can_be_undone_and_made_again_with_rows_in_the_tables() {
    let database = Postgres::shared().await.database().await;
    let postgres = opened(&database, &PgSettings::default()).await;
    let folder = tempfile::tempdir().unwrap();
    let sqlite = Db::open_sqlite(&folder.path().join("store.db")).await.unwrap();
    sqlite.migrate_up(NOW).await.unwrap();
    for db in [postgres, sqlite] {
        let make = Make::new();
        for (count, to) in (0..MIGRATIONS.len()).rev().enumerate() {
            let (tenant, owner) = make.stored_tenant_with_owner(&db, &format!("undone-{count}")).await;
            fill(&db, &make, &tenant, &owner).await;
            let to = i64::try_from(to).unwrap();
            let plan: Vec<_> = db.undoable_steps(to).await.unwrap().iter().map(|step| step.name).collect();
            assert_eq!(db.migrate_down(to).await.unwrap(), plan);
            let missing: Vec<_> = db.missing_steps(i64::MAX).await.unwrap().iter().map(|step| step.name).collect();
            assert_eq!(db.migrate_up(NOW).await.unwrap(), missing);
            assert_eq!(missing.iter().rev().copied().collect::<Vec<_>>(), plan, "the same steps the other way");
        }
        // Undoing a wall loses no row; undoing a table does.
        let (tenant, owner) = make.stored_tenant_with_owner(&db, "kept").await;
        db.migrate_down(2).await.unwrap();
        db.migrate_up_to(NOW, 3).await.unwrap();
        assert_eq!(db.members(&tenant).get(&owner).await.unwrap().role, Role::Owner);
        db.close().await;
    }
}

#[tokio::test]
async fn what_the_release_before_uses_stays_until_somebody_says_that_it_is_gone() {
    let names = |steps: &[Migration]| steps.iter().map(|step| step.name).collect::<Vec<_>>();
    let (kept, left) = MIGRATIONS.split_at(MIGRATIONS.len() - contracts().len());
    assert!(contracts().iter().all(|step| is_contract(step.name)) && !is_contract(kept.last().unwrap().name));
    let database = Postgres::shared().await.database().await;
    let db = Db::open_postgres(&database.url().into(), &PgSettings::default()).await.unwrap();
    db.migrate_up_to(NOW, 1).await.unwrap();
    for expected in [names(&kept[1..]), Vec::new()] {
        assert_eq!(db.migrate_up_beside_previous(NOW).await.unwrap(), expected);
    }
    assert_eq!(db.migrate_up(NOW).await.unwrap(), names(left));

    // Nobody uses what was never there, and SQLite's database is of one program at a time.
    db.migrate_down(0).await.unwrap();
    assert_eq!(db.migrate_up_beside_previous(NOW).await.unwrap(), names(MIGRATIONS));
    db.close().await;
    let folder = tempfile::tempdir().unwrap();
    let sqlite = Db::open_sqlite(&folder.path().join("store.db")).await.unwrap();
    sqlite.migrate_up_to(NOW, 1).await.unwrap();
    assert_eq!(sqlite.migrate_up_beside_previous(NOW).await.unwrap(), names(&MIGRATIONS[1..]));
    sqlite.close().await;
}

#[tokio::test]
async fn a_step_waits_for_nobody_for_long_and_says_so() {
    let database = Postgres::shared().await.database().await;
    let db = opened(&database, &PgSettings::default()).await;
    db.migrate_down(2).await.unwrap();
    let missing: Vec<_> = db.missing_steps(i64::MAX).await.unwrap().iter().map(|step| step.name).collect();
    let mut holder = database.pool.begin().await.unwrap();
    sqlx::raw_sql("LOCK TABLE messages IN ACCESS SHARE MODE").execute(&mut *holder).await.unwrap();
    let again = db.clone();
    let migrating = tokio::spawn(async move { again.migrate_up(NOW).await });
    // It waits in the server, behind the holder.
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    while sqlx::query_scalar::<_, i64>(waits).fetch_one(&database.pool).await.unwrap() == 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    holder.rollback().await.unwrap();
    assert_eq!(migrating.await.unwrap().unwrap(), missing);
    db.close().await;
}

#[tokio::test]
async fn limits_end_what_takes_too_long_and_no_connection_is_said_to_be_none() {
    let database = Postgres::shared().await.database().await;
    let settings = PgSettings {
        connections_max: 1,
        acquire_timeout: Duration::from_millis(300),
        lock_timeout: Duration::from_millis(200),
        ..PgSettings::default()
    };
    let db = opened(&database, &settings).await;
    let make = Make::new();
    let tenant = make.stored_tenant(&db, "held").await;
    let stored = db.tenants().get(&tenant).await.unwrap();

    let mut holder = database.pool.begin().await.unwrap();
    sqlx::query("UPDATE tenants SET version = version").execute(&mut *holder).await.unwrap();
    let error = db.tenants().update(&stored).await.unwrap_err();
    assert!(
        matches!(&error, Error::Unavailable { source, .. } if source.to_string().contains("lock timeout")),
        "{error:?}"
    );

    let waiting = PgSettings { lock_timeout: Duration::from_secs(20), ..settings };
    let patient = Db::open_postgres(&database.url().into(), &waiting).await.unwrap();
    let (one, other) = tokio::join!(
        async {
            let outcome = patient.tenants().update(&stored).await;
            outcome.map(|_| ())
        },
        async {
            let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
                AND wait_event_type = 'Lock'";
            while sqlx::query_scalar::<_, i64>(waits).fetch_one(&database.pool).await.unwrap() == 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let outcome = patient.tenants().get(&tenant).await;
            holder.rollback().await.unwrap();
            outcome
        }
    );
    one.unwrap();
    let error = other.unwrap_err();
    let said = |source: &(dyn std::error::Error + Send + Sync)| source.to_string().contains("database.max_connections");
    assert!(matches!(&error, Error::Unavailable { source, .. } if said(source.as_ref())), "{error:?}");
    patient.close().await;
    db.close().await;
}

#[tokio::test]
async fn what_two_do_across_each_other_is_tried_again() {
    let database = Postgres::shared().await.database().await;
    let db = opened(&database, &PgSettings::default()).await;
    let make = Make::new();
    let (first, second) = (make.stored_tenant(&db, "first").await, make.stored_tenant(&db, "second").await);
    // Whoever writes to the second tenant holds the first one's row for a moment: two of them are across each other.
    sqlx::raw_sql(AssertSqlSafe(format!(
        "CREATE FUNCTION across() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             PERFORM pg_sleep(0.3);
             PERFORM 1 FROM tenants WHERE id = CASE NEW.id WHEN '{first}' THEN '{second}' ELSE '{first}' END FOR UPDATE;
             RETURN NEW;
         END $$;
         CREATE TRIGGER across AFTER UPDATE ON tenants FOR EACH ROW EXECUTE FUNCTION across();
         GRANT EXECUTE ON FUNCTION across TO PUBLIC;"
    )))
    .execute(&database.pool)
    .await
    .unwrap();
    let (one, other) = (db.tenants().get(&first).await.unwrap(), db.tenants().get(&second).await.unwrap());
    let tenants: Box<dyn Tenants> = db.tenants();
    let (one, other) = tokio::join!(tenants.update(&one), tenants.update(&other));
    assert_eq!((one.unwrap().version, other.unwrap().version), (2, 2), "one was undone, and nobody noticed");
    let deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    while sqlx::query_scalar::<_, i64>(deadlocks).fetch_one(&database.pool).await.unwrap() == 0 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    db.close().await;
}

#[tokio::test]
async fn connections_that_are_gone_are_replaced_and_nobody_notices() {
    let server = Postgres::start().await;
    let database = server.database().await;
    let db = opened(&database, &PgSettings::default()).await;
    let make = Make::new();
    let tenant = make.stored_tenant(&db, "restarted").await;
    let many = || futures_util::future::join_all((0..8).map(|_| async { db.tenants().get(&tenant).await.unwrap() }));
    many().await;
    server.kill_9();
    server.restart().await;
    many().await;
    server.kill_9();
    server.restart().await;
    let one = session(&make, &tenant, "ada");
    db.sessions(&tenant).insert(&one).await.unwrap();
    assert_eq!(sessions(&db, &one).await, [one]);
    db.close().await;
}

#[tokio::test]
async fn sessions_that_are_looked_up_together_are_found_by_their_own_tenants_alone() {
    let database = Postgres::shared().await.database().await;
    let db = opened(&database, &PgSettings::default()).await;
    let make = Make::new();
    let tenants = [make.stored_tenant(&db, "one").await, make.stored_tenant(&db, "other").await];
    let mut stored = Vec::new();
    for number in 0..40 {
        stored.push(stored_session(&db, &make, &tenants[number % 2], "ada").await);
    }
    for _ in 0..2 {
        let asked = stored.iter().enumerate().map(async |(number, session)| {
            let (own, other) = (db.sessions(&tenants[number % 2]), db.sessions(&tenants[(number + 1) % 2]));
            let (found, again, foreign) = tokio::join!(
                own.get_with_newest(&session.id),
                own.get_with_newest(&session.id),
                other.get_with_newest(&session.id)
            );
            assert_eq!(found.unwrap(), (session.clone(), None));
            assert_eq!(again.unwrap(), (session.clone(), None));
            assert!(matches!(foreign, Err(Error::NotFound { what: "session" })), "{foreign:?}");
        });
        futures_util::future::join_all(asked).await;
        // Once more, after every connection was cut.
        let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                   WHERE datname = current_database() AND pid <> pg_backend_pid()";
        sqlx::query(cut).execute(&database.pool).await.unwrap();
    }
    db.close().await;
}

#[tokio::test]
async fn lists_come_from_a_replica_unless_they_follow_a_write_or_it_is_away() {
    let server = Postgres::start().await;
    let primary = server.database().await;
    let make = Make::new();
    let writer = opened(&primary, &PgSettings::default()).await;
    let tenant = make.stored_tenant(&writer, "read").await;
    let stored = stored_session(&writer, &make, &tenant, "ada").await;

    // A second server stands for a replica that lags behind: it never hears of anything.
    let behind = Postgres::start().await;
    let copy = behind.database_named(primary.name()).await;
    opened(&copy, &PgSettings::default()).await.close().await;
    let settings = PgSettings {
        replicas: vec![("127.0.0.1".to_owned(), behind.port()), ("127.0.0.1".to_owned(), free_port())],
        ..PgSettings::default()
    };
    let db = opened(&primary, &settings).await;
    // One of the two replicas is away: after it was found so, every list comes from the other one.
    sessions(&db, &stored).await;
    sessions(&db, &stored).await;
    assert_eq!(sessions(&db, &stored).await, [], "from the replica, which knows of none");
    assert_eq!(
        db.sessions(&tenant).get(&stored.id).await.unwrap(),
        stored,
        "what must be true is asked of the primary"
    );
    let other = session(&make, &tenant, "bob");
    db.sessions(&tenant).insert(&other).await.unwrap();
    assert_eq!(sessions(&db, &stored).await, [other.clone(), stored.clone()], "after a write");

    let impatient = PgSettings { fresh_after_write: Duration::ZERO, ..settings };
    let db = opened(&primary, &impatient).await;
    sessions(&db, &stored).await;
    sessions(&db, &stored).await;
    assert_eq!(sessions(&db, &stored).await, []);
    drop(copy);
    drop(behind);
    assert_eq!(sessions(&db, &stored).await, [other, stored], "no replica is left");
    db.close().await;
    writer.close().await;
}
