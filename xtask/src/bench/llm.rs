//! `llm`: CPU time of 10,000 calls of a model, alone on a core, beside nginx and LiteLLM before the same provider.
//!
//! Ours is the platform as it is shipped, virtual key, budget and ledger on; LiteLLM has its defaults, one worker and a
//! master key; nginx passes everything. `direct` is what the provider itself takes where nobody stands before it.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::{
    Effort,
    load::{Requests, drive, send},
    platform::{self, Kit, Start, remove},
    proc::{AROUND, MEASURED, Process, configured, free_address, machine},
    table::{self, OURSELVES, Row, Series, interleaved, rows},
};
use crate::errand::{Workspace, run as errand, succeeds};

const METRIC: &str = "cpu_s_per_10k";
const UNIT: &str = "CPU seconds per 10,000 calls";
const PATH: &str = "/v1/chat/completions";
/// What LiteLLM is called in the package index.
const LITELLM: &str = "litellm[proxy]==1.106.0";
/// The pieces of a streamed answer.
const CHUNKS: usize = 200;
/// LiteLLM takes tens of milliseconds for a call: with more connections, calls would only wait, and none of a short
/// measurement would end.
const CONNECTIONS_OF_LITELLM: u32 = 2;
/// A measurement in which fewer calls ended is longer.
const CALLS_MIN: u32 = 20;
/// But no longer than so many.
const STRETCHES_MAX: u32 = 10;
/// How long a tenant's bot may take to have its key.
const KEY_WITHIN: Duration = Duration::from_mins(1);

/// One call's answer, as a provider gives it.
const ANSWER: &str = concat!(
    r#"{"id":"chatcmpl-bench","object":"chat.completion","created":1795000000,"model":"m","choices":[{"index":0,"#,
    r#""message":{"role":"assistant","content":"It is raining, and it will go on raining until the evening."},"#,
    r#""finish_reason":"stop"}],"usage":{"prompt_tokens":40,"completion_tokens":14,"total_tokens":54}}"#
);

/// Nothing stands in the way of measuring, and what nginx does not do either, such as a line for each request, is off.
const CONFIG: &str = "
[log]
level = 'warn'
[gateway]
metrics_listen = '127.0.0.1:0'
workers = 1
[tenant]
default_plan = 'bench'
[plans.bench]
concurrent_chats = 8
messages_per_day = 1000
tokens_per_month = 1000000000000
storage_bytes = 1000000
bot_memory_bytes = 805306368
bot_cpu_milli = 1000
[llm]
concurrent_calls = 1000
[[llm.upstreams]]
name = 'bench'
base_url = 'http://@UPSTREAM@/v1'
api_key = 'sk-bench'
";

const LITELLM_CONFIG: &str = "
model_list:
  - model_name: m
    litellm_params: {model: openai/m, api_base: 'http://@UPSTREAM@/v1', api_key: sk-bench}
general_settings: {master_key: sk-bench}
";

/// Measures and reports both rows.
pub fn run(workspace: &Workspace, effort: Effort) -> Result<()> {
    for (program, package) in
        [("nginx", "nginx"), ("wrk", "wrk"), ("taskset", "util-linux"), ("python3", "python3-venv")]
    {
        ensure!(succeeds("which", &[program]), "the benchmark needs {program}: apt-get install {package}");
    }
    let machine = machine()?;
    platform::build(workspace)?;
    let litellm = litellm(workspace)?;
    let folder = workspace.target.join("bench").join("llm");
    let kit = Kit::lay(workspace)?;
    let mut rows = Vec::new();
    for row in ["plain", "stream"] {
        let folder = folder.join(row);
        remove(&folder)?;
        fs::create_dir_all(&folder)?;
        let field = Field::prepare(workspace, &kit, &litellm, row, &folder)?;
        rows.extend(field.measure(row, effort)?);
    }
    table::print("llm", &rows);
    table::write(&workspace.target, "llm", &machine, &rows)
}

