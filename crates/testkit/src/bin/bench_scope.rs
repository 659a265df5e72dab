//! What it costs to tell PostgreSQL whose rows a statement may touch: the same reads, writes and accepted messages by
//! several ways, in turn, on one server with everything on that makes a commit durable. Prints a line of JSON for each:
//! `{"what", "way", "clients", "per_s", "server_cpu_us"}`, the medians of all rounds. `bench_scope [ROUNDS] [SECONDS]`.

use std::{collections::BTreeMap, error::Error, path::Path, sync::Arc, time::Duration};

use astrfleet_core::{
    id::TenantId,
    ports::{NewMessage, Store},
    session::Session,
};
use astrfleet_store::{Db, PgSettings};
use astrfleet_testkit::{
    contract::{
        messages::message,
        sessions::stored_session,
        store::{Make, NOW},
    },
    postgres::{Database, Postgres},
};
use sqlx::{AssertSqlSafe, PgPool, postgres::PgPoolOptions};
use tokio::time::Instant;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const READ: &str = "SELECT tenant_id, id, end_user, channel, state, close_reason, metadata, generation, created_at,
    last_active_at, version FROM sessions WHERE tenant_id = $1 AND id = $2";
const WRITE: &str = "UPDATE messages SET partial = $3 WHERE tenant_id = $1 AND id = $2";
const CLIENTS: [usize; 2] = [1, 8];

/// How a statement is told whose rows it may touch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Not at all: nothing holds whoever asks. A connection is asked whether it lives before.
    Unheld,
    /// The connection is told, then asked.
    Connection,
    /// A transaction is told, asked, and ended.
    Transaction,
    /// As the store does it.
    Store,
    /// The same by somebody whom nothing holds.
    StoreUnheld,
}

const WAYS: [Way; 5] = [Way::Unheld, Way::Connection, Way::Transaction, Way::Store, Way::StoreUnheld];

#[derive(Clone, Copy, Debug)]
enum What {
    Read,
    Write,
    Accept,
}

struct World {
    unheld: PgPool,
    held: PgPool,
    store: Db,
    store_unheld: Db,
    make: Make,
    session: Session,
    said: Vec<astrfleet_core::message::Message>,
}

#[tokio::main]
async fn main() -> Outcome<()> {
    let mut numbers = std::env::args().skip(1).map(|word| word.parse::<u64>());
    let rounds = numbers.next().transpose()?.unwrap_or(5);
    let duration = Duration::from_secs(numbers.next().transpose()?.unwrap_or(2));
    let server = Postgres::start_durable().await;
    let database = server.database().await;
    let world = Arc::new(World::new(&database).await?);
    let mut figures: BTreeMap<(String, usize, String), Vec<(f64, f64)>> = BTreeMap::new();
    for _ in 0..rounds {
        for (what, ways) in
            [(What::Read, &WAYS[..]), (What::Write, &WAYS), (What::Accept, &[Way::Store, Way::StoreUnheld])]
        {
            for clients in CLIENTS {
                for way in ways {
                    let figure = measure(&world, what, *way, clients, duration, &server.data_folder()).await?;
                    figures.entry((format!("{what:?}"), clients, format!("{way:?}"))).or_default().push(figure);
                }
            }
        }
    }
    for ((what, clients, way), figures) in figures {
        let median = |pick: fn(&(f64, f64)) -> f64| {
            let mut all: Vec<_> = figures.iter().map(pick).collect();
            all.sort_by(f64::total_cmp);
            all[all.len() / 2]
        };
        let line = serde_json::json!({
            "what": what, "way": way, "clients": clients,
            "per_s": median(|figure| figure.0).round(), "server_cpu_us": median(|figure| figure.1).round(),
        });
        println!("{line}");
    }
    Ok(())
}

impl World {
    async fn new(database: &Database) -> Outcome<Self> {
        let store = Db::open_postgres(&database.url().into(), &PgSettings::default()).await?;
        store.migrate_up(NOW).await?;
        let store_unheld = Db::open_postgres(&database.url_of_superuser().into(), &PgSettings::default()).await?;
        let make = Make::new();
        let tenant = make.stored_tenant(&store, "bench").await;
        let session = stored_session(&store, &make, &tenant, "ada").await;
        let mut said = Vec::new();
        for _ in 0..CLIENTS[1] {
            let message = message(&make, &session);
            store.messages(&tenant).accept(NewMessage { message: message.clone(), idempotency: None }).await?;
            said.push(message);
        }
        let pool = || PgPoolOptions::new().max_connections(16);
        Ok(Self {
            unheld: pool().connect(&database.url_of_superuser()).await?,
            held: pool().test_before_acquire(false).connect(&database.url()).await?,
            store,
            store_unheld,
            make,
            session,
            said,
        })
    }

