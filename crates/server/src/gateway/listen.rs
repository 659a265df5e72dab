//! One worker thread for each listening socket, and the connections that it accepts.
//!
//! A worker is one single-threaded runtime: what it owns is never shared, so nothing on the way of a request locks. What is
//! asked for is none of this file's business: it hands requests to a [`Handler`] and ends connections that hold still.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    convert::Infallible,
    error::Error,
    future::Future,
    io,
    net::{IpAddr, SocketAddr, TcpListener as StdListener},
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::Waker,
    thread,
    time::Duration,
};

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::{HeaderValue, Request, Response};
use hyper::{
    body::{Body, Incoming},
    server::conn::http1,
    service::{HttpService, service_fn},
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    runtime,
    sync::oneshot,
};
use tokio_util::sync::CancellationToken;

pub use super::bind::{Bound, Listen, ListenError, bind};
use super::{
    connection::{self, Attended, Census, Delivery, Drainable, Life, Phase, Pulse},
    ticks::{Ticks, count},
};

/// Limits of clients' connections. Noticed within a second, not to the millisecond.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    /// From the first byte of a request's head (of a new connection: from accepting it) to its last.
    pub header_read: Duration,
    /// The largest head of a request, in bytes; more is answered with 431.
    pub header_bytes_max: usize,
    /// For how long a connection may wait for its next request.
    pub keep_alive: Duration,
    /// For how long no byte may move, in either direction, while a request is being answered.
    pub stream_idle: Duration,
    /// Connections open at a time, per worker. When all are taken, one that waits for its next request is closed for a new
    /// one; when none waits, new ones stay in the backlog.
    pub connections_max: usize,
    /// How long requests that run may take to finish once the listener is told to stop.
    pub drain: Duration,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            header_read: Duration::from_secs(10),
            header_bytes_max: 64 << 10,
            keep_alive: Duration::from_secs(75),
            stream_idle: Duration::from_mins(10),
            connections_max: 16_384,
            drain: Duration::from_secs(30),
        }
    }
}

/// Answers the requests of one worker. Made once for each, on its thread, so it needs neither `Send` nor `Sync`.
pub trait Handler: 'static {
    /// The answer's body.
    type Body: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Unpin + 'static;

    /// Answers one request. Dropped in the middle when the client goes away.
    fn handle(
        self: Rc<Self>,
        peer: Rc<Peer>,
        request: Request<Incoming>,
    ) -> impl Future<Output = Response<Self::Body>> + 'static;

    /// Called about once a second, for what needs tidying.
    fn tick(&self) {}
}

/// Who is at the other end of a connection.
#[derive(Debug)]
pub struct Peer {
    /// Where the connection comes from.
    pub address: SocketAddr,
    /// The same, without the port, as a header's value.
    pub forwarded_for: HeaderValue,
}

impl Peer {
    /// The peer at `address`; an IPv4 address that came through an IPv6 socket is shown as what it is.
    #[must_use]
    pub fn new(address: SocketAddr) -> Self {
        let ip: IpAddr = address.ip().to_canonical();
        let forwarded_for =
            HeaderValue::try_from(ip.to_string()).unwrap_or_else(|_| HeaderValue::from_static("unknown"));
        Self { address, forwarded_for }
    }
}

impl Bound {
    /// Starts the workers; `make` is called once on each. They stop when `shutdown` is cancelled.
    ///
    /// # Errors
    /// [`ListenError::Io`] when the system gives us no thread or no runtime.
    pub fn serve<H, M>(
        self,
        make: M,
        limits: ConnectionLimits,
        shutdown: &CancellationToken,
    ) -> Result<Serving, ListenError>
    where
        H: Handler,
        M: Fn(&Rc<Worker>) -> H + Send + Sync + 'static,
    {
        let address = self.address;
        let fail = |source| ListenError::Io { address, source };
        let make = Arc::new(make);
        let mut workers = Vec::with_capacity(self.sockets.len());
        for (index, socket) in self.sockets.into_iter().enumerate() {
            let runtime = Builder { index, limits, shutdown: shutdown.clone() };
            let make = Arc::clone(&make);
            let (report, reported) = oneshot::channel();
            thread::Builder::new()
                .name(format!("gateway-{index}"))
                .spawn(move || {
                    // The receiver may have lost interest; a worker that could not start has said so in the log.
                    let _ = report.send(runtime.run(socket, &*make));
                })
                .map_err(fail)?;
            workers.push(reported);
        }
        Ok(Serving { address, workers })
    }
}

