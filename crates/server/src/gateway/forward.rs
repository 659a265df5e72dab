//! Passes one request to an upstream and its answer back, byte for byte, as it comes.
//!
//! Nothing here decides where a request goes, who may send it, or what a failure looks like to the client.

use std::{
    error::Error,
    pin::{Pin, pin},
    rc::Rc,
    time::Duration,
};

use futures_util::future::Either;
use http::{Request, Response, StatusCode, Uri, Version, uri::PathAndQuery};
use hyper::{body::Body as _, body::Incoming, client::conn::TrySendError, upgrade::OnUpgrade};

use super::{
    body::{Body, Upload, UploadError},
    headers::{self, HeaderEdits},
    listen::Peer,
    ticks::{Overdue, Ticks},
    tunnel,
    upstream::{ForwardError, Lease, Pool, Upstream},
};

/// Limits of what is passed on.
#[derive(Clone, Copy, Debug)]
pub struct ForwardLimits {
    /// How long an upstream may take to begin its answer.
    pub response_header: Duration,
    /// The largest body a client may send.
    pub body_bytes_max: u64,
    /// For how long nothing may move through a WebSocket before it is closed.
    pub websocket_idle: Duration,
}

impl Default for ForwardLimits {
    fn default() -> Self {
        Self {
            response_header: Duration::from_mins(2),
            body_bytes_max: 32 << 20,
            websocket_idle: Duration::from_mins(10),
        }
    }
}

/// One worker's way to all upstreams.
#[derive(Debug)]
pub struct Forwarder {
    pool: Pool,
    limits: ForwardLimits,
    ticks: Rc<Ticks>,
}

impl Forwarder {
    /// Uses `pool` for every request.
    #[must_use]
    pub const fn new(pool: Pool, limits: ForwardLimits, ticks: Rc<Ticks>) -> Self {
        Self { pool, limits, ticks }
    }

    /// The connections, for sweeping.
    #[must_use]
    pub const fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Passes `request` on to `upstream` and gives back its answer, whose body streams.
    ///
    /// A connection that was kept may have been closed by the upstream meanwhile: the request then goes out once more, over
    /// a new one, if it had not gone out at all, or if the connection had been idle for longer than
    /// [`super::upstream::PoolLimits::trusted_for`], acting twice changes nothing, and there was no body.
    ///
    /// Not an `async fn`: what most requests need is done at once, so that the future that is moved about stays small.
    ///
    /// # Errors
    /// [`ForwardError`] when no answer began. Dropping the future, or the answer's body, closes the upstream's connection.
    pub fn forward(
        self: &Rc<Self>,
        mut request: Request<Incoming>,
        upstream: &Upstream,
        edits: &HeaderEdits,
        peer: &Peer,
    ) -> impl Future<Output = Result<Response<Body>, ForwardError>> + use<> {
        let this = Rc::clone(self);
        let bytes_max = self.limits.body_bytes_max;
        if request.body().size_hint().lower() > bytes_max {
            return Either::Right(boxed(async move { Err(ForwardError::BodyTooLarge { bytes_max }) }));
        }
        let websocket = edits.websocket && headers::wants_websocket(request.headers());
        let client = websocket.then(|| hyper::upgrade::on(&mut request));
        let request = prepare(request, upstream, edits, peer, websocket, bytes_max);
        let Some(mut lease) = self.pool.reuse(upstream) else {
            let upstream = upstream.clone();
            return Either::Right(boxed(async move { this.send_anew(request, &upstream, client).await }));
        };
        let spare = (!lease.trusted && repeatable(&request)).then(|| Box::new(copy(&request)));
        let answer = lease.sender.try_send_request(request);
        Either::Left(async move {
            let failure = match this.limited(pin!(answer)).await? {
                Ok(response) => return this.accept(response, lease, client),
                Err(failure) => failure,
            };
            let request = again(failure, spare).map_err(|error| this.explain(error))?;
            boxed(async move { this.send_anew(request, lease.upstream(), client).await }).await
        })
    }

