//! `gateway`: CPU time of passing 100,000 requests on, alone on a core, beside nginx and haproxy before the same upstream.

mod full;
mod streams;
mod tokens;

use std::{fs, net::SocketAddr, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, ensure};

use super::{
    Effort,
    load::{Requests, ask, drive},
    platform::remove,
    proc::{AROUND, MEASURED, Process, configured, free_address, machine},
    table::{self, OURSELVES, Row, Series, interleaved, rows},
};
use crate::errand::{Workspace, run as errand, succeeds};

const METRIC: &str = "cpu_s_per_100k";
const UNIT: &str = "CPU seconds per 100,000 requests";

/// 256 bytes, as most answers of an API are.
const ANSWER: &str = concat!(
    r#"{"id":"bot-000001","tenant":"tenant-000","name":"support-bot","status":"running","platform":"telegram","#,
    r#""created_at":"2026-11-23T00:00:00Z","version":"4.5.0","pad":""#,
    "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
    r#""}"#
);

/// What must be there, and the package that has it.
const PROGRAMS: [(&str, &str); 5] = [
    ("nginx", "nginx libnginx-mod-http-lua lua-cjson"),
    ("haproxy", "haproxy"),
    ("wrk", "wrk"),
    ("taskset", "util-linux"),
    ("openssl", "openssl"),
];

/// Measures and reports all rows.
pub fn run(workspace: &Workspace, effort: Effort) -> Result<()> {
    for (program, packages) in PROGRAMS {
        ensure!(succeeds("which", &[program]), "the benchmark needs {program}: apt-get install {packages}");
    }
    let machine = machine()?;
    let field = Field::prepare(workspace)?;
    let mut rows = plain(workspace, &field, effort)?;
    rows.extend(full::measured(workspace, &field, effort)?);
    table::print("gateway", &rows);
    table::write(&workspace.target, "gateway", &machine, &rows)
}

/// The folder of one run, and the upstream that all pass to.
struct Field {
    folder: PathBuf,
    upstream: SocketAddr,
    _upstream: Process,
}

impl Field {
    fn prepare(workspace: &Workspace) -> Result<Self> {
        let folder = workspace.target.join("bench").join("gateway");
        remove(&folder)?;
        fs::create_dir_all(&folder)?;
        let upstream = free_address()?;
        let text = include_str!("peers/upstream.conf").replace("@ANSWER@", ANSWER);
        let command = configured(Command::new("nginx"), "-c", "upstream.conf", &text, upstream, upstream, &folder)?;
        let mut process = Process::start("upstream", &command, AROUND, &folder)?;
        process.listens_on(upstream)?;
        Ok(Self { folder, upstream, _upstream: process })
    }

    /// Starts a proxy before the upstream, with a configuration file, to be asked `requests`.
    fn peer(&self, name: &'static str, program: &str, text: &str, requests: Requests) -> Result<Subject> {
        let address = free_address()?;
        let (flag, file) = if program == "nginx" { ("-c", "conf") } else { ("-f", "cfg") };
        let file = format!("{name}.{file}");
        let command = configured(Command::new(program), flag, &file, text, address, self.upstream, &self.folder)?;
        self.subject(name, &command, address, requests)
    }

    fn subject(
        &self,
        name: &'static str,
        command: &Command,
        address: SocketAddr,
        requests: Requests,
    ) -> Result<Subject> {
        let mut process = Process::start(name, command, MEASURED, &self.folder)?;
        process.listens_on(address)?;
        Ok(Subject { name, address, process, requests })
    }

    fn measure(&self, subjects: &[Subject], effort: Effort) -> Result<Vec<Series>> {
        for subject in subjects {
            drive(subject.address, &subject.requests, 1, &self.folder)
                .with_context(|| format!("warming {} up", subject.name))?;
        }
        let names: Vec<&str> = subjects.iter().map(|subject| subject.name).collect();
        interleaved(&names, effort.rounds, |name| {
            let subject = subjects.iter().find(|subject| subject.name == name).context("no such subject")?;
            let before = subject.process.cpu_s()?;
            let answered = drive(subject.address, &subject.requests, effort.seconds, &self.folder)?;
            Ok((subject.process.cpu_s()? - before) / f64::from(answered) * 100_000.0)
        })
    }
}

/// A proxy that is measured.
struct Subject {
    name: &'static str,
    address: SocketAddr,
    process: Process,
    requests: Requests,
}

impl Subject {
    /// The first of its requests is answered by the upstream.
    fn passes_on(&self) -> Result<()> {
        let (path, headers) = self.requests.first();
        let (status, body) = ask(self.address, path, headers)?;
        ensure!((status, &*body) == (200, ANSWER), "{} does not pass the answer on: {status} {body}", self.name);
        Ok(())
    }
}

/// Passing on, nothing else.
fn plain(workspace: &Workspace, field: &Field, effort: Effort) -> Result<Vec<Row>> {
    let address = free_address()?;
    let mut ours = Command::new(build_plain(workspace)?);
    ours.arg(address.to_string()).arg(field.upstream.to_string());
    let requests = || Requests::one("/v1/bots", &[("Host", "bench.local"), ("X-Tenant", "tenant-000")]);
    let subjects = [
        field.subject(OURSELVES, &ours, address, requests())?,
        field.peer("nginx", "nginx", include_str!("peers/nginx.conf"), requests())?,
        field.peer("haproxy", "haproxy", include_str!("peers/haproxy.cfg"), requests())?,
    ];
    for subject in &subjects {
        subject.passes_on()?;
    }
    Ok(rows("plain", METRIC, UNIT, &field.measure(&subjects, effort)?))
}

/// The proxied path without policy: an example of the crate `server`, built as what is shipped is built.
fn build_plain(workspace: &Workspace) -> Result<PathBuf> {
    let arguments =
        ["build", "--profile", "dist", "--locked", "--package", "astrfleet-server", "--example", "plain_proxy"];
    errand(workspace.cargo().args(arguments))?;
    Ok(workspace.target.join("dist").join("examples").join("plain_proxy"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_answer_is_as_long_as_is_said() {
        assert_eq!(super::ANSWER.len(), 256);
    }
}
