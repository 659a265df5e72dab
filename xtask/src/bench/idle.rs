//! `idle`: what the platform takes while nobody asks anything of it, and what keeping bots costs it.
//!
//! Bots are stand-ins that are ready as soon as they listen and need next to nothing: what is measured is the platform's
//! own process. Nothing stands beside it: the goals are absolute.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::{
    Effort,
    platform::{self, Kit, Platform, Start, is_ready, remove},
    proc::machine,
    table::{self, OURSELVES, Row, Series, rows},
};
use crate::errand::{Workspace, run as errand};

/// Bots of the row `50 bots`.
const BOTS: usize = 50;
/// Event streams that are open and silent.
const STREAMS: usize = 10_000;
/// Files that may be open at the same time, here and in the platform: the streams and some more.
const OPEN_FILES: usize = STREAMS + 2_000;
/// How long all bots may take to be running.
const BOTS_START_MAX: Duration = Duration::from_mins(2);

const CONFIG: &str = "
[log]
level = 'warn'
[gateway]
metrics_listen = '127.0.0.1:0'
rate_limit_per_minute = 4000000000
anonymous_rate_limit_per_minute = 4000000000
";

/// With this behind it, nothing is started for a tenant.
const NO_BOTS: &str = "
[manager]
max_instances = 0
";

/// Measures and reports all rows.
pub fn run(workspace: &Workspace, effort: Effort) -> Result<()> {
    ensure!(effort.rounds >= 3, "fewer than 3 rounds say nothing");
    allow_open_files()?;
    let machine = machine()?;
    let folder = workspace.target.join("bench").join("idle");
    platform::build(workspace)?;
    let bench = Bench { kit: Kit::lay(workspace)?, folder, effort };
    let mut figures = Figures::default();
    bench.without_bots(&mut figures)?;
    bench.with_bots(&mut figures)?;
    let rows = figures.rows();
    table::print("idle", &rows);
    table::write(&workspace.target, "idle", &machine, &rows)
}

struct Bench {
    kit: Kit,
    folder: PathBuf,
    effort: Effort,
}

