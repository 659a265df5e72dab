//! The two bodies of the proxied path: what goes to a client, what goes to an upstream. Neither is boxed, neither copies.

use std::{
    any::Any,
    error::Error,
    fmt, mem,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use hyper::{
    body::{Body as HttpBody, Frame, Incoming, SizeHint},
    client::conn::http1::SendRequest,
};

use super::{
    progress::Progress,
    ticks::Ticks,
    upstream::Lease,
    wire::{Framing, Wire},
};

/// What a client receives: an upstream's answer, the router's, or a few bytes of our own.
pub struct Body {
    kind: Kind,
    guard: Option<Box<dyn Any>>,
}

enum Kind {
    Full(Bytes),
    Router(axum::body::Body),
    Sender { incoming: Incoming, lease: Option<Lease<SendRequest<Upload>>> },
    Wire(Box<Wired>),
}

/// An answer that did not come in one piece.
struct Wired {
    lease: Option<Lease<Wire>>,
    framing: Framing,
    keep: bool,
}

impl Wired {
    fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(open) = &mut self.lease else { return Poll::Ready(None) };
        let data = ready!(open.connection.poll_body(context, &mut self.framing));
        let broke = matches!(data, Some(Err(_)));
        let ended = broke || data.is_none() || matches!(self.framing, Framing::Length(0));
        if ended && let Some(lease) = self.lease.take() {
            self.framing = Framing::Length(0);
            if self.keep && !broke {
                lease.give_back();
            }
        }
        Poll::Ready(data.map(|data| data.map(Frame::data).map_err(|error| BodyError::Upstream(error.into()))))
    }
}

