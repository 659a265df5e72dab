//! Taking an address: one listening socket for each worker, all on one port, and the words for when that fails.

use std::{
    io,
    net::{SocketAddr, TcpListener as StdListener},
    num::NonZeroUsize,
    thread,
};

use socket2::{Domain, Protocol, Socket, Type};

/// Where to listen, and with how many threads.
#[derive(Clone, Copy, Debug)]
pub struct Listen {
    /// Port 0 takes a free one: see [`Bound::address`].
    pub address: SocketAddr,
    /// Worker threads; one for each core when absent.
    pub workers: Option<NonZeroUsize>,
    /// Connections that may wait to be accepted, per worker.
    pub backlog: i32,
}

impl Listen {
    /// On `address`, one worker for each core.
    #[must_use]
    pub const fn on(address: SocketAddr) -> Self {
        Self { address, workers: None, backlog: 4096 }
    }
}

/// Why a listener did not start.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Somebody listens there already.
    #[error(
        "port {} of {} is already taken: stop what listens there, or choose another address with --listen",
        .0.port(),
        .0.ip()
    )]
    Taken(SocketAddr),
    /// A port that this user may not take.
    #[error("this user may not listen on {0}: ports below 1024 need a privilege, choose another with --listen")]
    Forbidden(SocketAddr),
    /// An address that no interface of this machine has.
    #[error("no interface of this machine has the address {}: choose another with --listen", .0.ip())]
    NoSuchAddress(SocketAddr),
    /// Anything else.
    #[error("cannot listen on {address}")]
    Io {
        /// What was asked for.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl ListenError {
    fn new(address: SocketAddr, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::AddrInUse => Self::Taken(address),
            io::ErrorKind::PermissionDenied => Self::Forbidden(address),
            io::ErrorKind::AddrNotAvailable => Self::NoSuchAddress(address),
            _ => Self::Io { address, source },
        }
    }
}

/// Sockets that listen, and nobody accepts from yet.
#[derive(Debug)]
pub struct Bound {
    pub(super) address: SocketAddr,
    pub(super) sockets: Vec<StdListener>,
}

/// Takes the address, with one socket for each worker.
///
/// # Errors
/// [`ListenError`], whose text says what to do.
pub fn bind(listen: &Listen) -> Result<Bound, ListenError> {
    let fail = |source| ListenError::new(listen.address, source);
    let workers = listen.workers.or_else(|| thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get);
    if listen.address.port() != 0 {
        // With SO_REUSEPORT alone, a second process of the same user would silently take half of the first one's connections.
        drop(socket(listen.address, listen.backlog, false).map_err(fail)?);
    }
    let first = socket(listen.address, listen.backlog, true).map_err(fail)?;
    let address = first.local_addr().map_err(fail)?;
    let mut sockets = vec![first];
    for _ in 1..workers {
        sockets.push(socket(address, listen.backlog, true).map_err(fail)?);
    }
    Ok(Bound { address, sockets })
}

fn socket(address: SocketAddr, backlog: i32, shared: bool) -> io::Result<StdListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() && address.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    socket.bind(&address.into())?;
    socket.listen(backlog)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

impl Bound {
    /// The address, with the port that was taken.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}
