//! Where a request comes from.

use std::{
    convert::Infallible,
    net::{IpAddr, Ipv6Addr, SocketAddr},
};

use astrfleet_core::Error;
use axum::{
    extract::{ConnectInfo, FromRequestParts},
    http::{Extensions, request::Parts},
};

use super::caller::take;
use crate::{app::App, problem::Problem};

/// The address that the listener saw, where there is one.
pub struct Peer(pub Option<IpAddr>);

impl FromRequestParts<App> for Peer {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Infallible> {
        Ok(Self(peer(&parts.extensions)))
    }
}

/// The same for somebody who need not have proven who they are: takes one of their address's requests.
pub struct Anonymous(pub Option<IpAddr>);

impl FromRequestParts<App> for Anonymous {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let peer = peer(&parts.extensions);
        take_anonymous(app, peer)?;
        Ok(Self(peer))
    }
}

/// The address that the listener saw.
#[must_use]
pub fn peer(extensions: &Extensions) -> Option<IpAddr> {
    extensions.get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0.ip())
}

/// What counts as one place: an IPv4 address, or the 64 bits of an IPv6 network, of which one machine may have all
/// addresses.
#[must_use]
pub fn place(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
    }
}

/// Takes one of the requests of an address that has not proven who it is.
pub(crate) fn take_anonymous(app: &App, peer: Option<IpAddr>) -> Result<(), Error> {
    let Some(peer) = peer else { return Ok(()) };
    take(app, &format!("address {}", place(peer)), app.config.gateway.anonymous_rate_limit_per_minute)
}

#[cfg(test)]
mod tests {
    use super::place;

    #[test]
    fn all_addresses_of_one_machine_are_one_place() {
        let place = |text: &str| place(text.parse().unwrap()).to_string();
        assert_eq!(place("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(place("::ffff:192.0.2.7"), "192.0.2.7");
        assert_ne!(place("192.0.2.7"), place("192.0.2.8"));
    }
}
