//! `history`: how long a page takes in a history of millions, beside the same page in one of 10,000 messages.
//!
//! Through the API of the whole platform, one request after the other, each page another one: the messages of a session,
//! the list of sessions, and the search in what was said. `bench_history` of the crate `testkit` makes up the messages,
//! all of one tenant, and the index that the search has of them; the platform is shut then. The database is in memory
//! (the kernel's, for the most part) where it fits in there: what is compared is work, not disks.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{
    Effort,
    database::{Database, Server, tool},
    load::{Requests, ask, authorization, latency},
    platform::{self, Kit, Platform, Start, remove},
    proc::machine,
    table::{self, OURSELVES, Row, Series, interleaved_figures, rows},
};
use crate::errand::{Workspace, output, succeeds};

/// Of the history beside which ours stands.
const FEW: u32 = 10_000;
/// And its name.
const BESIDE: &str = "10,000 messages";
/// What a page holds where nobody says how much it should.
const PAGE: usize = 50;
const TENANT: &str = "acme";
/// Disk that a message takes, with all indexes and what it takes to make them. PostgreSQL's folder is among the temporary
/// ones, and SQLite's with us.
const BYTES_OF_MESSAGE: u64 = 800;

const P50: (&str, &str) = ("p50_ms", "milliseconds from the request to the whole answer, median");
const P99: (&str, &str) = ("p99_ms", "milliseconds from the request to the whole answer, 99th percentile");
const SIZE: (&str, &str) = ("size_mb", "millions of bytes of the whole database");

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
";

/// Measures and reports all rows, of both engines.
pub fn run(workspace: &Workspace, effort: Effort) -> Result<()> {
    ensure!(succeeds("which", &["wrk"]), "the benchmark needs wrk: apt-get install wrk");
    let wanted = BYTES_OF_MESSAGE * u64::from(effort.messages);
    for (folder, wanted) in [(std::env::temp_dir(), wanted), (workspace.target.clone(), wanted / 10)] {
        let (free, folder) = (free_bytes(&folder)?, folder.display());
        ensure!(free > wanted, "{folder} has {free} bytes free, and {wanted} are needed: take fewer --messages");
    }
    let machine = machine()?;
    platform::build(workspace)?;
    let bench = Bench::prepare(workspace, effort)?;
    let mut rows = bench.measure(None)?;
    let server = Server::start(workspace, None)?;
    rows.extend(bench.measure(Some(&server))?);
    table::print("history", &rows);
    table::write(&workspace.target, "history", &machine, &rows)
}

fn free_bytes(folder: &Path) -> Result<u64> {
    let report = output(Command::new("df").args(["--output=avail", "--block-size=1"]).arg(folder))?;
    let free = report.lines().nth(1).and_then(|line| line.trim().parse().ok());
    free.with_context(|| format!("df says no free space of {}: {report}", folder.display()))
}

/// The programs of one run.
struct Bench {
    kit: Kit,
    /// `bench_history` of the crate `testkit`.
    fill: PathBuf,
    folder: PathBuf,
    effort: Effort,
}

impl Drop for Bench {
    fn drop(&mut self) {
        // However it ended: it is large.
        let _gone_already = fs::remove_dir_all(&self.folder);
    }
}

/// A platform with a history.
struct History {
    platform: Platform,
    key: String,
    bytes: f64,
    pages: Vec<(Page, Vec<String>)>,
}

