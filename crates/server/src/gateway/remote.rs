//! Roles that live in other processes: where they are, looked up and asked again and again whether they are well.

use std::{
    collections::{BTreeMap, HashSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use astrfleet_core::{Error, Result};
use axum::http::{HeaderMap, HeaderName, StatusCode};
use futures_util::{
    StreamExt as _,
    future::{join, join_all},
    stream::FuturesUnordered,
};
use http_body_util::{BodyExt, Limited};
use tokio::time::MissedTickBehavior;

use super::{
    balance::{Member, Members, Standing},
    upstream::Upstream,
};
use crate::{
    app::{App, Base},
    config::{BalanceConfig, millis, seconds},
    internal::Peers,
    role::Role,
};

/// Said by a process that is ready and leaves the work to another one of its role.
pub const STANDS_BY: HeaderName = HeaderName::from_static("x-astrfleet-stands-by");
/// The largest answer to the question whether a process is ready.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// How long a name may take to be looked up.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

/// One role: as it is configured, and the processes that this stands for.
type Known = (Vec<Upstream>, Arc<Members>);

/// The roles that are not in this process.
pub struct Remote {
    roles: BTreeMap<Role, Known>,
    /// All of them were looked for once.
    looked: AtomicBool,
}

impl Remote {
    /// Those that are configured.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an address that cannot be read.
    pub fn new(base: &Base) -> Result<Self> {
        let mut roles = BTreeMap::new();
        for (role, addresses) in &base.config.gateway.remote {
            let upstreams: Vec<Upstream> =
                addresses.0.iter().map(|address| upstream(address)).collect::<Result<_>>()?;
            if upstreams.is_empty() {
                continue;
            }
            let members = Members::new(*role, &base.config.gateway.balance, Arc::clone(&base.metrics));
            members.set(upstreams.iter().filter_map(Upstream::address).collect());
            roles.insert(*role, (upstreams, Arc::new(members)));
        }
        Ok(Self { looked: AtomicBool::new(roles.is_empty()), roles })
    }

    /// There is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.roles.is_empty()
    }

    /// Whether all of them were looked for at least once.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.looked.load(Relaxed)
    }

    /// The processes of a role, where some are configured.
    #[must_use]
    pub fn of(&self, role: Role) -> Option<&Arc<Members>> {
        self.roles.get(&role).map(|(_, members)| members)
    }
}

/// Looks for the roles elsewhere, and after them, until the process ends. Each by itself: a name that is not found delays no
/// question, and a process that does not answer delays nobody else's.
pub fn watch(app: &App) {
    let remote = app.gateway.remote();
    if remote.is_empty() {
        return;
    }
    let here = app.roles.clone();
    let (peers, config, stop) = (app.peers.clone(), app.config.gateway.balance.clone(), app.stop.clone());
    app.tasks.spawn(async move {
        let elsewhere: Vec<&Known> =
            remote.roles.iter().filter(|(role, _)| !here.contains(role)).map(|(_, known)| known).collect();
        let resolved = AtomicBool::new(false);
        let note = || {
            if resolved.load(Relaxed) && elsewhere.iter().all(|(_, members)| members.all_heard()) {
                remote.looked.store(true, Relaxed);
            }
        };
        let asking = join_all(elsewhere.iter().map(|(_, members)| ask_all(members, &config, &peers, note)));
        let looking = look_up(&elsewhere, seconds(config.resolve_period_s), &resolved);
        stop.run_until_cancelled(join(looking, asking)).await;
    });
}

/// Looks names up again and again.
async fn look_up(roles: &[&Known], period: Duration, resolved: &AtomicBool) {
    loop {
        join_all(roles.iter().map(|(upstreams, members)| resolve(upstreams, members))).await;
        resolved.store(true, Relaxed);
        tokio::time::sleep(period).await;
    }
}

/// A name may stand for several addresses, and for others tomorrow. One that is not found keeps those it had.
async fn resolve(upstreams: &[Upstream], members: &Members) {
    let before = members.all();
    let found = join_all(upstreams.iter().map(|upstream| addresses(upstream, members.role()))).await;
    let Some(found) = found.into_iter().collect::<Option<Vec<_>>>() else { return };
    let found = found.concat();
    if !found.is_empty() || before.is_empty() {
        members.set(found);
    }
}

