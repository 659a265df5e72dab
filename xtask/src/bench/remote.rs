//! `remote`: CPU time of passing 100,000 requests on to a role that is another process, alone on a core, beside haproxy
//! before the very same process.
//!
//! PostgreSQL and Redis are real, as roles apart need them. 100 tenants in turn read a session of theirs, each with a
//! member's token. haproxy passes on and does nothing else: the role checks the token then, which ours has done for it.
//! So the role's own CPU time is measured as well.

use std::{fs, net::SocketAddr, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, ensure};

use super::{
    Effort,
    database::Server,
    load::{Requests, ask, authorization, drive},
    platform::{self, Kit, Platform, Start, remove},
    proc::{AROUND, MEASURED, Process, configured, free_address, machine},
    table::{self, OURSELVES, Row, interleaved_figures, rows},
};
use crate::errand::{Workspace, succeeds};

const METRIC: &str = "cpu_s_per_100k";
const UNIT: &str = "CPU seconds per 100,000 requests";
const HAPROXY: &str = "haproxy";

/// What must be there, and the package that has it.
const PROGRAMS: [(&str, &str); 4] =
    [("haproxy", "haproxy"), ("wrk", "wrk"), ("taskset", "util-linux"), ("redis-server", "redis-server")];

const TENANTS: usize = 100;
/// Of what all processes derive their keys from.
const SECRET: &str = "of-a-benchmark-and-of-nothing-else";

/// No bots, no limits that would be reached. What haproxy does not do either, a line in a log for each request, is off.
const CONFIG: &str = "
[log]
level = 'warn'
[serve]
drain_delay_s = 0
[gateway]
metrics_listen = '127.0.0.1:0'
workers = 1
rate_limit_per_minute = 4000000000
anonymous_rate_limit_per_minute = 4000000000
[manager]
max_instances = 0
[gateway.remote]
";

/// Measures and reports both rows.
pub fn run(workspace: &Workspace, effort: Effort) -> Result<()> {
    for (program, packages) in PROGRAMS {
        ensure!(succeeds("which", &[program]), "the benchmark needs {program}: apt-get install {packages}");
    }
    let machine = machine()?;
    platform::build(workspace)?;
    let field = Field::prepare(workspace)?;
    let readers = field.readers()?;
    let role = field.serve("session", CONFIG, AROUND)?;
    let subjects = [field.ours(role.address)?, field.haproxy(role.address)?];
    for subject in &subjects {
        subject.does_its_work(&role, &readers)?;
    }
    let rows = field.measure(&subjects, &role, &requests(&readers), effort)?;
    table::print("remote", &rows);
    table::write(&workspace.target, "remote", &machine, &rows)
}

/// Who asks for what: the path of a session, and the token of a member of its tenant.
struct Reader {
    path: String,
    token: String,
}

/// What all processes share.
struct Field {
    folder: PathBuf,
    kit: Kit,
    environment: Vec<(&'static str, String)>,
    // They end after whoever needs them.
    _redis: Process,
    _postgres: Server,
}

/// Who passes requests on.
struct Subject {
    name: &'static str,
    address: SocketAddr,
    process: Process,
}

impl Field {
    fn prepare(workspace: &Workspace) -> Result<Self> {
        let folder = workspace.target.join("bench").join("remote");
        remove(&folder)?;
        fs::create_dir_all(&folder)?;
        let postgres = Server::start(workspace, Some(AROUND))?;
        let address = free_address()?;
        let port = address.port().to_string();
        let mut redis = Command::new("redis-server");
        redis.args(["--bind", "127.0.0.1", "--port", &port, "--save", "", "--appendonly", "no", "--dir"]).arg(&folder);
        let mut redis = Process::start("redis", &redis, AROUND, &folder)?;
        redis.listens_on(address)?;
        let mut environment = postgres.database()?.environment();
        environment.extend([
            ("REDIS_HOST", "127.0.0.1".to_owned()),
            ("REDIS_PORT", port),
            ("JWT_SECRET", SECRET.to_owned()),
        ]);
        Ok(Self { folder, kit: Kit::lay(workspace)?, environment, _redis: redis, _postgres: postgres })
    }

