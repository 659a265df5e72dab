//! Connections to upstreams: each worker has a pool of its own, so taking one neither locks nor waits.
//!
//! Plain HTTP/1.1 only. What a failure means to a client is decided by the caller: no status codes here.

use std::{
    cell::RefCell,
    collections::HashMap,
    error::Error,
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
    ticks::{Overdue, Ticks, count},
    wire::{Wire, WireError},
};

/// Where a request is passed on to. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Upstream {
    /// A bot, or anything else whose address is known.
    Address(SocketAddr),
    /// `host:port`, looked up for each new connection.
    Name(Arc<str>),
}

impl Upstream {
    /// The address, where it need not be looked up.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Address(address) => Some(*address),
            Self::Name(_) => None,
        }
    }
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

/// What went wrong below.
type BoxError = Box<dyn Error + Send + Sync>;

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
    BrokeBeforeFirstByte(#[source] BoxError),
    /// The answer is not HTTP, or switches to a protocol that nobody asked for.
    #[error("the upstream's answer is not valid")]
    BadAnswer(#[source] BoxError),
    /// Whoever could answer is away, or has failed again and again. Nobody has seen anything of the request.
    #[error("no process that could answer is there at the moment")]
    Nobody,
    /// The client's body is larger than allowed.
    #[error("the body is larger than {bytes_max} bytes")]
    BodyTooLarge {
        /// The limit.
        bytes_max: u64,
    },
    /// The client stopped sending its body, or sends it too slowly.
    #[error("the body did not arrive in time")]
    ClientTooSlow,
    /// The client's body broke off: nobody is left to be answered.
    #[error("the client went away")]
    ClientGone,
    /// A handler of this process panicked, or its runtime is gone.
    #[error("the handler crashed")]
    Crashed(#[source] tokio::task::JoinError),
}

impl ForwardError {
    /// The upstream has certainly seen nothing of the request.
    #[must_use]
    pub fn is_before_sending(&self) -> bool {
        matches!(self, Self::Refused | Self::Unreachable(_) | Self::ConnectTimeout | Self::Saturated)
    }

    /// It says that the upstream is not well. One that takes longer with a request than it may is not that: what somebody
    /// asked for takes long, and one that is frozen is found by asking it whether it is ready.
    #[must_use]
    pub fn is_of_the_upstream(&self) -> bool {
        match self {
            Self::Refused
            | Self::Unreachable(_)
            | Self::ConnectTimeout
            | Self::BrokeBeforeFirstByte(_)
            | Self::BadAnswer(_) => true,
            Self::Saturated
            | Self::ResponseTimeout
            | Self::Nobody
            | Self::BodyTooLarge { .. }
            | Self::ClientTooSlow
            | Self::ClientGone
            | Self::Crashed(_) => false,
        }
    }

    pub(super) fn broke(error: hyper::Error) -> Self {
        Self::BrokeBeforeFirstByte(error.into())
    }
}

impl From<WireError> for ForwardError {
    fn from(error: WireError) -> Self {
        match error {
            WireError::Broken(_) => Self::BrokeBeforeFirstByte(error.into()),
            WireError::Invalid(_) => Self::BadAnswer(error.into()),
        }
    }
}

/// Limits of one worker's pool.
#[derive(Clone, Copy, Debug)]
pub struct PoolLimits {
    /// Connections kept to one upstream while nothing is asked.
    pub idle_max: usize,
    /// For how long such a connection is kept.
    pub idle_for: Duration,
    /// Connections to one upstream at a time, those in use included.
    pub open_max: usize,
    /// For how long a connection may take to be made, its name's lookup included.
    pub connect: Duration,
}

impl Default for PoolLimits {
    fn default() -> Self {
        Self { idle_max: 256, idle_for: Duration::from_mins(1), open_max: 4096, connect: Duration::from_secs(5) }
    }
}

/// One worker's connections to all upstreams.
#[derive(Debug)]
pub struct Pool {
    sites: RefCell<HashMap<Upstream, Rc<Site>>>,
    limits: PoolLimits,
    ticks: Rc<Ticks>,
}

#[derive(Debug)]
struct Site {
    upstream: Upstream,
    /// For requests without a body.
    wires: Shelf<Wire>,
    /// For requests with one, whose sending and whose answer may overlap: hyper drives these.
    senders: Shelf<SendRequest<Upload>>,
    open: Arc<AtomicUsize>,
    idle_max: usize,
    ticks: Rc<Ticks>,
}

/// Connections that wait for a request, the one used last at the end.
type Shelf<T> = RefCell<Vec<Kept<T>>>;

#[derive(Debug)]
struct Kept<T> {
    connection: T,
    since: u32,
}

impl Site {
    fn keep<T>(&self, place: &Shelf<T>, connection: T) {
        let mut kept = place.borrow_mut();
        if kept.len() < self.idle_max {
            kept.push(Kept { connection, since: self.ticks.now() });
        }
    }
}

/// The right to one connection, until it is given back or dropped (which closes it).
#[derive(Debug)]
pub struct Lease<T> {
    pub(super) connection: T,
    site: Rc<Site>,
}

impl<T> Lease<T> {
    /// Where the connection leads.
    pub(super) fn upstream(&self) -> &Upstream {
        &self.site.upstream
    }
}

impl Lease<Wire> {
    /// Keeps the connection for the next request, when it may carry one.
    pub(super) fn give_back(self) {
        if self.connection.is_clean() {
            self.site.keep(&self.site.wires, self.connection);
        }
    }
}

impl Lease<SendRequest<Upload>> {
    /// Keeps the connection for the next request, when it may carry one.
    pub(super) fn give_back(self) {
        if !self.connection.is_closed() {
            self.site.keep(&self.site.senders, self.connection);
        }
    }
}

impl Pool {
    /// An empty pool.
    #[must_use]
    pub fn new(limits: PoolLimits, ticks: Rc<Ticks>) -> Self {
        Self { sites: RefCell::default(), limits, ticks }
    }

    /// A kept connection for a request without a body. The one used last, so that the others may grow old and go.
    pub(super) fn reuse_wire(&self, upstream: &Upstream) -> Option<Lease<Wire>> {
        let sites = self.sites.borrow();
        let site = sites.get(upstream)?;
        let mut kept = site.wires.borrow_mut();
        loop {
            let Kept { connection, .. } = kept.pop()?;
            if connection.is_quiet() {
                return Some(Lease { connection, site: Rc::clone(site) });
            }
        }
    }

    /// A kept connection for a request with a body.
    pub(super) fn reuse_sender(&self, upstream: &Upstream) -> Option<Lease<SendRequest<Upload>>> {
        let sites = self.sites.borrow();
        let site = sites.get(upstream)?;
        let mut kept = site.senders.borrow_mut();
        let ready = kept.iter().rposition(|kept| kept.connection.is_ready())?;
        let Kept { connection, .. } = kept.remove(ready);
        Some(Lease { connection, site: Rc::clone(site) })
    }

    /// A new connection for a request without a body.
    ///
    /// # Errors
    /// One of those of [`ForwardError`] that say that the upstream has seen nothing.
    pub(super) async fn open_wire(&self, upstream: &Upstream) -> Result<Lease<Wire>, ForwardError> {
        let site = self.site(upstream);
        let connection = Wire::new(self.connect(&site).await?);
        Ok(Lease { connection, site })
    }

    /// A new connection for a request with a body, or for one that may switch protocols.
    ///
    /// # Errors
    /// One of those of [`ForwardError`] that say that the upstream has seen nothing.
    pub(super) async fn open_sender(&self, upstream: &Upstream) -> Result<Lease<SendRequest<Upload>>, ForwardError> {
        let site = self.site(upstream);
        let io = TokioIo::new(self.connect(&site).await?);
        let (connection, driver) = http1::Builder::new().handshake(io).await.map_err(ForwardError::broke)?;
        tokio::task::spawn_local(async move {
            if let Err(error) = driver.with_upgrades().await {
                tracing::debug!(%error, "a connection to an upstream ended with an error");
            }
        });
        Ok(Lease { connection, site })
    }

    async fn connect(&self, site: &Site) -> Result<Socket<Place>, ForwardError> {
        let place = Place::take(&site.open, self.limits.open_max)?;
        match self.ticks.limit(self.limits.connect, connect(&site.upstream)).await {
            Ok(Ok(stream)) => Ok(Socket::new(stream, place)),
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => Err(ForwardError::Refused),
            Ok(Err(error)) => Err(ForwardError::Unreachable(error)),
            Err(Overdue) => Err(ForwardError::ConnectTimeout),
        }
    }

    /// Drops kept connections that are closed or too old. To be called every second or so.
    pub fn sweep(&self) {
        let oldest = self.ticks.now().saturating_sub(count(self.limits.idle_for));
        self.sites.borrow_mut().retain(|_, site| {
            let (mut wires, mut senders) = (site.wires.borrow_mut(), site.senders.borrow_mut());
            wires.retain(|kept| kept.since >= oldest && kept.connection.is_quiet());
            senders.retain(|kept| kept.since >= oldest && !kept.connection.is_closed());
            site.open.load(Relaxed) > 0
        });
    }

    fn site(&self, upstream: &Upstream) -> Rc<Site> {
        if let Some(site) = self.sites.borrow().get(upstream) {
            return Rc::clone(site);
        }
        let site = Rc::new(Site {
            upstream: upstream.clone(),
            wires: RefCell::default(),
            senders: RefCell::default(),
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
pub(super) struct Place(Arc<AtomicUsize>);

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
