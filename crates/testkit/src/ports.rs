//! Ports for servers that must be told one, or must come back on the same one. They lie outside the range from which the
//! kernel takes ports for outgoing connections (from 32768 on Linux): nothing else takes one while its server is down.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::atomic::{AtomicU32, Ordering},
};

const FIRST: u32 = 20_000;
const COUNT: u32 = 12_000;
/// Test processes that run side by side begin this far apart.
const APART: u32 = 61;

/// Listens on a port of the loopback address that nobody listened on.
#[must_use]
pub fn listen() -> TcpListener {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let begin = std::process::id().wrapping_mul(APART) % COUNT;
    let tries = (0..COUNT).map(|_| (begin + NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT + FIRST);
    let bound = tries.filter_map(|port| u16::try_from(port).ok()).find_map(|port| {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        TcpListener::bind(address).ok()
    });
    bound.expect("a port between 20000 and 32000 is free")
}

/// A port that nobody listened on a moment ago, for a program that cannot be handed a listener. No call of this process
/// gives it again soon.
#[must_use]
pub fn free_port() -> u16 {
    listen().local_addr().unwrap().port()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_port_is_given_twice() {
        let ports: std::collections::HashSet<u16> = (0..50).map(|_| free_port()).collect();
        assert_eq!(ports.len(), 50);
        assert!(ports.iter().all(|port| (20_000..32_000).contains(port)));
    }
}