/// What is asked for: its name, and how many things are in an answer.
type Page = (&'static str, usize);

const MESSAGES: Page = ("messages of a session", PAGE);
const SESSIONS: Page = ("list of sessions", PAGE);
const FREQUENT: Page = ("search: a frequent word", PAGE);
const UNIQUE: Page = ("search: what was said once", 1);

impl Bench {
    fn prepare(workspace: &Workspace, effort: Effort) -> Result<Self> {
        let folder = workspace.target.join("bench").join("history");
        remove(&folder)?;
        fs::create_dir_all(&folder)?;
        Ok(Self { kit: Kit::lay(workspace)?, fill: tool(workspace, "bench_history"), folder, effort })
    }

    /// The rows of one engine.
    fn measure(&self, server: Option<&Server>) -> Result<Vec<Row>> {
        let (suffix, many, folder) = match server {
            Some(_) => ("", self.effort.messages, "postgres"),
            None => (" (sqlite)", self.effort.messages / 10, "sqlite"),
        };
        let folder = self.folder.join(folder);
        let both = [(OURSELVES, self.lay(server, many, &folder)?), (BESIDE, self.lay(server, FEW, &folder)?)];
        let name = |what: &str| format!("{what}, {}{suffix}", spelled(many));
        let mut all = Vec::new();
        for (place, (page, _)) in both[0].1.pages.iter().enumerate() {
            for (_, history) in &both {
                history.is_full(place)?;
            }
            let names = both.each_ref().map(|(name, _)| *name);
            let [p50, p99] = interleaved_figures(&names, self.effort.rounds, |subject| {
                let (_, history) = both.iter().find(|(name, _)| *name == subject).context("no such history")?;
                latency(history.platform.address, &history.requests(place), self.effort.seconds, &self.folder)
            })?;
            all.extend(rows(&name(page.0), P50.0, P50.1, &p50));
            all.extend(rows(&name(page.0), P99.0, P99.1, &p99));
        }
        for (subject, history) in both {
            let series = Series { subject: subject.to_owned(), values: vec![history.bytes / 1_000_000.0] };
            all.extend(rows(&name("database"), SIZE.0, SIZE.1, &[series]));
        }
        remove(&folder)?;
        Ok(all)
    }

    /// Makes a platform, and a history of its only tenant.
    fn lay(&self, server: Option<&Server>, messages: u32, folder: &Path) -> Result<History> {
        let folder = folder.join(messages.to_string());
        fs::create_dir_all(&folder)?;
        let database = match server {
            Some(server) => server.database()?,
            None => Database::Sqlite(folder.join("data").join("astrfleet.db")),
        };
        let environment = database.environment();
        let start = Start { folder: &folder, config: CONFIG, environment: &environment };
        let platform = self.kit.ready(start)?;
        platform.create_tenant(TENANT)?;
        let key = platform.create_key(TENANT)?;
        drop(platform);
        eprintln!("  making {} messages", spelled(messages));
        let mut fill = Command::new(&self.fill);
        fill.args(database.unheld().arguments()).args(["--tenant", TENANT, "--messages", &messages.to_string()]);
        let made: Value = serde_json::from_str(&output(&mut fill)?)?;
        let bytes = made["bytes"].as_f64().context("bench_history says no size")?;
        Ok(History { platform: self.kit.ready(start)?, key, bytes, pages: pages(&made)? })
    }
}

impl History {
    fn requests(&self, place: usize) -> Requests {
        let request = |path: &String| (path.clone(), vec![authorization(&self.key)]);
        Requests::in_turn(self.pages[place].1.iter().map(request).collect()).over(1)
    }

    /// Whether the first pages hold what they should: what holds less is quicker.
    fn is_full(&self, place: usize) -> Result<()> {
        let ((_, wanted), paths) = &self.pages[place];
        for path in &paths[..10] {
            let (status, body) = ask(self.platform.address, path, &[authorization(&self.key)])?;
            let answer: Value = serde_json::from_str(&body).with_context(|| format!("{path}: {status} {body}"))?;
            let items = answer["items"].as_array().map_or(0, Vec::len);
            ensure!(status == 200 && items == *wanted, "{path}: {status} with {items} things instead of {wanted}");
        }
        Ok(())
    }
}

/// What is asked for, by what `bench_history` says of the history: the newest pages and older ones in turn.
fn pages(made: &Value) -> Result<Vec<(Page, Vec<String>)>> {
    let list = |key: &str| {
        let texts = made[key].as_array().and_then(|texts| texts.iter().map(Value::as_str).collect::<Option<Vec<_>>>());
        texts.with_context(|| format!("bench_history says no {key}"))
    };
    let of_tenant = |rest: &str| format!("/api/v1/tenants/{TENANT}/{rest}");
    let (sessions, messages) = (list("sessions")?, list("messages")?);
    let of_sessions = sessions.iter().zip(&messages).enumerate().map(|(number, (session, message))| {
        let cursor = if number % 2 == 0 { String::new() } else { format!("?cursor={message}") };
        of_tenant(&format!("sessions/{session}/messages{cursor}"))
    });
    let lists = list("cursors")?.into_iter().map(|session| of_tenant(&format!("sessions?cursor={session}")));
    let search = |query: &&str| of_tenant(&format!("messages?q={}", percent_encoded(query)));
    Ok(vec![
        (MESSAGES, of_sessions.collect()),
        (SESSIONS, lists.collect()),
        (FREQUENT, list("frequent")?.iter().cycle().take(PAGE).map(search).collect()),
        (UNIQUE, list("unique")?.iter().map(search).collect()),
    ])
}

fn percent_encoded(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'0'..=b'9' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(byte).collect()
}

/// `1,000,000`
fn spelled(number: u32) -> String {
    let digits = number.to_string();
    let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy).collect();
    groups.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_spelled_in_groups() {
        assert_eq!([7, 1_000, 123_456_789].map(spelled), ["7", "1,000", "123,456,789"]);
    }

    #[test]
    fn a_query_is_encoded() {
        assert_eq!(percent_encoded("订 a1"), "%E8%AE%A2%20a1");
    }
}
