//! The two bodies of the proxied path: what goes to a client, what goes to an upstream. Neither is boxed, neither copies.

use std::{
    any::Any,
    fmt, mem,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};

use super::upstream::Lease;

/// What a client receives: an upstream's answer, the router's, or a few bytes of our own.
pub struct Body {
    kind: Kind,
    guard: Option<Box<dyn Any>>,
}

enum Kind {
    Full(Bytes),
    Router(axum::body::Body),
    Upstream { incoming: Incoming, lease: Option<Lease> },
}

/// A body that broke while it was streamed. The answer's head is out by then: the connection is closed.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The upstream went away, or spoke something that is not HTTP.
    #[error("the upstream's answer broke off")]
    Upstream(#[source] hyper::Error),
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

    pub(super) fn upstream(incoming: Incoming, lease: Option<Lease>) -> Self {
        Self { kind: Kind::Upstream { incoming, lease }, guard: None }
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
            Kind::Upstream { incoming, lease } => {
                let frame = ready!(Pin::new(&mut *incoming).poll_frame(context));
                let ended = match &frame {
                    None => true,
                    Some(Ok(_)) => incoming.is_end_stream(),
                    Some(Err(_)) => false,
                };
                if ended && let Some(lease) = lease.take() {
                    lease.give_back();
                }
                Poll::Ready(frame.map(|frame| frame.map_err(BodyError::Upstream)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Full(bytes) => bytes.is_empty(),
            Kind::Router(body) => body.is_end_stream(),
            Kind::Upstream { incoming, .. } => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Router(body) => body.size_hint(),
            Kind::Upstream { incoming, .. } => incoming.size_hint(),
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.kind {
            Kind::Full(_) => "Full",
            Kind::Router(_) => "Router",
            Kind::Upstream { .. } => "Upstream",
        };
        formatter.debug_struct("Body").field("kind", &kind).finish_non_exhaustive()
    }
}

/// What an upstream receives: the client's body, byte for byte, up to a limit.
#[derive(Debug)]
pub struct Upload {
    incoming: Option<Incoming>,
    left: u64,
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
        Self { incoming: (!incoming.is_end_stream()).then_some(incoming), left: bytes_max }
    }

    /// No bytes.
    #[must_use]
    pub fn empty() -> Self {
        Self { incoming: None, left: 0 }
    }
}

impl HttpBody for Upload {
    type Data = Bytes;
    type Error = UploadError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        let Some(incoming) = &mut self.incoming else { return Poll::Ready(None) };
        let Some(frame) = ready!(Pin::new(incoming).poll_frame(context)) else { return Poll::Ready(None) };
        let Ok(frame) = frame else { return Poll::Ready(Some(Err(UploadError::Client))) };
        let length = frame.data_ref().map_or(0, |data| data.len() as u64);
        let Some(left) = self.left.checked_sub(length) else {
            self.incoming = None;
            return Poll::Ready(Some(Err(UploadError::TooLarge)));
        };
        self.left = left;
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.as_ref().map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint)
    }
}
