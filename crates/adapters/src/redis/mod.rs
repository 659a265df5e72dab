//! How Redis is reached: one server, a cluster, or the master that sentinels name. Nothing durable is kept there, so
//! nothing here decides what its absence means: whoever asks gets an answer or an error within a time limit, and decides.

mod backoff;
mod link;
mod settings;

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use ::redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ErrorKind, IntoConnectionInfo, RedisConnectionInfo, RedisError,
    RedisResult, TlsCertificates, TlsMode,
    aio::{MultiplexedConnection, PubSub},
    cluster::ClusterClient,
    cmd,
};
use astrfleet_core::{Error, Result};
use secrecy::{ExposeSecret, SecretString};

pub use self::settings::{Node, RedisSettings, Topology, nodes};
pub(crate) use self::{backoff::Backoff, link::Link};

/// Nodes of a cluster that are remembered beside the configured ones.
const LEARNED_MAX: usize = 64;
/// The cluster client tries nothing again by itself: it would do so after an answer that came too late, too, and what we
/// ask must not be done twice. It learns from a refusal where a key has gone, and the next question finds it there.
const CLUSTER_RETRIES: u32 = 0;

/// The way to Redis. Cheap to clone; holds no connection.
#[derive(Clone)]
pub struct Redis(Arc<Inner>);

struct Inner {
    settings: RedisSettings,
    /// Whom the next connection asks first: connections that have a choice are spread.
    turn: AtomicUsize,
    /// Nodes that the cluster named: they are asked when no configured one answers.
    learned: Mutex<Vec<Node>>,
}

impl Redis {
    /// Nothing is connected yet: a start must not fail because Redis is away.
    ///
    /// # Errors
    /// [`Error::Invalid`] where the settings cannot be meant.
    pub fn new(settings: RedisSettings) -> Result<Self> {
        settings.check()?;
        // The certificates are read once here, so that a broken file is known at the start.
        let way = Self(Arc::new(Inner { settings, turn: AtomicUsize::new(0), learned: Mutex::default() }));
        if let Some(node) = way.0.settings.nodes.first() {
            way.client(node, false).map_err(|error| Error::invalid("redis", error.to_string()))?;
        }
        Ok(way)
    }

    /// Asks the server who it is, for people.
    ///
    /// # Errors
    /// [`Error::Unavailable`] with the cause, where nobody answers as configured.
    pub async fn check(&self) -> Result<String> {
        let unavailable = |error: RedisError| Error::unavailable("Redis", error);
        let mut node = self.node().await.map_err(unavailable)?;
        let info: String = cmd("INFO").arg("server").query_async(&mut node).await.map_err(unavailable)?;
        let version = info.lines().find_map(|line| line.strip_prefix("redis_version:")).unwrap_or("of unknown version");
        // A cluster may answer PING while it serves no keys: one command that needs a key says so.
        self.keys().await.map_err(unavailable)?.ping(&self.key("ping"), self.timeout()).await.map_err(unavailable)?;
        Ok(format!("Redis {version} ({})", self.0.settings.topology.name()))
    }

    /// A name of ours within the database that others may share.
    pub(crate) fn key(&self, name: &str) -> String {
        format!("{}:{name}", self.0.settings.prefix)
    }

    /// How long one question may take.
    pub(crate) fn timeout(&self) -> Duration {
        self.0.settings.timeout
    }

    /// A connection for commands on keys, whichever node has them.
    pub(crate) async fn keys(&self) -> RedisResult<Link> {
        if !matches!(self.0.settings.topology, Topology::Cluster) {
            return Ok(Link::One(self.node().await?));
        }
        let limit = self.timeout().saturating_mul(2);
        within(limit, async {
            self.learn().await;
            Ok(Link::Cluster(self.cluster()?.get_async_connection().await?))
        })
        .await
    }

    /// A connection to one node that may write, for commands that know no keys.
    pub(crate) async fn node(&self) -> RedisResult<MultiplexedConnection> {
        self.any(|client| {
            let config = self.config();
            async move { client.get_multiplexed_async_connection_with_config(&config).await }
        })
        .await
    }

    /// A connection to one node that listens.
    pub(crate) async fn listener(&self) -> RedisResult<PubSub> {
        self.any(|client| async move { client.get_async_pubsub().await }).await
    }