/// Workers that run.
#[derive(Debug)]
pub struct Serving {
    address: SocketAddr,
    workers: Vec<oneshot::Receiver<Drained>>,
}

/// How a listener ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// Connections that had not finished within the limit and were cut.
    pub cut: usize,
    /// Workers that ended by a defect: their connections are gone.
    pub crashed: usize,
}

impl Serving {
    /// Where the workers listen.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until every worker has stopped, which they do when they are told to.
    pub async fn drained(self) -> Drained {
        let mut total = Drained::default();
        for worker in self.workers {
            match worker.await {
                Ok(drained) => {
                    total.cut += drained.cut;
                    total.crashed += drained.crashed;
                }
                Err(_) => total.crashed += 1,
            }
        }
        total
    }
}

/// What belongs to one worker thread, and is seen by nobody else.
#[derive(Debug)]
pub struct Worker {
    index: usize,
    ticks: Rc<Ticks>,
    census: Census,
    limits: ConnectionLimits,
    attended: RefCell<HashMap<u64, (Arc<Life>, Waker)>>,
    next_key: Cell<u64>,
    draining: Cell<bool>,
}

impl Worker {
    /// 0 for the first.
    #[must_use]
    pub const fn index(&self) -> usize {
        self.index
    }

    /// The worker's clock.
    #[must_use]
    pub fn ticks(&self) -> Rc<Ticks> {
        Rc::clone(&self.ticks)
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.get()
    }

    pub(super) fn attend(&self, life: Arc<Life>, waker: Waker) -> u64 {
        let key = self.next_key.get();
        self.next_key.set(key + 1);
        self.attended.borrow_mut().insert(key, (life, waker));
        key
    }

    pub(super) fn leave(&self, key: u64) {
        self.attended.borrow_mut().remove(&key);
    }

    fn drain(&self) {
        self.draining.set(true);
        for (_, waker) in self.attended.borrow().values() {
            waker.wake_by_ref();
        }
    }

    /// Ends the connections that hold still for too long.
    fn sweep(&self) {
        for (life, waker) in self.attended.borrow().values() {
            let (phase, ticks) = life.look();
            let limit = match phase {
                Phase::Head => self.limits.header_read,
                Phase::Idle => self.limits.keep_alive,
                Phase::Busy => self.limits.stream_idle,
            };
            if ticks >= count(limit) {
                tracing::debug!(?phase, "a connection held still for too long and is closed");
                life.cut();
                waker.wake_by_ref();
            }
        }
    }

    /// Ends the connection that has waited longest for its next request.
    fn make_room(&self) {
        let attended = self.attended.borrow();
        let idle = attended.values().filter(|(life, _)| life.look().0 == Phase::Idle);
        if let Some((life, waker)) = idle.max_by_key(|(life, _)| life.look().1) {
            life.cut();
            waker.wake_by_ref();
        }
    }
}

struct Builder {
    index: usize,
    limits: ConnectionLimits,
    shutdown: CancellationToken,
}

