//! What these tests are built of.

use std::{future::Future, net::SocketAddr, num::NonZeroUsize, rc::Rc, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::Handle,
};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::gateway::{
    balance::{Members, Pick, config_of_tests},
    body::Body,
    forward::{ForwardLimits, Forwarder},
    gate::{Front, Gate, Route},
    listen::{ConnectionLimits, Listen, Peer, Serving, bind},
    share::Terms,
    upstream::{ForwardError, Pool, PoolLimits, Upstream},
};
use crate::role::Role;

/// What the gateway says of who sends a request to a role.
pub const SIGNED: &str = "signed by us";

/// A hang is a failure, not a wait for ever.
pub async fn soon<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), work).await.expect("this should have happened long ago")
}

/// Where everything goes.
#[derive(Clone)]
enum Way {
    One(Upstream),
    Several(Arc<Members>, Duration),
}

impl Way {
    fn route(&self, request: &Request<Incoming>) -> Route {
        match self {
            Self::One(upstream) => Route::Forward { upstream: upstream.clone(), edits: Rc::default() },
            Self::Several(members, answer_limit) => {
                let is_patient = request.uri().path() == "/patient";
                let terms = Terms {
                    identity: Box::new(|_, _| HeaderValue::from_static(SIGNED)),
                    answer_limit: if is_patient { Duration::from_hours(1) } else { *answer_limit },
                    is_keyed: request.headers().contains_key("idempotency-key") && request.uri().path() != "/unkeyed",
                };
                Route::Shared { pick: Pick::new(members, None), terms, edits: Rc::default() }
            }
        }
    }
}

/// Sends everything one way, but `/local` to the router and `/later` after thinking about it.
struct Everything(Way);

impl Front for Everything {
    type Visit = ();

    fn enter(&self, _peer: &Peer, request: &mut Request<Incoming>) -> (Route, ()) {
        let forward = self.0.route(request);
        let route = match request.uri().path() {
            "/local" => Route::Local,
            "/later" => Route::Later(Box::pin(async move {
                tokio::task::yield_now().await;
                forward
            })),
            _ => forward,
        };
        (route, ())
    }

    fn leave(&self, (): (), outcome: Result<Response<Body>, ForwardError>) -> Response<Body> {
        outcome.unwrap_or_else(|error| {
            let status = match error {
                ForwardError::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
                _ => StatusCode::BAD_GATEWAY,
            };
            let mut response = Response::new(Body::from(Bytes::from(error.to_string())));
            *response.status_mut() = status;
            response
        })
    }
}

pub struct Settings {
    pub connection: ConnectionLimits,
    pub forward: ForwardLimits,
    pub pool: PoolLimits,
    pub router: axum::Router,
    pub workers: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            connection: ConnectionLimits::default(),
            forward: ForwardLimits::default(),
            pool: PoolLimits::default(),
            router: axum::Router::new(),
            workers: 1,
        }
    }
}

pub struct Gateway {
    pub address: SocketAddr,
    pub serving: Serving,
    pub stop: DropGuard,
}

impl Gateway {
    pub fn before(upstream: SocketAddr) -> Self {
        Self::with(upstream, Settings::default())
    }

    pub fn with(upstream: SocketAddr, settings: Settings) -> Self {
        Self::on(Way::One(upstream.into()), settings)
    }

    /// Before several processes of a role.
    pub fn sharing(addresses: &[SocketAddr]) -> Self {
        Self::sharing_with(addresses, Settings::default())
    }

    /// The same, with these limits.
    pub fn sharing_with(addresses: &[SocketAddr], settings: Settings) -> Self {
        let members = Members::new(Role::Session, &config_of_tests(), Arc::default());
        members.set(addresses.to_vec());
        Self::on(Way::Several(Arc::new(members), settings.forward.response_header), settings)
    }

    fn on(way: Way, settings: Settings) -> Self {
        let Settings { connection, forward, pool, router, workers } = settings;
        let listen = Listen { workers: NonZeroUsize::new(workers), ..Listen::on(local()) };
        let bound = bind(&listen).unwrap();
        let shutdown = CancellationToken::new();
        let home = Handle::current();
        let make = move |worker: &Rc<_>| {
            let worker: &Rc<crate::gateway::listen::Worker> = worker;
            let forwarder = Forwarder::new(Pool::new(pool, worker.ticks()), forward, worker.ticks());
            Gate::new(Everything(way.clone()), forwarder, router.clone(), home.clone())
        };
        let serving = bound.serve(make, connection, &shutdown).unwrap();
        Self { address: serving.address(), serving, stop: shutdown.drop_guard() }
    }

    pub async fn connect(&self) -> Wire {
        Wire(TcpStream::connect(self.address).await.unwrap())
    }

    /// One request on a connection of its own: the whole answer.
    pub async fn ask(&self, request: impl AsRef<[u8]>) -> String {
        let mut wire = self.connect().await;
        wire.send(request).await;
        wire.answer().await
    }
}

pub fn local() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

pub async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind(local()).await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

pub async fn accept(listener: &TcpListener) -> Wire {
    Wire(soon(listener.accept()).await.unwrap().0)
}

/// One end of a connection.
pub struct Wire(pub TcpStream);

impl Wire {
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Everything up to and with `end`.
    pub async fn until(&mut self, end: &str) -> String {
        let mut read = Vec::new();
        while !read.ends_with(end.as_bytes()) {
            let byte = soon(self.0.read_u8()).await;
            let so_far = String::from_utf8_lossy(&read).into_owned();
            read.push(byte.unwrap_or_else(|error| panic!("{error} before {end:?}, after {so_far:?}")));
        }
        String::from_utf8(read).unwrap()
    }

    pub async fn head(&mut self) -> String {
        self.until("\r\n\r\n").await
    }

    /// Whether another head comes before the connection ends.
    pub async fn head_or_end(&mut self) -> bool {
        let mut seen = Vec::new();
        while !seen.ends_with(b"\r\n\r\n") {
            match soon(self.0.read_u8()).await {
                Ok(byte) => seen.push(byte),
                Err(_) => return false,
            }
        }
        true
    }

    /// A whole message with `Content-Length` (or no body).
    pub async fn answer(&mut self) -> String {
        let head = self.head().await;
        let mut body = vec![0; length_of_body(&head)];
        soon(self.0.read_exact(&mut body)).await.unwrap();
        head + &String::from_utf8(body).unwrap()
    }

    /// Waits until the other side has closed; a reset counts.
    pub async fn closed(&mut self) {
        let mut rest = [0; 1024];
        while soon(self.0.read(&mut rest)).await.is_ok_and(|length| length > 0) {}
    }
}

fn length_of_body(head: &str) -> usize {
    if head.starts_with("HTTP/1.1 304") {
        0
    } else {
        header(head, "content-length").map_or(0, |length| length.parse().unwrap())
    }
}

pub fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines()
        .skip(1)
        .filter_map(|line| line.split_once(": "))
        .find_map(|(key, value)| key.eq_ignore_ascii_case(name).then_some(value))
}

pub fn status(answer: &str) -> u16 {
    answer[9..12].parse().unwrap()
}

pub const GET: &str = "GET /a?b=c HTTP/1.1\r\nHost: a.example\r\n\r\n";
pub const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";
