//! A streamed answer on its way to the bot: passed on as it comes, counted as it passes.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use astrfleet_core::usage::Outcome;
use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming};
use tokio::time::{Instant, Sleep, sleep};

use super::{cache::Slot, call::Call, failures::Failures, provider, scan::Scanner};

/// What the bot reads, as in the middle of a stream only an event can tell it that no more will come.
const BROKEN: &[u8] =
    b"data: {\"error\":{\"message\":\"the model's answer broke off: try again\",\"type\":\"server_error\",\
    \"code\":\"model_failed\",\"param\":null}}\n\n";

/// A body.
pub(super) struct Streamed {
    incoming: Incoming,
    scanner: Scanner,
    call: Call,
    failures: Arc<Failures>,
    left: u64,
    idle: Duration,
    heard_at: Instant,
    timer: Pin<Box<Sleep>>,
    ended: bool,
    /// Where the answer is kept once it is whole, and what of it has passed.
    kept: Option<(Slot, Vec<u8>)>,
}

impl Streamed {
    /// Passes on `incoming`, at most `bytes_max` bytes of it, for as long as it never rests for longer than `idle`.
    pub(super) fn new(
        incoming: Incoming,
        hide_usage: bool,
        call: Call,
        failures: Arc<Failures>,
        bytes_max: u64,
        idle: Duration,
    ) -> Self {
        Self {
            incoming,
            scanner: Scanner::new(hide_usage),
            call,
            failures,
            left: bytes_max,
            idle,
            heard_at: Instant::now(),
            timer: Box::pin(sleep(idle)),
            ended: false,
            kept: None,
        }
    }

    /// The same, and kept for whoever asks the same again.
    pub(super) fn kept_in(mut self, slot: Option<Slot>) -> Self {
        self.kept = slot.map(|slot| (slot, Vec::new()));
        self
    }

    /// Keeps what is passed on, if there is room for it.
    fn note(&mut self, passed: &[u8]) {
        if let Some((slot, kept)) = &mut self.kept {
            if kept.len() + passed.len() > slot.bytes_max() {
                self.kept = None;
            } else {
                kept.extend_from_slice(passed);
            }
        }
    }

    /// The provider has nothing more to say.
    fn end(&mut self) -> Option<Bytes> {
        let rest = self.scanner.finish();
        if !(self.scanner.done || self.scanner.usage.is_some()) {
            return Some(self.break_off("it ended before its end"));
        }
        self.ended = true;
        self.call.outcome = if self.scanner.error { Outcome::Failed } else { Outcome::Complete };
        (!rest.is_empty()).then_some(rest)
    }

    fn break_off(&mut self, why: &'static str) -> Bytes {
        self.ended = true;
        self.call.outcome = Outcome::Failed;
        tracing::warn!(error_code = "model_failed", error = why, instance_id = %self.call.bot.id, "a model's answer broke off");
        Bytes::from_static(BROKEN)
    }

    /// Whether nothing came for too long.
    fn overdue(&mut self, context: &mut Context<'_>) -> bool {
        while self.timer.as_mut().poll(context).is_ready() {
            let deadline = self.heard_at + self.idle;
            if deadline <= Instant::now() {
                return true;
            }
            self.timer.as_mut().reset(deadline);
        }
        false
    }
}

impl Body for Streamed {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = &mut *self;
        let passed = loop {
            if this.ended {
                return Poll::Ready(None);
            }
            match Pin::new(&mut this.incoming).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => {
                    let Ok(data) = frame.into_data() else { continue };
                    this.heard_at = Instant::now();
                    let Some(left) = this.left.checked_sub(data.len() as u64) else {
                        break Some(this.break_off("it is longer than llm.max_answer_bytes"));
                    };
                    this.left = left;
                    let passed = this.scanner.feed(data);
                    if !passed.is_empty() {
                        break Some(passed);
                    }
                }
                Poll::Ready(Some(Err(_))) => break Some(this.break_off("the connection broke")),
                Poll::Ready(None) => break this.end(),
                Poll::Pending if this.overdue(context) => break Some(this.break_off("nothing came for too long")),
                Poll::Pending => return Poll::Pending,
            }
        };
        if let Some(passed) = &passed {
            this.note(passed);
        }
        Poll::Ready(passed.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}

impl Drop for Streamed {
    fn drop(&mut self) {
        self.call.usage = self.scanner.usage;
        self.call.text_bytes = self.scanner.text_bytes;
        // A bot that has read the end need not wait for the connection's.
        if !self.ended && self.scanner.done {
            self.call.outcome = Outcome::Complete;
        }
        // Whole means to its very end: a bot may have read `[DONE]` and left before the rest passed.
        if self.ended
            && self.call.outcome == Outcome::Complete
            && let Some((slot, kept)) = self.kept.take()
        {
            slot.keep(true, kept.into());
        }
        if self.call.outcome == Outcome::Failed {
            self.failures.note(&self.call.bot.id, provider::broke_off());
        }
    }
}