/// What it stands for now, where that is known.
async fn addresses(upstream: &Upstream, role: Role) -> Option<Vec<SocketAddr>> {
    let name = match upstream {
        Upstream::Address(address) => return Some(vec![*address]),
        Upstream::Name(name) => name,
    };
    match tokio::time::timeout(RESOLVE_TIMEOUT, tokio::net::lookup_host(&**name)).await {
        Ok(Ok(found)) => Some(found.collect()),
        Ok(Err(error)) => {
            tracing::warn!(?role, %name, %error, "the name of a role is not found");
            None
        }
        Err(_) => None,
    }
}

/// Asks each process of a role once in every period, unless it is still being asked. `then` is called after every answer.
async fn ask_all(members: &Members, config: &BalanceConfig, peers: &Peers, then: impl Fn()) {
    let limit = millis(config.probe_timeout_ms);
    let mut periods = tokio::time::interval(millis(config.probe_period_ms.max(1)));
    periods.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut questions, mut asked) = (FuturesUnordered::new(), HashSet::new());
    loop {
        tokio::select! {
            _ = periods.tick() => {
                let all = members.all();
                for member in all.iter().filter(|member| asked.insert(member.address())) {
                    let member = Arc::clone(member);
                    questions.push(async move {
                        let said = tokio::time::timeout(limit, ask(peers, &member)).await.ok().flatten();
                        members.heard(&member, said);
                        member.address()
                    });
                }
            }
            Some(address) = questions.next() => {
                asked.remove(&address);
            }
        }
        then();
    }
}

/// None where it does not answer.
async fn ask(peers: &Peers, member: &Member) -> Option<Standing> {
    let answer = peers.get(&member.url(), "/ready", HeaderMap::new()).await.ok()?;
    let standing = match (answer.status(), answer.headers().contains_key(STANDS_BY)) {
        (StatusCode::OK, false) => Standing::Ready,
        (StatusCode::OK, true) => Standing::StandsBy,
        _ => Standing::Away,
    };
    // Read to its end, so that the connection serves again.
    Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await.ok()?;
    Some(standing)
}

/// The upstream at `http://host:port`.
///
/// # Errors
/// [`Error::Invalid`].
pub fn upstream(url: &str) -> Result<Upstream> {
    let wrong =
        |reason: &str| Error::invalid("gateway.remote", format!("{url:?} {reason}, such as http://10.0.0.7:8000"));
    let rest = url.strip_prefix("http://").ok_or_else(|| wrong("is no http:// address"))?;
    let authority = rest.trim_end_matches('/');
    if authority.is_empty() || authority.contains(['/', '@', '?', '#', ' ']) {
        return Err(wrong("must be a host and a port and nothing else"));
    }
    if let Ok(address) = authority.parse::<SocketAddr>() {
        return Ok(Upstream::Address(address));
    }
    match authority.rsplit_once(':') {
        Some((_, port)) if port.parse::<u16>().is_ok() => Ok(Upstream::Name(Arc::from(authority))),
        Some(_) => Err(wrong("has a port that is none")),
        None => Ok(Upstream::Name(Arc::from(format!("{authority}:80")))),
    }
}

/// Whether `url` is an address of the kind that processes of the platform reach each other at.
///
/// # Errors
/// What is wrong with it.
pub fn check_address(url: &str) -> std::result::Result<(), String> {
    upstream(url).map(|_| ()).map_err(|error| error.to_string())
}

/// The address by which this machine itself reaches a listener.
#[must_use]
pub fn loopback(address: SocketAddr) -> SocketAddr {
    if !address.ip().is_unspecified() {
        return address;
    }
    let ip: IpAddr = if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use super::{Upstream, upstream};

    #[test]
    fn addresses_are_read() {
        let shown = |url| upstream(url).map(|upstream| upstream.to_string()).ok();
        assert_eq!(shown("http://10.0.0.7:8000"), Some("10.0.0.7:8000".into()));
        assert_eq!(shown("http://[::1]:80/"), Some("[::1]:80".into()));
        assert_eq!(shown("http://auth"), Some("auth:80".into()));
        assert_eq!(shown("http://auth.svc:8000"), Some("auth.svc:8000".into()));
        for wrong in ["https://auth", "auth:80", "http://", "http://a/b", "http://a:x", "http://u@a"] {
            assert_eq!(shown(wrong), None, "{wrong}");
        }
        assert!(matches!(upstream("http://10.0.0.7:8000"), Ok(Upstream::Address(_))));
    }
}