/// A body that broke while it was streamed. The answer's head is out by then: the connection is closed.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The upstream went away, or spoke something that is not HTTP.
    #[error("the upstream's answer broke off")]
    Upstream(#[source] Box<dyn Error + Send + Sync>),
    /// The handler's stream ended with an error.
    #[error("the answer's stream failed")]
    Router(#[source] axum::Error),
}

impl Body {
    /// No bytes.
    #[must_use]
    pub fn empty() -> Self {
        Self::from(Bytes::new())
    }

    /// Keeps `guard` until the body is finished or dropped: for counting streams, or for a permit that they hold.
    #[must_use]
    pub fn guarded(mut self, guard: impl Any) -> Self {
        self.guard = Some(match self.guard.take() {
            Some(earlier) => Box::new((earlier, guard)),
            None => Box::new(guard),
        });
        self
    }

    /// What hyper reads. A connection that is free already goes back at once; otherwise the last byte brings it back.
    pub(super) fn incoming(incoming: Incoming, lease: Lease<SendRequest<Upload>>) -> Self {
        let lease = if lease.connection.is_ready() {
            lease.give_back();
            None
        } else {
            Some(lease)
        };
        Self { kind: Kind::Sender { incoming, lease }, guard: None }
    }

    /// What follows an answer's head. The last byte brings the connection back, if it may be kept.
    pub(super) fn wired(mut lease: Lease<Wire>, framing: Framing, keep: bool) -> Self {
        if let Some(whole) = lease.connection.whole(&framing) {
            if keep {
                lease.give_back();
            }
            return Self::from(whole);
        }
        Self { kind: Kind::Wire(Box::new(Wired { lease: Some(lease), framing, keep })), guard: None }
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self { kind: Kind::Full(bytes), guard: None }
    }
}

impl From<axum::body::Body> for Body {
    fn from(body: axum::body::Body) -> Self {
        Self { kind: Kind::Router(body), guard: None }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.kind {
            Kind::Full(bytes) if bytes.is_empty() => Poll::Ready(None),
            Kind::Full(bytes) => Poll::Ready(Some(Ok(Frame::data(mem::take(bytes))))),
            Kind::Router(body) => Pin::new(body).poll_frame(context).map_err(BodyError::Router),
            Kind::Wire(wired) => wired.poll_frame(context),
            Kind::Sender { incoming, lease } => {
                let frame = ready!(Pin::new(&mut *incoming).poll_frame(context));
                let ended = match &frame {
                    None => true,
                    Some(Ok(_)) => incoming.is_end_stream(),
                    Some(Err(_)) => false,
                };
                if ended && let Some(lease) = lease.take() {
                    lease.give_back();
                }
                Poll::Ready(frame.map(|frame| frame.map_err(|error| BodyError::Upstream(error.into()))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Full(bytes) => bytes.is_empty(),
            Kind::Router(body) => body.is_end_stream(),
            Kind::Sender { incoming, .. } => incoming.is_end_stream(),
            Kind::Wire(wired) => matches!(wired.framing, Framing::Length(0)),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Router(body) => body.size_hint(),
            Kind::Sender { incoming, .. } => incoming.size_hint(),
            Kind::Wire(wired) => match wired.framing {
                Framing::Length(left) => SizeHint::with_exact(left),
                Framing::Chunked(_) | Framing::Close => SizeHint::default(),
            },
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.kind {
            Kind::Full(_) => "Full",
            Kind::Router(_) => "Router",
            Kind::Sender { .. } => "Sender",
            Kind::Wire(_) => "Wire",
        };
        formatter.debug_struct("Body").field("kind", &kind).finish_non_exhaustive()
    }
}

/// What an upstream receives: the client's body, byte for byte, up to a limit.
#[derive(Debug)]
pub struct Upload {
    origin: Origin,
    left: u64,
    /// Is told of every piece.
    progress: Option<Rc<Progress>>,
}

#[derive(Debug)]
enum Origin {
    Nothing,
    Client(Incoming),
    Kept(Bytes),
}

/// Why an upload stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UploadError {
    /// More bytes came than are allowed.
    #[error("the body is larger than allowed")]
    TooLarge,
    /// The client went away or broke the framing.
    #[error("the client's body broke off")]
    Client,
}

impl Upload {
    /// Passes on `incoming`, at most `bytes_max` bytes of it.
    #[must_use]
    pub fn new(incoming: Incoming, bytes_max: u64) -> Self {
        let origin = if incoming.is_end_stream() { Origin::Nothing } else { Origin::Client(incoming) };
        Self { origin, left: bytes_max, progress: None }
    }

    /// A body that was read already.
    #[must_use]
    pub fn kept(bytes: Bytes) -> Self {
        let left = bytes.len() as u64;
        Self { origin: if bytes.is_empty() { Origin::Nothing } else { Origin::Kept(bytes) }, left, progress: None }
    }

    /// How far it has come from here on.
    pub(super) fn watched(&mut self, ticks: &Rc<Ticks>) -> Rc<Progress> {
        let progress = Rc::new(Progress::begun(ticks));
        self.progress = Some(Rc::clone(&progress));
        progress
    }

    fn poll_client(
        incoming: &mut Incoming,
        left: &mut u64,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        let Some(frame) = ready!(Pin::new(incoming).poll_frame(context)) else { return Poll::Ready(None) };
        let Ok(frame) = frame else { return Poll::Ready(Some(Err(UploadError::Client))) };
        let length = frame.data_ref().map_or(0, |data| data.len() as u64);
        let Some(rest) = left.checked_sub(length) else { return Poll::Ready(Some(Err(UploadError::TooLarge))) };
        *left = rest;
        Poll::Ready(Some(Ok(frame)))
    }
}

impl HttpBody for Upload {
    type Data = Bytes;
    type Error = UploadError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        let this = &mut *self;
        let polled = match &mut this.origin {
            Origin::Nothing => Poll::Ready(None),
            Origin::Kept(bytes) => {
                let frame = Frame::data(mem::take(bytes));
                this.origin = Origin::Nothing;
                Poll::Ready(Some(Ok(frame)))
            }
            Origin::Client(incoming) => Self::poll_client(incoming, &mut this.left, context),
        };
        if let Poll::Ready(Some(Err(_))) = polled {
            this.origin = Origin::Nothing;
        }
        if let Some(progress) = &this.progress {
            if polled.is_pending() { progress.is_short() } else { progress.moved() }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.origin {
            Origin::Nothing => true,
            Origin::Kept(_) => false,
            Origin::Client(incoming) => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.origin {
            Origin::Nothing => SizeHint::with_exact(0),
            Origin::Kept(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Origin::Client(incoming) => incoming.size_hint(),
        }
    }
}