    /// Tries the nodes in turn until one is connected.
    async fn any<T, F>(&self, connect: impl Fn(Client) -> F) -> RedisResult<T>
    where
        F: Future<Output = RedisResult<T>>,
    {
        let mut last = RedisError::from((ErrorKind::InvalidClientConfig, "no node of Redis is configured"));
        for node in self.candidates() {
            let attempt = async {
                let client = match &self.0.settings.topology {
                    Topology::Single | Topology::Cluster => self.client(&node, false)?,
                    Topology::Sentinel { master, .. } => self.client(&self.master(&node, master).await?, false)?,
                };
                connect(client).await
            };
            match within(self.timeout().saturating_mul(2), attempt).await {
                Ok(connected) => return Ok(connected),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Whom a sentinel names as master, if that one agrees.
    async fn master(&self, sentinel: &Node, name: &str) -> RedisResult<Node> {
        let config = self.config();
        let mut asked = self.client(sentinel, true)?.get_multiplexed_async_connection_with_config(&config).await?;
        let named: Option<(String, u16)> =
            cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(name).query_async(&mut asked).await?;
        let (host, port) = named
            .ok_or_else(|| RedisError::from((ErrorKind::MasterNameNotFoundBySentinel, "unknown to the sentinel")))?;
        let node = Node { host, port };
        // Just after a fail-over a sentinel may still name the old one, which would take our writes and lose them.
        let mut named = self.client(&node, false)?.get_multiplexed_async_connection_with_config(&config).await?;
        let role: Vec<::redis::Value> = cmd("ROLE").query_async(&mut named).await?;
        match role.first() {
            Some(::redis::Value::BulkString(role)) if role == b"master" => Ok(node),
            _ => Err(RedisError::from((ErrorKind::MasterNameNotFoundBySentinel, "the named server is no master yet"))),
        }
    }

    /// Asks the cluster for its nodes. Failing costs nothing: the configured ones are still known.
    async fn learn(&self) {
        let Ok(mut node) = self.node().await else { return };
        let Ok(text) = cmd("CLUSTER").arg("NODES").query_async::<String>(&mut node).await else { return };
        let found = settings::living_nodes(&text).take(LEARNED_MAX).collect();
        *self.0.learned.lock().unwrap_or_else(PoisonError::into_inner) = found;
    }

    fn candidates(&self) -> Vec<Node> {
        let mut nodes = self.0.settings.nodes.clone();
        let turn = self.0.turn.fetch_add(1, Ordering::Relaxed);
        let first = turn.checked_rem(nodes.len()).unwrap_or(0);
        nodes.rotate_left(first);
        let learned = self.0.learned.lock().unwrap_or_else(PoisonError::into_inner);
        let further = learned.iter().filter(|node| !nodes.contains(node)).cloned().collect::<Vec<_>>();
        nodes.extend(further);
        nodes
    }

    fn config(&self) -> AsyncConnectionConfig {
        let limit = Some(self.timeout());
        AsyncConnectionConfig::new().set_connection_timeout(limit).set_response_timeout(limit)
    }

    fn client(&self, node: &Node, is_sentinel: bool) -> RedisResult<Client> {
        let settings = &self.0.settings;
        let address = if settings.tls {
            let (host, port) = (node.host.clone(), node.port);
            ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
        } else {
            ConnectionAddr::Tcp(node.host.clone(), node.port)
        };
        let who = match &settings.topology {
            Topology::Sentinel { password, .. } if is_sentinel => identity("", password),
            Topology::Single | Topology::Cluster | Topology::Sentinel { .. } => {
                identity(&settings.username, &settings.password).set_db(settings.database)
            }
        };
        let info = address.into_connection_info()?.set_redis_settings(who);
        if settings.tls { Client::build_with_tls(info, self.certificates()) } else { Client::open(info) }
    }

    fn cluster(&self) -> RedisResult<ClusterClient> {
        let settings = &self.0.settings;
        let tls = settings.tls;
        let url = |node: &Node| format!("redis{}://{}:{}", if tls { "s" } else { "" }, node.bracketed(), node.port);
        let mut builder = ClusterClient::builder(self.candidates().iter().map(url))
            .connection_timeout(settings.timeout)
            .response_timeout(settings.timeout)
            .retries(CLUSTER_RETRIES);
        if !settings.username.is_empty() {
            builder = builder.username(&settings.username);
        }
        if !settings.password.expose_secret().is_empty() {
            builder = builder.password(settings.password.expose_secret());
        }
        if tls {
            builder = builder.tls(TlsMode::Secure).certs(self.certificates());
        }
        builder.build()
    }

    fn certificates(&self) -> TlsCertificates {
        TlsCertificates { client_tls: None, root_cert: self.0.settings.ca_pem.clone() }
    }
}

fn identity(username: &str, password: &SecretString) -> RedisConnectionInfo {
    let mut identity = RedisConnectionInfo::default();
    if !username.is_empty() {
        identity = identity.set_username(username);
    }
    if !password.expose_secret().is_empty() {
        identity = identity.set_password(password.expose_secret());
    }
    identity
}

/// Ends what takes too long as an error of Redis.
pub(crate) async fn within<T>(limit: Duration, work: impl Future<Output = RedisResult<T>>) -> RedisResult<T> {
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
        Err(RedisError::from(std::io::Error::new(std::io::ErrorKind::TimedOut, "Redis took too long to answer")))
    })
}
