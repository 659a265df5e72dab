//! What it takes to reach Redis, as people write it. Judges what cannot be meant; connects to nothing.

use std::time::Duration;

use astrfleet_core::{Error, Result};
use secrecy::SecretString;

/// The port where none is written.
const PORT: u16 = 6379;

/// A server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
}

impl Node {
    /// The host as it stands in a URL.
    pub(super) fn bracketed(&self) -> String {
        if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() }
    }
}

/// What stands behind the addresses.
#[derive(Clone, Debug)]
pub enum Topology {
    /// One server; of several addresses, whichever answers.
    Single,
    /// A cluster; the addresses are some of its nodes.
    Cluster,
    /// The addresses are sentinels.
    Sentinel {
        /// The name under which they watch the master.
        master: String,
        /// The sentinels' own password; empty: none.
        password: SecretString,
    },
}

impl Topology {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Single => "single",
            Self::Cluster => "cluster",
            Self::Sentinel { .. } => "sentinel",
        }
    }
}

/// How to reach Redis.
#[derive(Clone, Debug)]
pub struct RedisSettings {
    /// At least one.
    pub nodes: Vec<Node>,
    /// What they are.
    pub topology: Topology,
    /// Empty: the default user.
    pub username: String,
    /// Empty: none.
    pub password: SecretString,
    /// The number of the database; a cluster has but 0.
    pub database: i64,
    /// Whether to speak TLS.
    pub tls: bool,
    /// Authorities to trust in PEM, instead of those of the system.
    pub ca_pem: Option<Vec<u8>>,
    /// What our keys and channels begin with.
    pub prefix: String,
    /// How long one answer may take.
    pub timeout: Duration,
}

impl RedisSettings {
    /// One server without a password, as in tests.
    #[must_use]
    pub fn single(host: &str, port: u16) -> Self {
        Self {
            nodes: vec![Node { host: host.to_owned(), port }],
            topology: Topology::Single,
            username: String::new(),
            password: SecretString::default(),
            database: 0,
            tls: false,
            ca_pem: None,
            prefix: "astrfleet".to_owned(),
            timeout: Duration::from_millis(500),
        }
    }

    pub(super) fn check(&self) -> Result<()> {
        let refused = |reason: &str| Err(Error::invalid("redis", reason));
        if self.nodes.is_empty() {
            return refused("no address is given: set redis.host");
        }
        if self.timeout.is_zero() {
            return refused("an answer needs some time: set redis.timeout_ms to 500 or so");
        }
        if self.database != 0 && matches!(self.topology, Topology::Cluster) {
            return refused("a cluster has no other database than 0: set redis.database to 0");
        }
        if matches!(&self.topology, Topology::Sentinel { master, .. } if master.is_empty()) {
            return refused("sentinels are asked for a master by its name: set redis.sentinel_master");
        }
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b':' | b'.');
        if self.prefix.is_empty() || self.prefix.len() > 64 || !self.prefix.bytes().all(is_plain) {
            return refused("redis.prefix has 1 to 64 of a-z, A-Z, 0-9, -, _, : and .");
        }
        Ok(())
    }
}

/// Reads `a, b:7000, [::1]:7001`; `port` is for those that say none.
///
/// # Errors
/// [`Error::Invalid`] for what is none.
pub fn nodes(text: &str, port: u16) -> Result<Vec<Node>> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(|part| node(part, port)).collect()
}

fn node(text: &str, port: u16) -> Result<Node> {
    let refused = || Error::invalid("redis.host", format!("{text:?} is no address: write host or host:port"));
    let (host, written) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, rest)) => (host, Some(rest.strip_prefix(':').ok_or_else(refused)?)),
        // More than one colon is an IPv6 address.
        None if text.matches(':').count() > 1 => (text, None),
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    let fallback = if port == 0 { PORT } else { port };
    let port = written.map_or(Ok(fallback), |port| port.parse().map_err(|_| refused()))?;
    let is_host = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':');
    if host.is_empty() || port == 0 || !host.bytes().all(is_host) {
        return Err(refused());
    }
    Ok(Node { host: host.to_owned(), port })
}

/// The nodes that `CLUSTER NODES` says are there: `id host:port@bus[,name] flags …`, a node a line.
pub(super) fn living_nodes(text: &str) -> impl Iterator<Item = Node> + '_ {
    text.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (address, flags) = (fields.next()?, fields.next()?);
        if flags.split(',').any(|flag| matches!(flag, "fail" | "noaddr" | "handshake")) {
            return None;
        }
        let (host, port) = address.split('@').next()?.rsplit_once(':')?;
        if host.is_empty() {
            return None;
        }
        Some(Node { host: host.to_owned(), port: port.parse().ok().filter(|port| *port != 0)? })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> Vec<(String, u16)> {
        nodes(text, 7).unwrap().into_iter().map(|node| (node.host, node.port)).collect()
    }

    #[test]
    fn addresses_are_read() {
        assert_eq!(written("redis"), [("redis".to_owned(), 7)]);
        assert_eq!(written("a, b:7000,"), [("a".to_owned(), 7), ("b".to_owned(), 7000)]);
        assert_eq!(written("[::1]:1,fd00::2"), [("::1".to_owned(), 1), ("fd00::2".to_owned(), 7)]);
        for wrong in ["a:", "a:b", "a:0", ":1", "[::1", "[::1]1", "a b", "redis://a"] {
            assert!(nodes(wrong, 7).is_err(), "{wrong}");
        }
    }

    #[test]
    fn nodes_that_failed_are_not_asked() {
        let text = "07c3 127.0.0.1:30004@31004,name slave e7d1 0 1426238317239 4 connected\n\
                    67ed 127.0.0.1:30002@31002 master,fail - 0 1426238316232 2 connected 5461-10922\n\
                    292f :0@0 master,noaddr - 1426238317741 1426238316232 3 disconnected\n\
                    e7d1 fd00::1:30001@31001 myself,master - 0 0 1 connected 0-5460\n";
        let found: Vec<_> = living_nodes(text).map(|node| (node.host, node.port)).collect();
        assert_eq!(found, [("127.0.0.1".to_owned(), 30004), ("fd00::1".to_owned(), 30001)]);
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let good = RedisSettings::single("localhost", 1);
        good.check().unwrap();
        for wrong in [
            RedisSettings { nodes: vec![], ..good.clone() },
            RedisSettings { timeout: Duration::ZERO, ..good.clone() },
            RedisSettings { prefix: "a b".to_owned(), ..good.clone() },
            RedisSettings { database: 1, topology: Topology::Cluster, ..good.clone() },
            RedisSettings {
                topology: Topology::Sentinel { master: String::new(), password: SecretString::default() },
                ..good.clone()
            },
        ] {
            wrong.check().unwrap_err();
        }
    }
}
