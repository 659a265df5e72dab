//! Roles that live in other processes: where they are, looked up and asked again and again whether they are well.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use astrfleet_core::{Error, Result};
use axum::http::{HeaderMap, HeaderName, StatusCode};
use futures_util::future::join_all;
use http_body_util::{BodyExt, Limited};
use tokio::time::Instant;

use super::{
    balance::{Member, Members, Standing},
    upstream::Upstream,
};
use crate::{
    app::{App, Base},
    config::{millis, seconds},
    role::Role,
};

/// Said by a process that is ready and leaves the work to another one of its role.
pub const STANDS_BY: HeaderName = HeaderName::from_static("x-astrfleet-stands-by");
/// The largest answer to the question whether a process is ready.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// How long a name may take to be looked up.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

/// The roles that are not in this process.
pub struct Remote {
    roles: BTreeMap<Role, (Vec<Upstream>, Arc<Members>)>,
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

/// Looks for the roles elsewhere, and after them, until the process ends.
pub fn watch(app: &App) {
    let remote = app.gateway.remote();
    if remote.is_empty() {
        return;
    }
    let (app, stop) = (app.clone(), app.stop.clone());
    app.tasks.clone().spawn(async move {
        let config = &app.config.gateway.balance;
        let mut resolved_at: Option<Instant> = None;
        loop {
            let remote = app.gateway.remote();
            let is_due = resolved_at.is_none_or(|at| at.elapsed() >= seconds(config.resolve_period_s));
            let round = async {
                if is_due {
                    resolved_at = Some(Instant::now());
                    join_all(elsewhere(&app, &remote).map(|(upstreams, members)| resolve(upstreams, members))).await;
                }
                join_all(elsewhere(&app, &remote).map(|(_, members)| ask_all(&app, members))).await;
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = round => remote.looked.store(true, Relaxed),
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(millis(config.probe_period_ms)) => {}
            }
        }
    });
}

fn elsewhere<'a>(app: &'a App, remote: &'a Remote) -> impl Iterator<Item = &'a (Vec<Upstream>, Arc<Members>)> {
    remote.roles.iter().filter(|(role, _)| !app.roles.contains(role)).map(|(_, known)| known)
}

/// A name may stand for several addresses, and for others tomorrow. One that is not found keeps those it had.
async fn resolve(upstreams: &[Upstream], members: &Members) {
    let before = members.all();
    let mut addresses = Vec::new();
    for upstream in upstreams {
        let name = match upstream {
            Upstream::Address(address) => {
                addresses.push(*address);
                continue;
            }
            Upstream::Name(name) => name,
        };
        match tokio::time::timeout(RESOLVE_TIMEOUT, tokio::net::lookup_host(&**name)).await {
            Ok(Ok(found)) => addresses.extend(found),
            Ok(Err(error)) => {
                tracing::warn!(role = ?members.role(), %name, %error, "the name of a role is not found");
                return;
            }
            Err(_) => return,
        }
    }
    if !addresses.is_empty() || before.is_empty() {
        members.set(addresses);
    }
}

async fn ask_all(app: &App, members: &Members) {
    let all = members.all();
    join_all(all.iter().map(|member| async {
        let limit = millis(app.config.gateway.balance.probe_timeout_ms);
        let said = tokio::time::timeout(limit, ask(app, member)).await.ok().flatten();
        members.heard(member, said);
    }))
    .await;
}

/// None where it does not answer.
async fn ask(app: &App, member: &Member) -> Option<Standing> {
    let answer = app.peers.get(&member.url(), "/ready", HeaderMap::new()).await.ok()?;
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