    /// Over a new connection, once.
    async fn send_anew(
        &self,
        request: Request<Upload>,
        upstream: &Upstream,
        client: Option<OnUpgrade>,
    ) -> Result<Response<Body>, ForwardError> {
        let mut lease = self.pool.open(upstream).await?;
        let answer = lease.sender.try_send_request(request);
        match self.limited(pin!(answer)).await? {
            Ok(response) => self.accept(response, lease, client),
            Err(failure) => Err(self.explain(failure.into_error())),
        }
    }

    async fn limited<T>(&self, answer: Pin<&mut impl Future<Output = T>>) -> Result<T, ForwardError> {
        self.ticks.limit(self.limits.response_header, answer).await.map_err(|Overdue| ForwardError::ResponseTimeout)
    }

    fn accept(
        &self,
        mut response: Response<Incoming>,
        lease: Lease,
        client: Option<OnUpgrade>,
    ) -> Result<Response<Body>, ForwardError> {
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let Some(client) = client else { return Err(ForwardError::BadAnswer(None)) };
            let bot = hyper::upgrade::on(&mut response);
            tunnel::start(client, bot, Rc::clone(&self.ticks), self.limits.websocket_idle);
            return Ok(response.map(|_| Body::empty()));
        }
        headers::inward(response.headers_mut());
        *response.version_mut() = Version::HTTP_11;
        Ok(response.map(|incoming| deliver(incoming, lease)))
    }

    fn explain(&self, error: hyper::Error) -> ForwardError {
        match error.source().and_then(<dyn Error>::downcast_ref::<UploadError>) {
            Some(UploadError::TooLarge) => ForwardError::BodyTooLarge { bytes_max: self.limits.body_bytes_max },
            Some(UploadError::Client) => ForwardError::ClientGone,
            None if error.is_parse() => ForwardError::BadAnswer(Some(error)),
            None => ForwardError::BrokeBeforeFirstByte(error),
        }
    }
}

/// For the ways that few requests take: their futures would make everybody's larger.
fn boxed<T>(work: impl Future<Output = T> + 'static) -> Pin<Box<dyn Future<Output = T>>> {
    Box::pin(work)
}

/// What may be sent once more after `failure` on a kept connection.
fn again(
    mut failure: TrySendError<Request<Upload>>,
    spare: Option<Box<Request<Upload>>>,
) -> Result<Request<Upload>, hyper::Error> {
    if let Some(unsent) = failure.take_message() {
        return Ok(unsent);
    }
    let error = failure.into_error();
    match spare {
        Some(spare) if !error.is_parse() && !error.is_user() => Ok(*spare),
        _ => Err(error),
    }
}

/// RFC 9110 §9.2.2: doing it twice is doing it once, and there is no body that would be gone.
fn repeatable(request: &Request<Upload>) -> bool {
    request.method().is_idempotent() && request.body().is_end_stream()
}

fn copy(request: &Request<Upload>) -> Request<Upload> {
    let mut copy = Request::new(Upload::empty());
    copy.method_mut().clone_from(request.method());
    copy.uri_mut().clone_from(request.uri());
    copy.headers_mut().clone_from(request.headers());
    copy
}

fn prepare(
    request: Request<Incoming>,
    upstream: &Upstream,
    edits: &HeaderEdits,
    peer: &Peer,
    websocket: bool,
    bytes_max: u64,
) -> Request<Upload> {
    let (mut parts, body) = request.into_parts();
    let host = if parts.headers.contains_key(http::header::HOST) { String::new() } else { upstream.to_string() };
    headers::outward(&mut parts.headers, edits, peer, &host, websocket);
    if let Some(path) = &edits.path {
        parts.uri = Uri::from(path.clone());
    } else if parts.uri.authority().is_some() {
        parts.uri = Uri::from(parts.uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/")));
    }
    parts.version = Version::HTTP_11;
    parts.extensions.clear();
    Request::from_parts(parts, Upload::new(body, bytes_max))
}

/// A connection that is free already goes back at once; otherwise its answer's last byte brings it back.
fn deliver(incoming: Incoming, lease: Lease) -> Body {
    if lease.sender.is_ready() {
        lease.give_back();
        return Body::upstream(incoming, None);
    }
    Body::upstream(incoming, Some(lease))
}