/// What is measured: the row, the metric and its unit.
type What = (&'static str, &'static str, &'static str);

const RESIDENT: &str = "resident_mb";
const RESIDENT_UNIT: &str = "million bytes of resident memory, of the platform's process";
const IDLE_CPU: &str = "cpu_ms_per_s";
const IDLE_CPU_UNIT: &str = "CPU milliseconds a second, of the platform's process";

const START: What = ("start", "ready_s", "seconds from exec to the first 200 of /ready, migrations done");
const EMPTY: What = ("no bots", RESIDENT, RESIDENT_UNIT);
const EMPTY_CPU: What = ("no bots", IDLE_CPU, IDLE_CPU_UNIT);
const OPEN: What = ("10,000 streams", RESIDENT, RESIDENT_UNIT);
const OPEN_CPU: What = ("10,000 streams", IDLE_CPU, IDLE_CPU_UNIT);
const MANY: What = ("50 bots", RESIDENT, RESIDENT_UNIT);
const MANY_CPU: What = ("50 bots", IDLE_CPU, IDLE_CPU_UNIT);
const NEW_BOT: What = ("start a bot", "cpu_ms", "CPU milliseconds of the platform for a new tenant and its bot");
const SEEN: What = ("start a bot", "seen_ms", "milliseconds from listening to running, the slowest bot but a tenth");

#[derive(Default)]
struct Figures(Vec<(What, Vec<f64>)>);

impl Figures {
    fn add(&mut self, what: What, value: f64) {
        match self.0.iter_mut().find(|(known, _)| *known == what) {
            Some((_, values)) => values.push(value),
            None => self.0.push((what, vec![value])),
        }
    }

    fn rows(self) -> Vec<Row> {
        let row = |((name, metric, unit), values)| {
            rows(name, metric, unit, &[Series { subject: OURSELVES.to_owned(), values }])
        };
        self.0.into_iter().flat_map(row).collect()
    }
}

impl Bench {
    /// Starts again and again on the same data.
    fn without_bots(&self, figures: &mut Figures) -> Result<()> {
        let folder = self.folder.join("no-bots");
        remove(&folder)?;
        fs::create_dir_all(&folder)?;
        let config = format!("{CONFIG}{NO_BOTS}");
        let start = Start { folder: &folder, config: &config, environment: &[] };
        // The environment, the migrations and the tenant whose events are watched are made before anything is measured.
        let first = self.kit.ready(start)?;
        first.create_tenant("acme")?;
        drop(first);
        for _ in 0..self.effort.rounds {
            let began = Instant::now();
            let mut platform = self.kit.begin(start)?;
            let address = platform.address;
            platform.process.until("be ready", || is_ready(address))?;
            figures.add(START, began.elapsed().as_secs_f64());
            figures.add(EMPTY_CPU, self.rest(&platform)?);
            figures.add(EMPTY, platform.process.resident_mb()?);
            platform.log_in()?;
            let key = platform.create_key("acme")?;
            let streams = watch(address, "/api/v1/tenants/acme/instance/events", &key)?;
            figures.add(OPEN_CPU, self.rest(&platform)?);
            figures.add(OPEN, platform.process.resident_mb()?);
            drop(streams);
        }
        Ok(())
    }

    /// A new platform with new tenants each time.
    fn with_bots(&self, figures: &mut Figures) -> Result<()> {
        for _ in 0..self.effort.rounds {
            let folder = self.folder.join("bots");
            remove(&folder)?;
            fs::create_dir_all(&folder)?;
            let platform = self.kit.ready(Start { folder: &folder, config: CONFIG, environment: &[] })?;
            let before = platform.process.own_cpu_s()?;
            let tenants: Vec<String> = (0..BOTS).map(|number| format!("tenant-{number}")).collect();
            tenants.iter().try_for_each(|tenant| platform.create_tenant(tenant))?;
            let limit = Instant::now() + BOTS_START_MAX;
            let mut delays = tenants
                .iter()
                .map(|tenant| {
                    let instance = running(&platform, tenant, limit)?;
                    seen_after_ms(&folder, &instance)
                })
                .collect::<Result<Vec<f64>>>()?;
            let spent = platform.process.own_cpu_s()? - before;
            #[expect(clippy::cast_precision_loss, reason = "a number of bots is small")]
            figures.add(NEW_BOT, spent * 1_000.0 / BOTS as f64);
            delays.sort_by(f64::total_cmp);
            figures.add(SEEN, delays[BOTS * 9 / 10]);
            figures.add(MANY_CPU, self.rest(&platform)?);
            figures.add(MANY, platform.process.resident_mb()?);
        }
        Ok(())
    }

    /// Lets it be for a while, and says how much it does all the same.
    fn rest(&self, platform: &Platform) -> Result<f64> {
        let before = platform.process.own_cpu_s()?;
        thread::sleep(Duration::from_secs(self.effort.seconds.into()));
        Ok((platform.process.own_cpu_s()? - before) * 1_000.0 / f64::from(self.effort.seconds))
    }
}

/// Waits until a tenant's bot runs.
fn running(platform: &Platform, tenant: &str, limit: Instant) -> Result<Value> {
    loop {
        let instance = platform.call("GET", &format!("/api/v1/tenants/{tenant}/instance"), &Value::Null)?;
        match instance["observed"].as_str() {
            Some("running") => return Ok(instance),
            Some("failed") => bail!("the bot of {tenant} failed: {}", instance["reason"]),
            _ if Instant::now() > limit => bail!("the bot of {tenant} does not start: {instance}"),
            _ => thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// The time between a bot's own note that it listens and the moment from which the platform says that it runs.
fn seen_after_ms(folder: &Path, instance: &Value) -> Result<f64> {
    let text = |key: &str| instance[key].as_str().with_context(|| format!("the instance has no {key}"));
    let note = folder.join("data").join("bots").join(text("id")?).join("listening");
    let listened = fs::read_to_string(&note).with_context(|| format!("cannot read {}", note.display()))?;
    let listened: f64 = listened.parse().context("the note of the stand-in is no number")?;
    let since = seconds_of_day(text("since")?).context("`since` is not RFC 3339 in UTC")?;
    // Midnight may lie between the two.
    Ok((since - listened).rem_euclid(86_400.0) * 1_000.0)
}

/// `…T09:11:14.5Z` is 33,074.5.
fn seconds_of_day(time: &str) -> Option<f64> {
    let mut parts = time.split_once('T')?.1.strip_suffix('Z')?.split(':').map(str::parse::<f64>);
    let mut next = || parts.next()?.ok();
    Some(next()? * 3_600.0 + next()? * 60.0 + next()?)
}

/// Opens the streams, each to its first event.
fn watch(address: SocketAddr, path: &str, key: &str) -> Result<Vec<TcpStream>> {
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: bench.local\r\nAccept: text/event-stream\r\nAuthorization: Bearer {key}\r\n\r\n"
    );
    let open = |number| {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(request.as_bytes())?;
        let (mut seen, mut piece) = (String::new(), [0; 4096]);
        while !seen.contains("event: state") {
            let length = stream.read(&mut piece).with_context(|| format!("stream {number} says nothing: {seen}"))?;
            ensure!(length > 0, "stream {number} ended: {seen}");
            seen += &String::from_utf8_lossy(&piece[..length]);
        }
        Ok(stream)
    };
    (1..=STREAMS).map(open).collect()
}

/// Raises the limit of open files, for us and for what we start, where it is too low.
fn allow_open_files() -> Result<()> {
    let limits = fs::read_to_string("/proc/self/limits")?;
    let allowed = open_files(&limits).context("/proc/self/limits is not what proc(5) says")?;
    if allowed < OPEN_FILES {
        let (own, wanted) = (std::process::id().to_string(), format!("--nofile={OPEN_FILES}:"));
        errand(Command::new("prlimit").args(["--pid", &own, &wanted]))
            .with_context(|| format!("{STREAMS} open streams need a higher limit: ulimit -Hn {OPEN_FILES}, as root"))?;
    }
    Ok(())
}

fn open_files(limits: &str) -> Option<usize> {
    let limit = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?.split_whitespace().next()?;
    if limit == "unlimited" { Some(usize::MAX) } else { limit.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_read_as_seconds_of_its_day() {
        assert_eq!(seconds_of_day("2026-11-23T09:11:14.500000Z"), Some(33_074.5));
        assert_eq!(seconds_of_day("2026-11-23"), None);
        assert_eq!(seconds_of_day("2026-11-23T09:11Z"), None);
    }

    #[test]
    fn the_limit_of_open_files_is_found() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
                      Max open files            1024                 524288               files\n";
        assert_eq!(open_files(limits), Some(1024));
        assert_eq!(
            open_files("Max open files            unlimited            unlimited            files"),
            Some(usize::MAX)
        );
        assert_eq!(open_files(""), None);
    }
}