/// LiteLLM in an environment of its own, made once for a machine.
fn litellm(workspace: &Workspace) -> Result<PathBuf> {
    let folder = workspace.tools().join(LITELLM.replace(['[', ']', '='], "-"));
    let program = folder.join("bin").join("litellm");
    if !program.exists() {
        remove(&folder)?;
        errand(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
        errand(Command::new(folder.join("bin").join("pip")).args(["install", "--quiet", LITELLM]))?;
    }
    Ok(program)
}

/// Everybody who answers the calls of one row.
struct Field {
    folder: PathBuf,
    provider: Subject,
    between: Vec<Subject>,
}

/// Who is asked, and how.
struct Subject {
    name: &'static str,
    address: SocketAddr,
    process: Process,
    requests: Requests,
    path: String,
    key: String,
    body: Value,
}

impl Field {
    fn prepare(workspace: &Workspace, kit: &Kit, litellm: &Path, row: &str, folder: &Path) -> Result<Self> {
        let body = call(row);
        let provider = provider(workspace, row, folder)?;
        let upstream = provider.1;
        let ours = ours(kit, upstream, folder)?;
        let between = vec![
            Subject::new(OURSELVES, ours.0, ours.1, "/llm/v1/chat/completions", &ours.2, &body, 64),
            {
                let (process, address) = nginx(upstream, folder)?;
                Subject::new("nginx", process, address, PATH, "sk-bench", &body, 64)
            },
            {
                let (process, address) = start_litellm(litellm, upstream, folder)?;
                Subject::new("litellm", process, address, PATH, "sk-bench", &body, CONNECTIONS_OF_LITELLM)
            },
        ];
        let provider = Subject::new("direct", provider.0, upstream, PATH, "sk-bench", &body, 64);
        Ok(Self { folder: folder.to_owned(), provider, between })
    }

    fn subjects(&self) -> impl Iterator<Item = &Subject> {
        self.between.iter().chain([&self.provider])
    }

    fn measure(&self, row: &str, effort: Effort) -> Result<Vec<Row>> {
        for subject in self.subjects() {
            subject.proves_itself(row)?;
            drive(subject.address, &subject.requests, 2, &self.folder)
                .with_context(|| format!("warming {} up", subject.name))?;
        }
        let names: Vec<&str> = self.subjects().map(|subject| subject.name).collect();
        let all: Vec<Series> = interleaved(&names, effort.rounds, |name| {
            let subject = self.subjects().find(|subject| subject.name == name).context("no such subject")?;
            let before = subject.process.cpu_s()?;
            let (mut answered, mut stretches) = (0, 0);
            while answered < CALLS_MIN && stretches < STRETCHES_MAX {
                answered += drive(subject.address, &subject.requests, effort.seconds, &self.folder)?;
                stretches += 1;
            }
            ensure!(answered > 0, "{name} answered nothing");
            Ok((subject.process.cpu_s()? - before) / f64::from(answered) * 10_000.0)
        })?;
        Ok(rows(row, METRIC, UNIT, &all))
    }
}

impl Subject {
    fn new(
        name: &'static str,
        process: Process,
        address: SocketAddr,
        path: &str,
        key: &str,
        body: &Value,
        connections: u32,
    ) -> Self {
        let authorization = format!("Bearer {key}");
        let requests = Requests::posts(vec![path.to_owned()], &[("Authorization", &authorization)], body);
        Self {
            name,
            address,
            process,
            requests: requests.over(connections),
            path: path.to_owned(),
            key: key.to_owned(),
            body: body.clone(),
        }
    }

    /// It answers what the provider answers, and, where it has keys, refuses another one.
    fn proves_itself(&self, row: &str) -> Result<()> {
        let ask = |key: &str| {
            let headers = [("Authorization".to_owned(), format!("Bearer {key}"))];
            send(self.address, "POST", &self.path, &headers, &self.body)
        };
        let (status, body) = ask(&self.key)?;
        let pieces = body.matches("chat.completion.chunk").count();
        let whole = if row == "plain" { body.contains("raining until the evening") } else { pieces >= CHUNKS };
        ensure!(status == 200 && whole, "{} does not pass the answer on: {status} {body}", self.name);
        if matches!(self.name, OURSELVES | "litellm") {
            let (status, _) = ask("sk-wrong")?;
            ensure!((400..500).contains(&status), "{} takes a wrong key: {status}", self.name);
        }
        Ok(())
    }
}

/// What is asked over and over.
fn call(row: &str) -> Value {
    let text =
        if row == "plain" { "What is the weather like?".to_owned() } else { format!("Tell me more. #chunks={CHUNKS}") };
    json!({
        "model": "m",
        "stream": row == "stream",
        "messages": [
            {"role": "system", "content": "You are the assistant of a small shop for umbrellas. Be brief and friendly."},
            {"role": "user", "content": text},
        ],
    })
}

/// The provider: nginx with an answer made from memory, or the fake one of the test kit, which streams.
fn provider(workspace: &Workspace, row: &str, folder: &Path) -> Result<(Process, SocketAddr)> {
    let address = free_address()?;
    let command = if row == "plain" {
        let text = include_str!("peers/upstream.conf").replace("@ANSWER@", ANSWER);
        configured(Command::new("nginx"), "-c", "upstream.conf", &text, address, address, folder)?
    } else {
        let mut command = Command::new(workspace.target.join("dist").join("fake-provider"));
        command.arg(address.to_string());
        command
    };
    let mut process = Process::start("provider", &command, AROUND, folder)?;
    process.listens_on(address)?;
    Ok((process, address))
}

/// The platform, with one tenant, and the virtual key of its bot.
fn ours(kit: &Kit, upstream: SocketAddr, folder: &Path) -> Result<(Process, SocketAddr, String)> {
    let config = CONFIG.replace("@UPSTREAM@", &upstream.to_string());
    let platform = kit.ready(Start { folder, config: &config, environment: &[] })?;
    platform.create_tenant("acme")?;
    let since = Instant::now();
    let key = loop {
        if let Some(key) = virtual_key(&folder.join("data"))? {
            break key;
        }
        ensure!(since.elapsed() < KEY_WITHIN, "no bot got its key:\n{}", platform.process.printed());
        thread::sleep(Duration::from_millis(100));
    };
    platform.process.move_to(MEASURED)?;
    Ok((platform.process, platform.address, key))
}

/// Looks for the key in the bots' own configuration files.
fn virtual_key(folder: &Path) -> Result<Option<String>> {
    let Ok(entries) = fs::read_dir(folder) else { return Ok(None) };
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            if let Some(key) = virtual_key(&path)? {
                return Ok(Some(key));
            }
        } else if path.ends_with("cmd_config.json") {
            let text = fs::read_to_string(&path)?;
            let Some(at) = text.find("\"afk-") else { continue };
            return Ok(text[at + 1..].split('"').next().map(str::to_owned));
        }
    }
    Ok(None)
}

