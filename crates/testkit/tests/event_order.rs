//! Whoever reads on from the last event that they saw misses none, whoever writes at the same time, in whatever order
//! they commit: on both engines, through several of us on one database.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::{sync::Arc, time::Duration};

use astrfleet_core::{
    event::{Event, Kind, NewEvent},
    id::TenantId,
    message::{Message, State},
    ports::{NewMessage, Outcome, Store},
    session::{Event as SessionEvent, Session},
};
use astrfleet_store::{Db, PgSettings};
use astrfleet_testkit::{
    contract::{
        messages::{message, reply},
        sessions::stored_session,
        store::{Make, NOW},
    },
    postgres::{Database, Postgres},
};
use futures_util::future::join_all;
use proptest::{
    prelude::*,
    strategy::ValueTree as _,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use serde_json::json;

/// What one writer does, one thing after the other.
#[derive(Clone, Debug)]
enum Act {
    /// A message is accepted; in so many tenants at once.
    Accept(usize),
    /// One is accepted and answered.
    Answer,
    /// A session changes twice.
    TakeOver,
    /// Something else is told.
    Tell,
    /// So many milliseconds pass.
    Wait(u64),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        (1_usize..4).prop_map(Act::Accept),
        Just(Act::Answer),
        Just(Act::TakeOver),
        Just(Act::Tell),
        (0_u64..4).prop_map(Act::Wait),
    ]
}

struct World {
    dbs: Vec<Db>,
    make: Make,
    sessions: Vec<Session>,
}

impl World {
    async fn new(dbs: Vec<Db>) -> Self {
        dbs[0].migrate_up(NOW).await.unwrap();
        let make = Make::new();
        let mut sessions = Vec::new();
        for name in ["first", "second", "third"] {
            let tenant = make.stored_tenant(&dbs[0], name).await;
            sessions.push(stored_session(&dbs[0], &make, &tenant, "ada").await);
        }
        Self { dbs, make, sessions }
    }

    async fn accept(&self, db: &Db, session: &Session) -> Message {
        let asked = message(&self.make, session);
        db.messages(&asked.tenant_id).accept(NewMessage { message: asked.clone(), idempotency: None }).await.unwrap();
        asked
    }

    /// Returns how many events each tenant got.
    async fn write(&self, number: usize, acts: &[Act]) -> [i64; 3] {
        let db = &self.dbs[number % self.dbs.len()];
        let mut told = [0; 3];
        for act in acts {
            let (session, at) = (&self.sessions[number % 3], number % 3);
            match act {
                Act::Accept(tenants) => {
                    let sessions = &self.sessions[..*tenants];
                    join_all(sessions.iter().map(|session| self.accept(db, session))).await;
                    told.iter_mut().take(*tenants).for_each(|count| *count += 1);
                }
                Act::Answer => {
                    let asked = self.accept(db, session).await;
                    let outcome = Outcome::Reply(reply(&self.make, &asked, State::Done, NOW));
                    let messages = db.messages(&asked.tenant_id);
                    assert!(messages.finish(&asked.id, &[State::Accepted], outcome, NOW).await.unwrap());
                    told[at] += 2;
                }
                Act::TakeOver => {
                    let session = stored_session(db, &self.make, &session.tenant_id, "bob").await;
                    let taken = session.after(SessionEvent::TakenOver, NOW).unwrap();
                    db.sessions(&session.tenant_id).update(&taken).await.unwrap();
                    told[at] += 2;
                }
                Act::Tell => {
                    let data = json!({});
                    let kind = Kind::WebhookDisabled;
                    let event = NewEvent { kind, session_id: None, message_id: None, data, at: NOW };
                    db.events(&session.tenant_id).append(&event).await.unwrap();
                    told[at] += 1;
                }
                Act::Wait(milliseconds) => tokio::time::sleep(Duration::from_millis(*milliseconds)).await,
            }
        }
        told
    }

