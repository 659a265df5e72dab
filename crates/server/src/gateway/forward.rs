//! Passes one request to an upstream and its answer back, byte for byte, as it comes.
//!
//! Nothing here decides where a request goes, who may send it, or what a failure looks like to the client.

use std::{
    error::Error,
    pin::{Pin, pin},
    rc::Rc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::Either;
use http::{Request, Response, StatusCode, Uri, Version, uri::PathAndQuery};
use http_body_util::BodyExt as _;
use hyper::{body::Body as _, body::Incoming, client::conn::http1::SendRequest, upgrade::OnUpgrade};

use super::{
    body::{Body, Upload, UploadError},
    headers::{self, HeaderEdits},
    listen::Peer,
    progress::{Patience, Progress},
    ticks::{Overdue, Ticks},
    tunnel,
    upstream::{ForwardError, Lease, Pool, Upstream},
    wire::{Answer, Question, Wire, WireError},
};

/// Limits of what is passed on.
#[derive(Clone, Copy, Debug)]
pub struct ForwardLimits {
    /// How long an upstream may take to begin its answer, once it has the whole request.
    pub response_header: Duration,
    /// How long nothing may come of a body that its client is sending.
    pub body_silence: Duration,
    /// The largest body a client may send.
    pub body_bytes_max: u64,
    /// For how long nothing may move through a WebSocket before it is closed.
    pub websocket_idle: Duration,
}

impl Default for ForwardLimits {
    fn default() -> Self {
        Self {
            response_header: Duration::from_mins(2),
            body_silence: Duration::from_secs(30),
            body_bytes_max: 32 << 20,
            websocket_idle: Duration::from_mins(10),
        }
    }
}

/// One worker's way to all upstreams.
#[derive(Debug)]
pub struct Forwarder {
    pub(super) pool: Pool,
    pub(super) limits: ForwardLimits,
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
    /// A connection that was kept may have been closed by the upstream meanwhile: a request without a body then goes out once
    /// more, over a new one, if nothing of it had gone out, or if acting on it twice changes nothing.
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
        if websocket || !request.body().is_end_stream() {
            let upstream = upstream.clone();
            return Either::Right(boxed(async move { this.send(request, &upstream, client).await }));
        }
        let (head, _) = request.into_parts();
        let (twice, limit) = (head.method.is_idempotent(), self.limits.response_header);
        let Some(mut lease) = self.pool.reuse_wire(upstream) else {
            let mut question = Question::default();
            question.write(&head);
            let upstream = upstream.clone();
            return Either::Right(boxed(async move {
                this.ask_anew(question, twice, &upstream, limit).await.map_err(|failed| failed.error)
            }));
        };
        lease.connection.question().write(&head);
        Either::Left(async move {
            match this.answer(&mut lease, twice, limit).await {
                Ok(answer) => Ok(passed_on(answer, lease)),
                Err(Failed { unsent: Some(question), .. }) => {
                    boxed(async move { this.ask_anew(question, twice, lease.upstream(), limit).await })
                        .await
                        .map_err(|failed| failed.error)
                }
                Err(failed) => Err(failed.error),
            }
        })
    }

    /// A request without a body over a new connection, once. Where acting on it `twice` does no harm, or nothing of it went
    /// out, it comes back when it fails.
    pub(super) async fn ask_anew(
        &self,
        question: Question,
        twice: bool,
        upstream: &Upstream,
        limit: Duration,
    ) -> Result<Response<Body>, Failed<Question>> {
        let mut lease = match self.pool.open_wire(upstream).await {
            Ok(lease) => lease,
            Err(error) => return Err(Failed { error, unsent: Some(question) }),
        };
        *lease.connection.question() = question;
        let answer = self.answer(&mut lease, twice, limit).await?;
        Ok(passed_on(answer, lease))
    }

    /// The head of the answer to the question that this connection was given.
    pub(super) async fn answer(
        &self,
        lease: &mut Lease<Wire>,
        twice: bool,
        limit: Duration,
    ) -> Result<Answer, Failed<Question>> {
        let outcome = self.ticks.limit(limit, lease.connection.answer()).await;
        match outcome.map_err(|Overdue| ForwardError::ResponseTimeout)? {
            Ok(answer) => Ok(answer),
            Err(error @ WireError::Broken(_)) => {
                Err(Failed { unsent: lease.connection.take_question(twice), error: error.into() })
            }
            Err(error) => Err(ForwardError::from(error).into()),
        }
    }

    /// A request with a body, or one that may switch protocols: sent again only if it never went out.
    async fn send(
        &self,
        request: Request<Upload>,
        upstream: &Upstream,
        client: Option<OnUpgrade>,
    ) -> Result<Response<Body>, ForwardError> {
        match self.try_send(request, upstream, self.limits.response_header).await {
            Ok((response, lease)) => self.accept(response, lease, client),
            Err(Failed { error, .. }) => Err(error),
        }
    }

    /// The same, without a word about the answer. Where nothing of the request went out, it comes back.
    pub(super) async fn try_send(
        &self,
        request: Request<Upload>,
        upstream: &Upstream,
        limit: Duration,
    ) -> Result<(Response<Incoming>, Lease<SendRequest<Upload>>), Failed<Request<Upload>>> {
        let mut unsent = request;
        if let Some(mut lease) = self.pool.reuse_sender(upstream) {
            let progress = unsent.body_mut().watched(&self.ticks);
            let answer = lease.connection.try_send_request(unsent);
            match self.sent(&progress, limit, pin!(answer)).await? {
                Ok(response) => return Ok((response, lease)),
                Err(mut failure) => match failure.take_message() {
                    Some(request) => unsent = request,
                    None => return Err(self.explain(failure.into_error()).into()),
                },
            }
        }
        let mut lease = match self.pool.open_sender(upstream).await {
            Ok(lease) => lease,
            Err(error) => return Err(Failed { error, unsent: Some(unsent) }),
        };
        let progress = unsent.body_mut().watched(&self.ticks);
        let answer = lease.connection.try_send_request(unsent);
        match self.sent(&progress, limit, pin!(answer)).await? {
            Ok(response) => Ok((response, lease)),
            Err(mut failure) => {
                let unsent = failure.take_message();
                Err(Failed { error: self.explain(failure.into_error()), unsent })
            }
        }
    }

    /// What becomes of a request whose body goes out meanwhile. `limit` is the upstream's time, not the client's.
    async fn sent<T>(
        &self,
        progress: &Progress,
        limit: Duration,
        mut work: Pin<&mut impl Future<Output = T>>,
    ) -> Result<T, ForwardError> {
        let patience = Patience { silence: self.limits.body_silence, answer: limit };
        loop {
            let left = progress.left(patience)?;
            if let Ok(outcome) = self.ticks.limit(left, work.as_mut()).await {
                return Ok(outcome);
            }
        }
    }

    /// All of a body that is small, before it is sent.
    pub(super) async fn collected(&self, mut body: Upload) -> Result<Bytes, ForwardError> {
        let progress = body.watched(&self.ticks);
        let collected = self.sent(&progress, self.limits.response_header, pin!(body.collect())).await?;
        Ok(collected.map_err(|_| ForwardError::ClientGone)?.to_bytes())
    }

    pub(super) fn accept(
        &self,
        mut response: Response<Incoming>,
        lease: Lease<SendRequest<Upload>>,
        client: Option<OnUpgrade>,
    ) -> Result<Response<Body>, ForwardError> {
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let Some(client) = client else { return Err(ForwardError::BadAnswer(UNASKED.into())) };
            let bot = hyper::upgrade::on(&mut response);
            tunnel::start(client, bot, Rc::clone(&self.ticks), self.limits.websocket_idle);
            return Ok(response.map(|_| Body::empty()));
        }
        headers::inward(response.headers_mut());
        *response.version_mut() = Version::HTTP_11;
        Ok(response.map(|incoming| Body::incoming(incoming, lease)))
    }

    fn explain(&self, error: hyper::Error) -> ForwardError {
        match error.source().and_then(<dyn Error>::downcast_ref::<UploadError>) {
            Some(UploadError::TooLarge) => ForwardError::BodyTooLarge { bytes_max: self.limits.body_bytes_max },
            Some(UploadError::Client) => ForwardError::ClientGone,
            None if error.is_parse() => ForwardError::BadAnswer(error.into()),
            None => ForwardError::broke(error),
        }
    }
}

