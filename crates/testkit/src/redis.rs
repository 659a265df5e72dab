//! Real Redis servers as child processes: one alone, a cluster of six, and one with a replica that sentinels watch. Each
//! may be killed, frozen, flushed and failed over. Nothing here is durable, as in production.

use std::{ffi::OsString, path::PathBuf, sync::Arc, time::Duration};

use astrfleet_adapters::redis::{Node, RedisSettings, Topology};
use redis::{
    Client, Cmd, ConnectionAddr, FromRedisValue, IntoConnectionInfo as _, RedisConnectionInfo, RedisResult,
    TlsCertificates, Value, cmd,
};
use secrecy::SecretString;

use crate::{kept::Kept, parts::find, ports::free_port};

const HOST: &str = "127.0.0.1";
/// The name under which the sentinels watch.
const MASTER: &str = "astrfleet";
/// After so long a node of a cluster, or a watched master, counts as gone.
const GONE_AFTER: &str = "1000";
/// The slots of a cluster.
const SLOTS: u16 = 16_384;

/// What servers ask of whoever comes: TLS, by a certificate that nobody signed, and passwords.
#[derive(Clone)]
pub struct Guard {
    folder: Arc<tempfile::TempDir>,
    password: String,
}

impl Guard {
    /// With a key of its own.
    ///
    /// # Panics
    /// Where `openssl` makes none.
    #[must_use]
    pub fn new() -> Self {
        let guard = Self { folder: Arc::new(tempfile::tempdir().unwrap()), password: "of the servers".to_owned() };
        let made = std::process::Command::new(find("openssl"))
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"])
            .args(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"])
            .args(["-addext", "basicConstraints=critical,CA:FALSE"])
            .arg("-keyout")
            .arg(guard.file("key.pem"))
            .arg("-out")
            .arg(guard.file("certificate.pem"))
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        guard
    }

    /// The same, with a password of the sentinels' own.
    fn of_sentinels(&self) -> Self {
        Self { password: "of the sentinels".to_owned(), ..self.clone() }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What certificates are trusted by.
    fn authorities(&self) -> Vec<u8> {
        std::fs::read(self.file("certificate.pem")).unwrap()
    }

    /// The configuration of a server or a sentinel that listens on `port`, a word and its value each.
    fn configuration(&self, port: u16) -> Vec<(&'static str, String)> {
        let file = |name: &str| self.file(name).to_str().unwrap().to_owned();
        vec![
            ("port", "0".to_owned()),
            ("tls-port", port.to_string()),
            ("tls-key-file", file("key.pem")),
            ("tls-cert-file", file("certificate.pem")),
            ("tls-ca-cert-file", file("certificate.pem")),
            ("tls-auth-clients", "no".to_owned()),
            ("tls-replication", "yes".to_owned()),
            ("requirepass", self.password.clone()),
        ]
    }

    fn settings(&self, plain: RedisSettings) -> RedisSettings {
        let password = self.password.as_str().into();
        RedisSettings { tls: true, ca_pem: Some(self.authorities()), password, ..plain }
    }
}

impl Default for Guard {
    fn default() -> Self {
        Self::new()
    }
}

/// One server.
pub struct Redis {
    server: Kept,
    port: u16,
    guard: Option<Guard>,
}

impl Redis {
    /// Starts one and waits until it answers.
    pub async fn start() -> Self {
        Self::with(&[], None).await
    }

    /// The same, that asks for a password.
    pub async fn with_password(password: &str) -> Self {
        Self::with(&["--requirepass", password], None).await
    }

    /// The same, that speaks TLS alone and asks for a password, with which it is reached.
    pub async fn guarded(guard: &Guard) -> Self {
        Self::with(&[], Some(guard)).await
    }

    async fn with(further: &[&str], guard: Option<&Guard>) -> Self {
        let started = Self::prepared(further, guard);
        started.server.start();
        started.wait().await;
        started
    }

    fn prepared(further: &[&str], guard: Option<&Guard>) -> Self {
        let server = Kept::new("redis", find("redis-server"));
        let port = free_port();
        let mut arguments: Vec<OsString> = vec!["--dir".into(), server.folder().into()];
        let fixed = ["--bind", HOST, "--save", "", "--appendonly", "no", "--enable-debug-command", "yes"];
        arguments.extend(fixed.iter().chain(further).map(Into::into));
        match guard {
            None => arguments.extend(["--port".into(), port.to_string().into()]),
            Some(guard) => {
                let configuration = guard.configuration(port).into_iter();
                arguments.extend(configuration.flat_map(|(word, value)| [format!("--{word}").into(), value.into()]));
                // What it shows to its own kind.
                arguments.extend(["--masterauth".into(), guard.password.clone().into()]);
            }
        }
        Self { server: server.args(arguments), port, guard: guard.cloned() }
    }

    /// Its port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// How to reach it.
    #[must_use]
    pub fn settings(&self) -> RedisSettings {
        let plain = RedisSettings::single(HOST, self.port);
        self.guard.as_ref().map_or(plain.clone(), |guard| guard.settings(plain))
    }

    /// Kills it: all that it held is gone.
    pub fn kill(&self) {
        self.server.kill();
    }

    /// Starts it again on the same port, empty.
    pub async fn restart(&self) {
        self.server.start();
        self.wait().await;
    }

    /// Stops it in the middle of whatever it does; connections stay.
    pub fn freeze(&self) {
        self.server.freeze();
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.server.thaw();
    }

    /// Lets it do nothing for a while (`DEBUG SLEEP`), and waits until it does something again.
    pub async fn sleep(&self, how_long: Duration) {
        let mut sleep = cmd("DEBUG");
        sleep.arg("SLEEP").arg(how_long.as_secs_f64());
        self.ask::<()>(&sleep).await.unwrap();
    }

    /// Empties it.
    pub async fn flush(&self) {
        self.ask::<()>(&cmd("FLUSHALL")).await.unwrap();
    }

    /// Cuts every other connection of one kind: `normal` or `pubsub`.
    pub async fn cut(&self, kind: &str) {
        let mut cut = cmd("CLIENT");
        cut.arg(&["KILL", "TYPE", kind, "SKIPME", "yes"]);
        self.ask::<()>(&cut).await.unwrap();
    }

    /// Asks it something on a connection of its own.
    ///
    /// # Errors
    /// Redis's own, and those of the way to it.
    pub async fn ask<T: FromRedisValue>(&self, question: &Cmd) -> RedisResult<T> {
        ask(self.port, self.guard.as_ref(), question).await
    }

    async fn wait(&self) {
        // One that wants a password has answered too.
        let answers = async || {
            let answer = self.ask::<Value>(&cmd("PING")).await;
            answer.map_or_else(|error| error.code() == Some("NOAUTH"), |_| true)
        };
        self.server.wait_until("Redis", answers).await;
    }
}

/// Six nodes: three masters, and a replica of each.
pub struct RedisCluster {
    nodes: Vec<Redis>,
}

impl RedisCluster {
    /// Starts them and waits until they are one.
    pub async fn start() -> Self {
        Self::with(None).await
    }

    /// The same, that speak TLS alone, also with each other, and ask for a password.
    pub async fn guarded(guard: Guard) -> Self {
        Self::with(Some(&guard)).await
    }

    async fn with(guard: Option<&Guard>) -> Self {
        let settings = [
            "--cluster-enabled",
            "yes",
            "--cluster-node-timeout",
            GONE_AFTER,
            "--cluster-replica-validity-factor",
            "0",
            "--tls-cluster",
            if guard.is_some() { "yes" } else { "no" },
        ];
        let nodes: Vec<Redis> = (0..6)
            .map(|_| {
                let bus = free_port().to_string();
                Redis::prepared(&[&settings[..], &["--cluster-port", &bus]].concat(), guard)
            })
            .collect();
        for node in &nodes {
            node.server.start();
        }
        for node in &nodes {
            node.wait().await;
        }
        let cluster = Self { nodes };
        cluster.join().await;
        cluster
    }

    async fn join(&self) {
        let (masters, replicas) = self.nodes.split_at(3);
        for (number, master) in (0_u16..).zip(masters) {
            let (first, end) = (SLOTS / 3 * number, if number == 2 { SLOTS } else { SLOTS / 3 * (number + 1) });
            cluster(master, &["ADDSLOTSRANGE", &first.to_string(), &(end - 1).to_string()]).await;
        }
        let bus: Vec<String> = masters[0].ask(cmd("CONFIG").arg("GET").arg("cluster-port")).await.unwrap();
        for node in &self.nodes[1..] {
            cluster(node, &["MEET", HOST, &masters[0].port.to_string(), &bus[1]]).await;
        }
        self.wait_until("to know each other", async |node| lines(node).await.len() == 6).await;
        for (replica, master) in replicas.iter().zip(masters) {
            let id: String = master.ask(cmd("CLUSTER").arg("MYID")).await.unwrap();
            cluster(replica, &["REPLICATE", &id]).await;
        }
        self.wait_until("to be one cluster", async |node| is_whole(node).await).await;
        for replica in replicas {
            let linked = async || info(replica, "replication").await.contains("master_link_status:up");
            replica.server.wait_until("replication", linked).await;
        }
    }

    /// How to reach it: by two of its nodes.
    #[must_use]
    pub fn settings(&self) -> RedisSettings {
        let node = |index: usize| Node { host: HOST.to_owned(), port: self.nodes[index].port };
        RedisSettings { nodes: vec![node(0), node(1)], topology: Topology::Cluster, ..self.nodes[0].settings() }
    }

    /// Kills the first master, and waits until its replica has taken over.
    pub async fn fail_over(&self) {
        self.nodes[0].kill();
        let promoted = &self.nodes[3];
        let is_master =
            async || info(promoted, "replication").await.contains("role:master") && is_whole(promoted).await;
        promoted.server.wait_until("the fail-over", is_master).await;
        for node in [1, 2, 4, 5].map(|index| &self.nodes[index]) {
            node.server.wait_until("the fail-over to be known", async || is_whole(node).await).await;
        }
    }

    async fn wait_until(&self, what: &str, ready: impl AsyncFn(&Redis) -> bool) {
        for node in &self.nodes {
            node.server.wait_until(what, async || ready(node).await).await;
        }
    }
}

/// A master with a replica, watched by three sentinels.
pub struct RedisSentinels {
    master: Redis,
    replica: Redis,
    sentinels: Vec<Redis>,
}

impl RedisSentinels {
    /// Starts them and waits until the sentinels know each other and the replica.
    pub async fn start() -> Self {
        Self::with(None).await
    }

    /// The same, that speak TLS alone and ask for passwords: the servers for one, the sentinels for another.
    pub async fn guarded(guard: Guard) -> Self {
        Self::with(Some(&guard)).await
    }

    async fn with(guard: Option<&Guard>) -> Self {
        let master = Redis::with(&[], guard).await;
        let replica = Redis::with(&["--replicaof", &format!("{HOST} {}", master.port)], guard).await;
        let linked = async || info(&replica, "replication").await.contains("master_link_status:up");
        replica.server.wait_until("replication", linked).await;
        let sentinels: Vec<Redis> = (0..3).map(|_| sentinel(&master)).collect();
        for sentinel in &sentinels {
            sentinel.server.start();
            sentinel.wait().await;
        }
        for sentinel in &sentinels {
            let knows_all = async || {
                let about = info(sentinel, "sentinel").await;
                about.contains("status=ok") && about.contains("slaves=1,sentinels=3")
            };
            sentinel.server.wait_until("the sentinels", knows_all).await;
        }
        Self { master, replica, sentinels }
    }

    /// How to reach the master: by the sentinels.
    #[must_use]
    pub fn settings(&self) -> RedisSettings {
        let node = |sentinel: &Redis| Node { host: HOST.to_owned(), port: sentinel.port };
        let guard = self.sentinels[0].guard.as_ref();
        let password = guard.map_or_else(SecretString::default, |guard| guard.password.as_str().into());
        let topology = Topology::Sentinel { master: MASTER.to_owned(), password };
        RedisSettings { nodes: self.sentinels.iter().map(node).collect(), topology, ..self.master.settings() }
    }

    /// Kills the master, and waits until the sentinels have made the replica master.
    pub async fn fail_over(&self) {
        self.master.kill();
        let is_master = async || info(&self.replica, "replication").await.contains("role:master");
        self.replica.server.wait_until("the fail-over", is_master).await;
    }
}

fn sentinel(master: &Redis) -> Redis {
    let server = Kept::new("sentinel", find("redis-server"));
    let port = free_port();
    let config = server.folder().join("sentinel.conf");
    let mut lines = vec![
        format!("bind {HOST}"),
        format!("dir {}", server.folder().display()),
        format!("sentinel monitor {MASTER} {HOST} {} 2", master.port),
        format!("sentinel down-after-milliseconds {MASTER} {GONE_AFTER}"),
        format!("sentinel failover-timeout {MASTER} 3000"),
    ];
    let guard = master.guard.as_ref().map(Guard::of_sentinels);
    match (&master.guard, &guard) {
        (Some(servers), Some(own)) => {
            let configuration = own.configuration(port).into_iter();
            lines.extend(configuration.map(|(word, value)| format!("{word} \"{value}\"")));
            lines.push(format!("sentinel auth-pass {MASTER} \"{}\"", servers.password));
            lines.push(format!("sentinel sentinel-pass \"{}\"", own.password));
        }
        _ => lines.push(format!("port {port}")),
    }
    std::fs::write(&config, lines.join("\n") + "\n").unwrap();
    Redis { server: server.args([config.into_os_string(), "--sentinel".into()]), port, guard }
}

async fn ask<T: FromRedisValue>(port: u16, guard: Option<&Guard>, question: &Cmd) -> RedisResult<T> {
    let host = HOST.to_owned();
    let client = match guard {
        None => Client::open(ConnectionAddr::Tcp(host, port).into_connection_info()?)?,
        Some(guard) => {
            let who = RedisConnectionInfo::default().set_password(&guard.password);
            let address = ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None };
            let certificates = TlsCertificates { client_tls: None, root_cert: Some(guard.authorities()) };
            Client::build_with_tls(address.into_connection_info()?.set_redis_settings(who), certificates)?
        }
    };
    let config = redis::AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(30)));
    let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
    question.query_async(&mut connection).await
}

async fn cluster(node: &Redis, words: &[&str]) {
    node.ask::<()>(cmd("CLUSTER").arg(words)).await.unwrap();
}

async fn lines(node: &Redis) -> Vec<String> {
    let text: String = node.ask(cmd("CLUSTER").arg("NODES")).await.unwrap();
    text.lines().filter(|line| !line.contains("handshake")).map(str::to_owned).collect()
}

async fn is_whole(node: &Redis) -> bool {
    let text: String = node.ask(cmd("CLUSTER").arg("INFO")).await.unwrap_or_default();
    text.contains("cluster_state:ok") && text.contains("cluster_size:3")
}

async fn info(node: &Redis, section: &str) -> String {
    node.ask(cmd("INFO").arg(section)).await.unwrap_or_default()
}
