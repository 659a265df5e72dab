//! Roles that live in other processes: where, and what is asked of a request before it is passed on to one.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use astrfleet_core::{Error, Result};

use super::upstream::Upstream;
use crate::role::Role;

/// The addresses of roles that are not in this process.
///
/// # Errors
/// [`Error::Invalid`] for one that cannot be read.
pub fn read(configured: &BTreeMap<Role, String>) -> Result<BTreeMap<Role, Upstream>> {
    configured.iter().map(|(role, url)| Ok((*role, upstream(url)?))).collect()
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
