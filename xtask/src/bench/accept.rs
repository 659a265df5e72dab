//! `accept`: messages that become durable a second, beside the engine's own way to write the same row one by one.
//!
//! At the store port, and through the whole API: `POST …/messages?wait=0` with an API key, to 64 sessions in turn, of a
//! platform that may run no bot, so that every message is stored, queued and acknowledged and none is answered. Its limits
//! are raised: a queue of 100 messages, 1,000 requests a minute and the plan's messages a day would end the measurement
//! in a moment. Each figure is taken on a new and empty database.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use super::{
    Effort,
    database::{Database, Server, tool},
    load::{Requests, drive_from_anywhere},
    platform::{self, Kit, Start, remove},
    proc::machine,
    table::{self, OURSELVES, Row, Series, interleaved, rows},
};
use crate::errand::{Workspace, output, succeeds};

const METRIC: &str = "accepts_per_s";
const UNIT: &str = "messages a second that have become durable";

/// Ourselves as we are, beside ourselves as somebody whom row-level security does not hold.
const WALL_ON: &str = "row-level security on";

/// Sessions that are written to at the same time; as many as there are clients.
const SESSIONS: usize = 64;

/// The same words as `bench_accept`'s.
const TEXT: &str = "Hello, my order 4711 of last Tuesday has not come yet. The tracking page says that it left the \
                    warehouse on Wednesday, and nothing since. Could you please find out where it is?";

/// No bot, no limits that would be reached.
const CONFIG: &str = "
[log]
level = 'warn'
[gateway]
metrics_listen = '127.0.0.1:0'
rate_limit_per_minute = 4000000000
anonymous_rate_limit_per_minute = 4000000000
[manager]
max_instances = 0
[message]
queue_length = 4000000000
[plans.free]
concurrent_chats = 4
messages_per_day = 1000000000
tokens_per_month = 1000000
storage_bytes = 268435456
bot_memory_bytes = 805306368
bot_cpu_milli = 1000
";

/// Measures and reports all rows, of both engines.
pub fn run(workspace: &Workspace, effort: Effort) -> Result<()> {
    ensure!(succeeds("which", &["wrk"]), "the benchmark needs wrk: apt-get install wrk");
    let machine = machine()?;
    let bench = Bench::prepare(workspace, effort)?;
    let mut rows = bench.measure(&Engine::Sqlite)?;
    let server = Server::start(workspace, None)?;
    rows.extend(bench.measure(&Engine::Postgres(server))?);
    table::print("accept", &rows);
    table::write(&workspace.target, "accept", &machine, &rows)
}

/// The programs of one run.
struct Bench {
    kit: Kit,
    /// `bench_accept` of the crate `testkit`.
    store: PathBuf,
    folder: PathBuf,
    effort: Effort,
}

/// Where messages are written.
enum Engine {
    Sqlite,
    Postgres(Server),
}

impl Engine {
    /// Behind the names of the rows.
    fn suffix(&self) -> &'static str {
        match self {
            Self::Sqlite => " (sqlite)",
            Self::Postgres(_) => "",
        }
    }

    /// What stands beside us.
    fn peer(&self) -> &'static str {
        match self {
            Self::Sqlite => "row by row",
            Self::Postgres(_) => "pgbench",
        }
    }

    fn database(&self, folder: &Path) -> Result<Database> {
        match self {
            Self::Sqlite => Ok(Database::Sqlite(folder.join("bench.db"))),
            Self::Postgres(server) => server.database(),
        }
    }
}

impl Bench {
    fn prepare(workspace: &Workspace, effort: Effort) -> Result<Self> {
        platform::build(workspace)?;
        let folder = workspace.target.join("bench").join("accept");
        fs::create_dir_all(&folder)?;
        Ok(Self { kit: Kit::lay(workspace)?, store: tool(workspace, "bench_accept"), folder, effort })
    }

    /// The rows of one engine.
    fn measure(&self, engine: &Engine) -> Result<Vec<Row>> {
        let (suffix, peer) = (engine.suffix(), engine.peer());
        let mut all = Vec::new();
        for (name, clients) in [("store 1 client", 1), ("store 8 clients", 8)] {
            let series = interleaved(&[OURSELVES, peer], self.effort.rounds, |subject| match subject {
                OURSELVES => self.store(engine, clients),
                _ => self.beside(engine, clients),
            })?;
            all.extend(rows(&format!("{name}{suffix}"), METRIC, UNIT, &series));
        }
        // Both ways to us beside the same rounds of the peer.
        let series = interleaved(&["store", "http", peer], self.effort.rounds, |subject| match subject {
            "store" => self.store(engine, SESSIONS),
            "http" => self.http(engine),
            _ => self.beside(engine, SESSIONS),
        })?;
        let [store, http, peer] = <[Series; 3]>::try_from(series).ok().context("a series is missing")?;
        for own in [store, http] {
            let name = format!("{} {SESSIONS} clients{suffix}", own.subject);
            let own = Series { subject: OURSELVES.to_owned(), ..own };
            all.extend(rows(&name, METRIC, UNIT, &[own, peer.clone()]));
        }
        if let Engine::Postgres(server) = engine {
            for (name, clients) in [("store 1 client", 1), ("store 64 clients", SESSIONS)] {
                let series = interleaved(&[OURSELVES, WALL_ON], self.effort.rounds, |subject| match subject {
                    OURSELVES => self.ask_store(&server.database()?.unheld(), &self.load(clients)),
                    _ => self.store(engine, clients),
                })?;
                all.extend(rows(&format!("{name} (row-level security off)"), METRIC, UNIT, &series));
            }
        }
        Ok(all)
    }