    async fn once(&self, what: What, way: Way, client: usize) -> Outcome<()> {
        let tenant = &self.session.tenant_id;
        match (what, way) {
            (What::Accept, way) => {
                let new = NewMessage { message: message(&self.make, &self.session), idempotency: None };
                self.store(way).messages(tenant).accept(new).await?;
            }
            (What::Read, Way::Store | Way::StoreUnheld) => {
                self.store(way).sessions(tenant).get(&self.session.id).await?;
            }
            (What::Write, Way::Store | Way::StoreUnheld) => {
                self.store(way).messages(tenant).set_partial(&self.said[client].id, "so far").await?;
            }
            (what, Way::Unheld) => {
                let mut connection = self.unheld.acquire().await?;
                self.ask(what, client, &mut connection).await?;
            }
            (what, Way::Connection) => {
                let mut connection = self.held.acquire().await?;
                let told = format!("SET astrfleet.scope = '{tenant}'");
                sqlx::raw_sql(AssertSqlSafe(told)).execute(&mut *connection).await?;
                self.ask(what, client, &mut connection).await?;
            }
            (what, Way::Transaction) => {
                let mut transaction = self.held.begin_with(AssertSqlSafe(begin(tenant))).await?;
                self.ask(what, client, &mut transaction).await?;
                transaction.commit().await?;
            }
        }
        Ok(())
    }

    async fn ask(&self, what: What, client: usize, connection: &mut sqlx::PgConnection) -> Outcome<()> {
        let tenant = self.session.tenant_id.as_str();
        match what {
            What::Read => {
                let read = sqlx::query(READ).bind(tenant).bind(self.session.id.as_str());
                read.fetch_one(connection).await?;
            }
            What::Write | What::Accept => {
                let write = sqlx::query(WRITE).bind(tenant).bind(self.said[client].id.as_str()).bind("so far");
                write.execute(connection).await?;
            }
        }
        Ok(())
    }

    fn store(&self, way: Way) -> &Db {
        if way == Way::StoreUnheld { &self.store_unheld } else { &self.store }
    }
}

fn begin(tenant: &TenantId) -> String {
    format!("BEGIN; SET LOCAL astrfleet.scope = '{tenant}'")
}

/// How often a second, and the server's microseconds of processor time for each.
async fn measure(
    world: &Arc<World>,
    what: What,
    way: Way,
    clients: usize,
    duration: Duration,
    server: &Path,
) -> Outcome<(f64, f64)> {
    let (before, began) = (cpu_us(server), Instant::now());
    let mut tasks = tokio::task::JoinSet::new();
    for client in 0..clients {
        let world = Arc::clone(world);
        tasks.spawn(async move {
            let mut count = 0_u32;
            while began.elapsed() < duration {
                world.once(what, way, client).await?;
                count += 1;
            }
            Outcome::Ok(count)
        });
    }
    let mut count = 0.0;
    while let Some(done) = tasks.join_next().await {
        count += f64::from(done??);
    }
    Ok((count / began.elapsed().as_secs_f64(), (cpu_us(server) - before) / count))
}

/// Of all processes that work in the server's data folder; those that came and went in between are missed.
fn cpu_us(data: &Path) -> f64 {
    const TICK_US: f64 = 10_000.0;
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let ours = processes.filter(|process| std::fs::read_link(process.path().join("cwd")).is_ok_and(|cwd| cwd == data));
    ours.filter_map(|process| {
        let stat = std::fs::read_to_string(process.path().join("stat")).ok()?;
        let fields: Vec<f64> = stat.rsplit_once(") ")?.1.split(' ').map(|field| field.parse().unwrap_or(0.0)).collect();
        // The 14th and 15th of all, of which these are without the first two.
        Some((fields.get(11)? + fields.get(12)?) * TICK_US)
    })
    .sum()
}
