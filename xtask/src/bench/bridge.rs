//! `bridge`: how long a message of an IM channel waits for the platform before its answer may go out.
//!
//! The bridge's own client asks what it asks for every message, in the Python and with the credential of a real bot
//! (`bridge/tests/cost.py`): once when the message arrives, which stores it, and once before its answer departs. Nothing
//! stands beside it: the goal is absolute.

use std::{
    fs,
    os::unix::{ffi::OsStrExt as _, fs::symlink},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::{
    Effort,
    database::Server,
    platform::{self, Kit, Platform, Start, remove},
    proc::machine,
    table::{self, OURSELVES, Series, rows},
};
use crate::errand::{Workspace, output};

/// Messages of one measurement, one after the other.
const MESSAGES: &str = "300";
/// How long a bot may take to be running, AstrBot being installed first where it is not yet.
const BOT_STARTS_MAX: Duration = Duration::from_mins(5);
const TENANT: &str = "acme";
/// What the client is told by.
const OF_BRIDGE: &[u8] = b"ASTRFLEET_BRIDGE_";

const CONFIG: &str = "
[log]
level = 'warn'
[gateway]
metrics_listen = '127.0.0.1:0'
";

/// What the client says: of which times, and which share of them was shorter.
const FIGURES: [(&str, &str, &str, &str); 4] = [
    ("added", "p50", "p50_ms", "milliseconds, median"),
    ("added", "p95", "p95_ms", "milliseconds, 95th percentile"),
    ("inbound", "p50", "inbound_p50_ms", "milliseconds of asking when it arrives, median"),
    ("outbound", "p50", "outbound_p50_ms", "milliseconds of asking before the answer departs, median"),
];

/// Measures and reports all rows, of both engines.
pub fn run(workspace: &Workspace, effort: Effort) -> Result<()> {
    let machine = machine()?;
    platform::build(workspace)?;
    let folder = workspace.target.join("bench").join("bridge");
    remove(&folder)?;
    let kit = Kit::with_real_bots(workspace);
    let server = Server::start(workspace, None)?;
    let environment = server.database()?.environment();
    let bots = [
        ("message", Bot::start(workspace, &kit, &folder.join("postgres"), &environment)?),
        ("message (sqlite)", Bot::start(workspace, &kit, &folder.join("sqlite"), &[])?),
    ];
    let mut measured = vec![[const { Vec::new() }; FIGURES.len()]; bots.len()];
    for round in 0..effort.rounds {
        for place in (0..bots.len()).map(|place| (place + round) % bots.len()) {
            let told = bots[place].1.ask()?;
            for (values, (times, share, ..)) in measured[place].iter_mut().zip(FIGURES) {
                values.push(told[times][share].as_f64().with_context(|| format!("the client says {told}"))?);
            }
        }
    }
    let mut all = Vec::new();
    for ((name, _), measured) in bots.iter().zip(measured) {
        for ((.., metric, unit), values) in FIGURES.into_iter().zip(measured) {
            all.extend(rows(name, metric, unit, &[Series { subject: OURSELVES.to_owned(), values }]));
        }
    }
    table::print("bridge", &all);
    table::write(&workspace.target, "bridge", &machine, &all)
}

/// A platform with one real bot.
struct Bot {
    _platform: Platform,
    /// Its process.
    folder: PathBuf,
    /// Where Python finds the plugin by its name.
    packages: PathBuf,
}

impl Bot {
    fn start(workspace: &Workspace, kit: &Kit, folder: &Path, environment: &[(&'static str, String)]) -> Result<Self> {
        let packages = folder.join("packages");
        fs::create_dir_all(&packages)?;
        symlink(workspace.root.join("bridge"), packages.join("astrfleet_bridge"))?;
        let platform = kit.ready(Start { folder, config: CONFIG, environment })?;
        platform.create_tenant(TENANT)?;
        let limit = Instant::now() + BOT_STARTS_MAX;
        let id = loop {
            let bot = platform.call("GET", &format!("/api/v1/tenants/{TENANT}/instance"), &Value::Null)?;
            if bot["ready"] == true {
                break bot["id"].as_str().context("the instance has no id")?.to_owned();
            }
            if bot["observed"] == "failed" || Instant::now() > limit {
                bail!("the bot does not start: {bot}");
            }
            thread::sleep(Duration::from_millis(100));
        };
        Ok(Self { _platform: platform, folder: process_in(&id)?, packages })
    }

    /// What the client says of some messages.
    fn ask(&self) -> Result<Value> {
        let read = |file: &str| fs::read(self.folder.join(file)).context("the bot is gone");
        let (environment, line) = (read("environ")?, read("cmdline")?);
        let python = line.split(|byte| *byte == 0).next().context("the bot has no program")?;
        let mut client = Command::new(std::ffi::OsStr::from_bytes(python));
        client.args(["-m", "astrfleet_bridge.tests.cost", MESSAGES]).current_dir(&self.packages);
        client.env("PYTHONDONTWRITEBYTECODE", "1");
        for pair in environment.split(|byte| *byte == 0).filter(|pair| pair.starts_with(OF_BRIDGE)) {
            let (name, value) = std::str::from_utf8(pair)?.split_once('=').context("not a variable")?;
            client.env(name, value);
        }
        Ok(serde_json::from_str(&output(&mut client)?)?)
    }
}

/// The folder in /proc of the process that works in a bot's folder.
fn process_in(id: &str) -> Result<PathBuf> {
    for entry in fs::read_dir("/proc")? {
        let folder = entry?.path();
        if fs::read_link(folder.join("cwd")).is_ok_and(|at| at.to_string_lossy().contains(id)) {
            return Ok(folder);
        }
    }
    bail!("no process works in the folder of {id}")
}