/// Passes each piece of a stream on as it comes, as we do.
fn nginx(upstream: SocketAddr, folder: &Path) -> Result<(Process, SocketAddr)> {
    let address = free_address()?;
    let text = include_str!("peers/nginx.conf").replace("proxy_pass ", "proxy_buffering off; proxy_pass ");
    let command = configured(Command::new("nginx"), "-c", "nginx.conf", &text, address, upstream, folder)?;
    let mut process = Process::start("nginx", &command, MEASURED, folder)?;
    process.listens_on(address)?;
    Ok((process, address))
}

fn start_litellm(program: &Path, upstream: SocketAddr, folder: &Path) -> Result<(Process, SocketAddr)> {
    let address = free_address()?;
    let config = folder.join("litellm.yaml");
    fs::write(&config, LITELLM_CONFIG.replace("@UPSTREAM@", &upstream.to_string()))?;
    let mut command = Command::new(program);
    command.arg("--config").arg(&config).args(["--host", "127.0.0.1", "--num_workers", "1", "--port"]);
    command.arg(address.port().to_string());
    // Otherwise it asks the internet what models cost.
    command.env("LITELLM_LOCAL_MODEL_COST_MAP", "True");
    let mut process = Process::start("litellm", &command, MEASURED, folder)?;
    process.listens_on(address)?;
    Ok((process, address))
}
