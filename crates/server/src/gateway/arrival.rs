//! A request's body has to arrive: whoever stops sending, or sends a byte now and then, is not waited for.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::{Instant, Sleep};

/// So many times the longest silence is the longest time for all of it: enough for a large file over a slow line.
pub(super) const WHOLE: u32 = 20;

/// Whether a body was given up.
#[derive(Clone, Debug, Default)]
pub struct Late(Arc<AtomicBool>);

impl Late {
    /// It was.
    pub fn is_late(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// `body`, which ends with an error when nothing comes for longer than `silence`.
pub fn watched(body: Body, silence: Duration) -> (Body, Late) {
    let late = Late::default();
    if body.is_end_stream() {
        return (body, late);
    }
    let watched = Watched {
        body,
        silence,
        end: Instant::now() + silence * WHOLE,
        wait: Box::pin(tokio::time::sleep(silence)),
        late: late.clone(),
    };
    (Body::new(watched), late)
}

struct Watched {
    body: Body,
    silence: Duration,
    end: Instant,
    wait: Pin<Box<Sleep>>,
    late: Late,
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            let next = (Instant::now() + self.silence).min(self.end);
            self.wait.as_mut().reset(next);
            return Poll::Ready(frame);
        }
        if self.wait.as_mut().poll(context).is_pending() {
            return Poll::Pending;
        }
        self.late.0.store(true, Ordering::Relaxed);
        Poll::Ready(Some(Err(axum::Error::new(std::io::Error::from(std::io::ErrorKind::TimedOut)))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// At most `limit` bytes of a body that is small, or nothing.
pub async fn read_some(body: Body, limit: usize) -> Option<Bytes> {
    http_body_util::Limited::new(body, limit).collect().await.ok().map(http_body_util::Collected::to_bytes)
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, time::Duration};

    use axum::body::Body;
    use bytes::Bytes;
    use futures_util::{StreamExt, stream};
    use http_body_util::BodyExt;

    use super::watched;

    #[tokio::test]
    async fn a_body_that_stops_is_given_up() {
        let stalls = stream::once(async { Ok::<_, Infallible>(Bytes::from("half")) }).chain(stream::pending());
        let (body, late) = watched(Body::from_stream(stalls), Duration::from_millis(20));
        assert!(body.collect().await.is_err());
        assert!(late.is_late());
    }

    #[tokio::test]
    async fn a_body_that_drips_is_given_up() {
        let drips = stream::repeat(()).then(|()| async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            Ok::<_, Infallible>(Bytes::from("x"))
        });
        let (body, late) = watched(Body::from_stream(drips), Duration::from_millis(50));
        assert!(body.collect().await.is_err());
        assert!(late.is_late());
    }

    #[tokio::test]
    async fn a_body_that_arrives_is_left_alone() {
        let (body, late) = watched(Body::from("all of it"), Duration::from_secs(10));
        assert_eq!(body.collect().await.unwrap().to_bytes(), "all of it");
        assert!(!late.is_late());
    }
}