    /// At the store port.
    fn store(&self, engine: &Engine, clients: usize) -> Result<f64> {
        let folder = self.empty_folder("store")?;
        self.ask_store(&engine.database(&folder)?, &self.load(clients))
    }

    /// The engine by itself.
    fn beside(&self, engine: &Engine, clients: usize) -> Result<f64> {
        let folder = self.empty_folder("peer")?;
        let database = engine.database(&folder)?;
        match engine {
            Engine::Sqlite => self.ask_store(&database, &[self.load(clients), vec!["--raw".to_owned()]].concat()),
            Engine::Postgres(server) => {
                let script = folder.join("insert.sql");
                fs::write(&script, output(Command::new(&self.store).args(database.arguments()).arg("--pgbench"))?)?;
                self.pgbench(server, &database, &script, clients)
            }
        }
    }

    /// Through the API.
    fn http(&self, engine: &Engine) -> Result<f64> {
        let folder = self.empty_folder("http")?;
        let database = match engine {
            // The platform's own.
            Engine::Sqlite => Database::Sqlite(folder.join("data").join("astrfleet.db")),
            Engine::Postgres(server) => server.database()?,
        };
        let environment = database.environment();
        let platform = self.kit.ready(Start { folder: &folder, config: CONFIG, environment: &environment })?;
        platform.create_tenant("acme")?;
        let key = platform.create_key("acme")?;
        let paths = (0..SESSIONS)
            .map(|number| {
                let session = platform.open_session("acme", &format!("user-{number}"))?;
                Ok(format!("/api/v1/tenants/acme/sessions/{session}/messages?wait=0"))
            })
            .collect::<Result<_>>()?;
        let requests = Requests::posts(paths, &[("Authorization", &format!("Bearer {key}"))], &json!({ "text": TEXT }));
        let (answers, per_second) =
            drive_from_anywhere(platform.address, &requests, self.effort.seconds, &self.folder)?;
        let durable = self.count(&database)?;
        ensure!(
            durable >= u64::from(answers),
            "{answers} messages were acknowledged and {durable} are in the database"
        );
        Ok(per_second)
    }

    fn pgbench(&self, server: &Server, database: &Database, script: &Path, clients: usize) -> Result<f64> {
        let Database::Postgres { name, .. } = database else { bail!("pgbench is for PostgreSQL") };
        let mut pgbench = server.program("pgbench");
        pgbench.args(["--no-vacuum", "--protocol", "prepared", "--client", &clients.to_string()]);
        pgbench.args(["--jobs", &clients.min(2).to_string(), "--time", &self.effort.seconds.to_string(), "--file"]);
        let report = output(pgbench.arg(script).arg(name))?;
        commits_per_s(&report).with_context(|| format!("pgbench says no rate, or that something failed:\n{report}"))
    }

    fn load(&self, clients: usize) -> Vec<String> {
        vec!["--clients".to_owned(), clients.to_string(), "--seconds".to_owned(), self.effort.seconds.to_string()]
    }

    fn ask_store(&self, database: &Database, arguments: &[String]) -> Result<f64> {
        let text = output(Command::new(&self.store).args(database.arguments()).args(arguments))?;
        let report: Value = serde_json::from_str(&text)?;
        report[METRIC].as_f64().with_context(|| format!("bench_accept says no {METRIC}: {text}"))
    }

    fn count(&self, database: &Database) -> Result<u64> {
        let text = output(Command::new(&self.store).args(database.arguments()).arg("--count"))?;
        let report: Value = serde_json::from_str(&text)?;
        report["messages"].as_u64().with_context(|| format!("bench_accept says no number of messages: {text}"))
    }

    fn empty_folder(&self, name: &str) -> Result<PathBuf> {
        let folder = self.folder.join(name);
        remove(&folder)?;
        fs::create_dir_all(&folder)?;
        Ok(folder)
    }
}

/// The rate without the time that connecting took; none where a transaction failed.
fn commits_per_s(report: &str) -> Option<f64> {
    let failed = report.lines().find_map(|line| line.strip_prefix("number of failed transactions: "))?;
    if !failed.starts_with("0 ") {
        return None;
    }
    report.lines().find_map(|line| line.strip_prefix("tps = ")?.split_whitespace().next()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_found_in_what_pgbench_prints() {
        let report = "transaction type: a.sql\nnumber of failed transactions: 0 (0.000%)\n\
                      tps = 15934.250513 (without initial connection time)\n";
        assert_eq!(commits_per_s(report), Some(15_934.250_513));
        assert_eq!(commits_per_s(&report.replace(": 0 (", ": 7 (")), None);
        assert_eq!(commits_per_s("pgbench: error"), None);
    }
}