    /// Reads on until `stop`, and then to the end. Returns how many there were.
    async fn read(&self, db: &Db, tenant: &TenantId, from: i64, stop: &tokio::sync::watch::Receiver<bool>) -> i64 {
        let mut last = from;
        loop {
            let stopped = *stop.borrow();
            let page = db.events(tenant).after(last, None, 3).await.unwrap();
            for event in &page {
                assert_eq!(event.seq(), last + 1, "a place was passed over");
                last = event.seq();
            }
            if stopped && page.is_empty() {
                return last - from;
            }
            tokio::task::yield_now().await;
        }
    }

    async fn holds(&self, plan: &[Vec<Act>]) {
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let mut begun = Vec::new();
        for session in &self.sessions {
            begun.push(self.dbs[0].events(&session.tenant_id).bounds().await.unwrap().1);
        }
        let writing = async {
            let told = join_all(plan.iter().enumerate().map(|(number, acts)| self.write(number, acts))).await;
            stop.send_replace(true);
            told.into_iter().fold([0; 3], |sum, told| [sum[0] + told[0], sum[1] + told[1], sum[2] + told[2]])
        };
        let reading = join_all(self.sessions.iter().zip(&begun).enumerate().map(|(number, (session, from))| {
            self.read(&self.dbs[number % self.dbs.len()], &session.tenant_id, *from, &stopped)
        }));
        let (told, read) = tokio::join!(writing, reading);
        assert_eq!(read, told, "all that was told was read once");
    }
}

/// The same plans in every run.
async fn any_order(world: World, cases: usize) {
    let config = Config { failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let plans = prop::collection::vec(prop::collection::vec(act(), 1..12), 2..9);
    for _ in 0..cases {
        let plan = plans.new_tree(&mut runner).unwrap().current();
        world.holds(&plan).await;
    }
    for db in &world.dbs {
        db.close().await;
    }
}

async fn opened(database: &Database) -> Db {
    Db::open_postgres(&database.url().into(), &PgSettings::default()).await.unwrap()
}

#[tokio::test]
async fn nobody_is_passed_over_on_postgres() {
    let database = Postgres::shared().await.database().await;
    let dbs = vec![opened(&database).await, opened(&database).await, opened(&database).await];
    any_order(World::new(dbs).await, 25).await;
}

#[tokio::test]
async fn nobody_is_passed_over_on_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let db = Db::open_sqlite(&folder.path().join("store.db")).await.unwrap();
    any_order(World::new(vec![db]).await, 25).await;
}

/// One who writes stands still in the middle of their transaction, after they took their place: nobody sees a later
/// place before theirs.
#[tokio::test]
async fn a_later_place_waits_for_an_earlier_one() {
    let database = Postgres::shared().await.database().await;
    let world = World::new(vec![opened(&database).await, opened(&database).await]).await;
    let tenant = world.sessions[0].tenant_id.clone();
    let mut held = database.pool.begin().await.unwrap();
    let take = "UPDATE event_heads SET seq = seq + 1 WHERE tenant_id = $1";
    sqlx::query(take).bind(tenant.as_str()).execute(&mut *held).await.unwrap();
    let world = Arc::new(world);
    let writing = {
        let world = Arc::clone(&world);
        tokio::spawn(async move { world.accept(&world.dbs[1], &world.sessions[0]).await })
    };
    // Another tenant's are not held up by it.
    world.accept(&world.dbs[0], &world.sessions[1]).await;
    assert_eq!(world.dbs[0].events(&tenant).after(0, None, 10).await.unwrap().len(), 1, "the session that was opened");
    assert!(!writing.is_finished());
    let insert = "INSERT INTO events VALUES ($1, 2, NULL, NULL, 'test', '{}', 1)";
    sqlx::query(insert).bind(tenant.as_str()).execute(&mut *held).await.unwrap();
    held.commit().await.unwrap();
    writing.await.unwrap();
    let places: Vec<_> =
        world.dbs[0].events(&tenant).after(0, None, 10).await.unwrap().iter().map(Event::seq).collect();
    assert_eq!(places, [1, 2, 3]);
    for db in &world.dbs {
        db.close().await;
    }
}