impl Builder {
    fn run<H: Handler>(self, socket: StdListener, make: &impl Fn(&Rc<Worker>) -> H) -> Drained {
        let built = runtime::Builder::new_current_thread().enable_all().build_local(runtime::LocalOptions::default());
        let runtime = match built {
            Ok(runtime) => runtime,
            Err(error) => {
                tracing::error!(worker = self.index, %error, "a gateway worker has no runtime and does not run");
                return Drained { cut: 0, crashed: 1 };
            }
        };
        let worker = Rc::new(Worker {
            index: self.index,
            ticks: Rc::default(),
            census: Census::default(),
            limits: self.limits,
            attended: RefCell::default(),
            next_key: Cell::new(0),
            draining: Cell::new(false),
        });
        runtime.block_on(async move {
            let listener = match TcpListener::from_std(socket) {
                Ok(listener) => listener,
                Err(error) => {
                    tracing::error!(worker = self.index, %error, "a gateway worker cannot use its socket");
                    return Drained { cut: 0, crashed: 1 };
                }
            };
            let handler = Rc::new(make(&worker));
            tokio::task::spawn_local(watch(Rc::clone(&worker), Rc::clone(&handler)));
            self.shutdown.run_until_cancelled(accept(&listener, &worker, &handler)).await;
            drop(listener);
            worker.drain();
            let finished = async {
                while worker.census.count() > 0 {
                    worker.census.one_freed().await;
                }
            };
            // The runtime goes when this ends, and with it every connection that is left.
            let cut = match tokio::time::timeout(self.limits.drain, finished).await {
                Ok(()) => 0,
                Err(_) => worker.census.count(),
            };
            Drained { cut, crashed: 0 }
        })
    }
}

const SWEEP_TICKS: u32 = 5;

async fn watch<H: Handler>(worker: Rc<Worker>, handler: Rc<H>) {
    let mut swept = 0;
    worker
        .ticks()
        .run(|now| {
            if now.saturating_sub(swept) >= SWEEP_TICKS {
                swept = now;
                worker.sweep();
                handler.tick();
            }
        })
        .await;
}

async fn accept<H: Handler>(listener: &TcpListener, worker: &Rc<Worker>, handler: &Rc<H>) {
    let mut http = http1::Builder::new();
    http.header_read_timeout(None).max_header_size(worker.limits.header_bytes_max);
    loop {
        while worker.census.count() >= worker.limits.connections_max {
            worker.make_room();
            worker.census.one_freed().await;
        }
        match listener.accept().await {
            Ok((stream, address)) => start(&http, stream, address, worker, handler),
            Err(error) if is_of_the_peer(&error) => (),
            Err(error) => {
                tracing::warn!(%error, "no connection could be accepted; the next try is in a moment");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// The connection was gone before it was accepted: no reason to wait.
fn is_of_the_peer(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

fn start<H: Handler>(
    http: &http1::Builder,
    stream: TcpStream,
    address: SocketAddr,
    worker: &Rc<Worker>,
    handler: &Rc<H>,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection was gone at once");
        return;
    }
    let life = Arc::new(Life::new(worker.ticks.counter()));
    let peer = Rc::new(Peer::new(address));
    let pulse = Pulse::new(Arc::clone(&life), worker.census.clone());
    let service = {
        let (life, handler) = (Arc::clone(&life), Rc::clone(handler));
        service_fn(move |request| {
            life.busy();
            let answer = Rc::clone(&handler).handle(Rc::clone(&peer), request);
            let life = Arc::clone(&life);
            answer.map(|response| Ok::<_, Infallible>(response.map(|body| Delivery::new(body, life))))
        })
    };
    let io = TokioIo::new(connection::Socket::new(stream, pulse));
    let connection = http.serve_connection(io, service).with_upgrades();
    let attended = Attended::new(connection, life, Rc::clone(worker));
    tokio::task::spawn_local(async move {
        if let Some(Err(error)) = attended.await {
            tracing::debug!(%error, "a client's connection ended with an error");
        }
    });
}

type Io = TokioIo<connection::Socket<Pulse>>;

impl<S, B> Drainable for http1::UpgradeableConnection<Io, S>
where
    S: HttpService<Incoming, ResBody = B>,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
    B: Body + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    fn drain(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}
