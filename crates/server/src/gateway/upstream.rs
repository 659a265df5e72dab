//! Connections to upstreams: each worker has a pool of its own, so taking one neither locks nor waits.
//!
//! Plain HTTP/1.1 only. What a failure means to a client is decided by the caller: no status codes here.

use std::{
    cell::RefCell,
    collections::HashMap,
    fmt, io,
    net::SocketAddr,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::{
    body::Upload,
    connection::{Socket, Track},
    ticks::{Overdue, TICK, Ticks, count},
};

/// Where a request is passed on to. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Upstream {
    /// A bot, or anything else whose address is known.
    Address(SocketAddr),
    /// `host:port`, looked up for each new connection: a role that runs elsewhere.
    Name(Arc<str>),
}

impl From<SocketAddr> for Upstream {
    fn from(address: SocketAddr) -> Self {
        Self::Address(address)
    }
}

impl fmt::Display for Upstream {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(formatter),
            Self::Name(name) => formatter.write_str(name),
        }
    }
}

/// Why a request could not be passed on, or its answer not passed back.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// Nothing listens there: the upstream is down, or not up yet. It has seen nothing of the request.
    #[error("the upstream refuses connections")]
    Refused,
    /// No connection for another reason, an unknown host name among them. It has seen nothing of the request.
    #[error("the upstream cannot be reached")]
    Unreachable(#[source] io::Error),
    /// The connection was not made in time. It has seen nothing of the request.
    #[error("the upstream did not accept a connection in time")]
    ConnectTimeout,
    /// As many connections are open as are allowed. It has seen nothing of the request.
    #[error("the upstream is busy: too many requests are under way")]
    Saturated,
    /// The request was sent, and no answer began in time.
    #[error("the upstream did not begin its answer in time")]
    ResponseTimeout,
    /// The request was sent, at least in part, and the connection ended before an answer began.
    #[error("the upstream closed the connection before it answered")]
    BrokeBeforeFirstByte(#[source] hyper::Error),
    /// The answer is not HTTP, or switches to a protocol that nobody asked for.
    #[error("the upstream's answer is not valid")]
    BadAnswer(#[source] Option<hyper::Error>),
    /// The client's body is larger than allowed.
    #[error("the body is larger than {bytes_max} bytes")]
    BodyTooLarge {
        /// The limit.
        bytes_max: u64,
    },
    /// The client's body broke off: nobody is left to be answered.
    #[error("the client went away")]
    ClientGone,
    /// A handler of this process panicked, or its runtime is gone.
    #[error("the handler crashed")]
    Crashed(#[source] tokio::task::JoinError),
}

/// Limits of one worker's pool.
#[derive(Clone, Copy, Debug)]
pub struct PoolLimits {
    /// Connections kept to one upstream while nothing is asked.
    pub idle_max: usize,
    /// For how long such a connection is kept.
    pub idle_for: Duration,
    /// For how long a kept connection is trusted to be open still. No server's keep-alive ends sooner, so nothing is prepared
    /// for a second try over a new connection.
    pub trusted_for: Duration,
    /// Connections to one upstream at a time, those in use included.
    pub open_max: usize,
    /// For how long a connection may take to be made, its name's lookup included.
    pub connect: Duration,
}

impl Default for PoolLimits {
    fn default() -> Self {
        Self {
            idle_max: 256,
            idle_for: Duration::from_mins(1),
            trusted_for: Duration::from_millis(500),
            open_max: 4096,
            connect: Duration::from_secs(5),
        }
    }
}

/// One worker's connections to all upstreams.
#[derive(Debug)]
pub struct Pool {
    sites: RefCell<HashMap<Upstream, Rc<Site>>>,
    limits: PoolLimits,
    trusted_ticks: u32,
    ticks: Rc<Ticks>,
}

#[derive(Debug)]
struct Site {
    upstream: Upstream,
    idle: RefCell<Vec<Idle>>,
    open: Arc<AtomicUsize>,
    idle_max: usize,
    ticks: Rc<Ticks>,
}

#[derive(Debug)]
struct Idle {
    sender: SendRequest<Upload>,
    since: u32,
}

/// The right to one connection, until it is given back or dropped (which closes it).
#[derive(Debug)]
pub struct Lease {
    pub(super) sender: SendRequest<Upload>,
    /// The upstream will hardly have closed it since its last request.
    pub(super) trusted: bool,
    site: Rc<Site>,
}

impl Lease {
    /// Where the connection leads.
    pub(super) fn upstream(&self) -> &Upstream {
        &self.site.upstream
    }

    /// Keeps the connection for the next request, when it may carry one.
    pub(super) fn give_back(self) {
        if self.sender.is_closed() {
            return;
        }
        let mut idle = self.site.idle.borrow_mut();
        if idle.len() < self.site.idle_max {
            idle.push(Idle { sender: self.sender, since: self.site.ticks.now() });
        }
    }
}

impl Pool {
    /// An empty pool.
    #[must_use]
    pub fn new(limits: PoolLimits, ticks: Rc<Ticks>) -> Self {
        let trusted_ticks = u32::try_from(limits.trusted_for.as_millis() / TICK.as_millis()).unwrap_or(u32::MAX);
        Self { sites: RefCell::default(), limits, trusted_ticks, ticks }
    }

    /// A kept connection that is ready now. The one used last, so that the others may grow old and go.
    pub(super) fn reuse(&self, upstream: &Upstream) -> Option<Lease> {
        let sites = self.sites.borrow();
        let site = sites.get(upstream)?;
        let mut idle = site.idle.borrow_mut();
        while idle.last().is_some_and(|idle| idle.sender.is_closed()) {
            idle.pop();
        }
        let ready = idle.iter().rposition(|idle| idle.sender.is_ready())?;
        let Idle { sender, since } = idle.remove(ready);
        let trusted = self.ticks.now().saturating_sub(since) < self.trusted_ticks;
        Some(Lease { sender, trusted, site: Rc::clone(site) })
    }

    /// A new connection.
    ///
    /// # Errors
    /// One of those of [`ForwardError`] that say that the upstream has seen nothing.
    pub(super) async fn open(&self, upstream: &Upstream) -> Result<Lease, ForwardError> {
        let site = self.site(upstream);
        let place = Place::take(&site.open, self.limits.open_max)?;
        let stream = match self.ticks.limit(self.limits.connect, connect(upstream)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => return Err(ForwardError::Refused),
            Ok(Err(error)) => return Err(ForwardError::Unreachable(error)),
            Err(Overdue) => return Err(ForwardError::ConnectTimeout),
        };
        let io = TokioIo::new(Socket::new(stream, place));
        let (sender, connection) =
            http1::Builder::new().handshake(io).await.map_err(ForwardError::BrokeBeforeFirstByte)?;
        tokio::task::spawn_local(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "a connection to an upstream ended with an error");
            }
        });
        Ok(Lease { sender, trusted: true, site })
    }

    /// Drops kept connections that are closed or too old. To be called every second or so.
    pub fn sweep(&self) {
        let oldest = self.ticks.now().saturating_sub(count(self.limits.idle_for));
        self.sites.borrow_mut().retain(|_, site| {
            let mut idle = site.idle.borrow_mut();
            idle.retain(|idle| idle.since >= oldest && !idle.sender.is_closed());
            !idle.is_empty() || site.open.load(Relaxed) > 0
        });
    }

    fn site(&self, upstream: &Upstream) -> Rc<Site> {
        if let Some(site) = self.sites.borrow().get(upstream) {
            return Rc::clone(site);
        }
        let site = Rc::new(Site {
            upstream: upstream.clone(),
            idle: RefCell::default(),
            open: Arc::default(),
            idle_max: self.limits.idle_max,
            ticks: Rc::clone(&self.ticks),
        });
        self.sites.borrow_mut().insert(upstream.clone(), Rc::clone(&site));
        site
    }
}

async fn connect(upstream: &Upstream) -> io::Result<TcpStream> {
    let stream = match upstream {
        Upstream::Address(address) => TcpStream::connect(address).await?,
        Upstream::Name(name) => TcpStream::connect(&**name).await?,
    };
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// One of the connections that an upstream may have, held by its socket.
#[derive(Debug)]
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(open: &Arc<AtomicUsize>, open_max: usize) -> Result<Self, ForwardError> {
        if open.load(Relaxed) >= open_max {
            return Err(ForwardError::Saturated);
        }
        open.fetch_add(1, Relaxed);
        Ok(Self(Arc::clone(open)))
    }
}

impl Track for Place {}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}
