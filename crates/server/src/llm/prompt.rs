//! A request's body on its way to a provider. It notes when the connection takes it: from then on the provider may be at
//! work, and whoever asked may have to pay for it, also where no answer comes.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

/// A body of one piece.
pub(super) struct Prompt {
    rest: Option<Bytes>,
    given: Given,
}

/// Whether it was taken.
#[derive(Clone, Default)]
pub(super) struct Given(Arc<AtomicBool>);

impl Given {
    /// Whether the provider may have it.
    pub(super) fn is_given(&self) -> bool {
        self.0.load(Relaxed)
    }
}

impl Prompt {
    pub(super) fn new(body: Bytes) -> (Self, Given) {
        let given = Given::default();
        (Self { rest: Some(body), given: given.clone() }, given)
    }
}

impl Body for Prompt {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.given.0.store(true, Relaxed);
        Poll::Ready(self.rest.take().map(|body| Ok(Frame::data(body))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.as_ref().map_or(0, |body| body.len() as u64))
    }
}