    /// Makes the tenants by a platform that is gone afterwards.
    fn readers(&self) -> Result<Vec<Reader>> {
        let folder = self.folder.join("set-up");
        fs::create_dir_all(&folder)?;
        let platform = self.kit.ready(Start { folder: &folder, config: CONFIG, environment: &self.environment })?;
        let reader = |number| {
            let tenant = format!("tenant-{number:03}");
            platform.create_tenant(&tenant)?;
            let token = platform.token_of_member(&tenant, "agent")?;
            let session = platform.open_session(&tenant, "ada")?;
            Ok(Reader { path: format!("/api/v1/tenants/{tenant}/sessions/{session}"), token })
        };
        (0..TENANTS).map(reader).collect()
    }

    /// One role alone.
    fn serve(&self, role: &str, config: &str, core: usize) -> Result<Platform> {
        let folder = self.folder.join(role);
        fs::create_dir_all(&folder)?;
        let platform = self.kit.serve(Start { folder: &folder, config, environment: &self.environment }, role)?;
        platform.process.move_to(core)?;
        Ok(platform)
    }

    fn ours(&self, role: SocketAddr) -> Result<Subject> {
        let config = format!("{CONFIG}session = 'http://{role}'\n");
        let Platform { process, address, .. } = self.serve("gateway", &config, MEASURED)?;
        Ok(Subject { name: OURSELVES, address, process })
    }

    fn haproxy(&self, role: SocketAddr) -> Result<Subject> {
        let address = free_address()?;
        let text = include_str!("peers/haproxy.cfg");
        let command = configured(Command::new("haproxy"), "-f", "haproxy.cfg", text, address, role, &self.folder)?;
        let mut process = Process::start(HAPROXY, &command, MEASURED, &self.folder)?;
        process.listens_on(address)?;
        Ok(Subject { name: HAPROXY, address, process })
    }

    fn measure(&self, subjects: &[Subject], role: &Platform, requests: &Requests, effort: Effort) -> Result<Vec<Row>> {
        for subject in subjects {
            drive(subject.address, requests, 1, &self.folder)
                .with_context(|| format!("warming {} up", subject.name))?;
        }
        let names: Vec<&str> = subjects.iter().map(|subject| subject.name).collect();
        let [between, behind] = interleaved_figures(&names, effort.rounds, |name| {
            let subject = subjects.iter().find(|subject| subject.name == name).context("no such subject")?;
            let processes = [&subject.process, &role.process];
            let before = [processes[0].cpu_s()?, processes[1].cpu_s()?];
            let answered = drive(subject.address, requests, effort.seconds, &self.folder)?;
            let spent = [processes[0].cpu_s()? - before[0], processes[1].cpu_s()? - before[1]];
            Ok(spent.map(|spent| spent / f64::from(answered) * 100_000.0))
        })?;
        Ok([rows("gateway", METRIC, UNIT, &between), rows("role behind it", METRIC, UNIT, &behind)].concat())
    }
}

impl Subject {
    /// Each reader gets what the role itself answers, and whoever has no good token gets nothing.
    fn does_its_work(&self, role: &Platform, readers: &[Reader]) -> Result<()> {
        for reader in readers {
            let headers = [authorization(&reader.token)];
            let (status, body) = ask(self.address, &reader.path, &headers)?;
            let (_, wanted) = ask(role.address, &reader.path, &headers)?;
            ensure!(
                status == 200 && body == wanted,
                "{} does not pass the answer on: {status} {body} instead of {wanted}",
                self.name
            );
        }
        let [one, other, ..] = readers else { anyhow::bail!("too few readers") };
        let forged = one.token.chars().rev().collect::<String>();
        for (headers, wanted) in
            [(vec![], 401), (vec![authorization(&forged)], 401), (vec![authorization(&other.token)], 404)]
        {
            let (status, body) = ask(self.address, &one.path, &headers)?;
            ensure!(status == wanted, "{} answers {headers:?} with {status} {body}", self.name);
        }
        Ok(())
    }
}

fn requests(readers: &[Reader]) -> Requests {
    let request = |reader: &Reader| {
        (reader.path.clone(), vec![("Host".to_owned(), "bench.local".to_owned()), authorization(&reader.token)])
    };
    Requests::in_turn(readers.iter().map(request).collect())
}