/// No answer began. What did not go out at all is here, for another upstream.
pub(super) struct Failed<T> {
    pub(super) error: ForwardError,
    pub(super) unsent: Option<T>,
}

impl<T> From<ForwardError> for Failed<T> {
    fn from(error: ForwardError) -> Self {
        Self { error, unsent: None }
    }
}

/// For the ways that few requests take: their futures would make everybody's larger.
fn boxed<T>(work: impl Future<Output = T> + 'static) -> Pin<Box<dyn Future<Output = T>>> {
    Box::pin(work)
}

const UNASKED: &str = "it switches protocols, which nobody asked for";

pub(super) fn passed_on(answer: Answer, lease: Lease<Wire>) -> Response<Body> {
    let Answer { head, framing, keep } = answer;
    head.map(|()| Body::wired(lease, framing, keep))
}

pub(super) fn prepare(
    request: Request<Incoming>,
    upstream: &Upstream,
    edits: &HeaderEdits,
    peer: &Peer,
    websocket: bool,
    bytes_max: u64,
) -> Request<Upload> {
    let (mut parts, body) = request.into_parts();
    headers::outward(&mut parts.headers, edits, peer, upstream, websocket);
    if let Some(path) = &edits.path {
        parts.uri = Uri::from(path.clone());
    } else if parts.uri.authority().is_some() {
        parts.uri = Uri::from(parts.uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/")));
    }
    parts.version = Version::HTTP_11;
    parts.extensions.clear();
    Request::from_parts(parts, Upload::new(body, bytes_max))
}
