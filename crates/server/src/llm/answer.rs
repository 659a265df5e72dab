//! A streamed answer on its way to the bot: passed on as it comes, counted as it passes. Up to its first event nobody was
//! told anything, and another provider may be asked; how it ends is told to the circuit before its provider.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use astrfleet_core::usage::Outcome;
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming};
use tokio::time::{Instant, Sleep, sleep, timeout};

use super::{
    cache::Slot,
    call::Call,
    failures::Failures,
    provider::{self, Provider, Trouble},
    scan::Scanner,
};

/// What the bot reads, as in the middle of a stream only an event can tell it that no more will come.
const BROKEN: &[u8] =
    b"data: {\"error\":{\"message\":\"the model's answer broke off: try again\",\"type\":\"server_error\",\
    \"code\":\"model_failed\",\"param\":null}}\n\n";

/// More than this before the first event is passed on as it comes.
const AHEAD_MAX: usize = 64 << 10;

/// A stream whose first event has come, or that shows otherwise that somebody is at work.
pub(super) struct Opened {
    incoming: Incoming,
    scanner: Scanner,
    /// What is to be passed on of it.
    ahead: VecDeque<Bytes>,
    ahead_bytes: usize,
    /// Bytes that may still come.
    left: u64,
}

/// A body.
pub(super) struct Streamed {
    opened: Opened,
    call: Call,
    provider: Arc<Provider>,
    failures: Arc<Failures>,
    heard_at: Instant,
    timer: Pin<Box<Sleep>>,
    ended: bool,
    /// It is not the provider's doing that it ended.
    excused: bool,
    /// Where the answer is kept once it is whole, and what of it has passed.
    kept: Option<(Slot, Vec<u8>)>,
}

impl Opened {
    /// Reads to the first event, for at most `limit`, and at most `bytes_max` bytes.
    ///
    /// # Errors
    /// Where there is none, or it tells of an error.
    pub(super) async fn read(
        incoming: Incoming,
        hide_usage: bool,
        bytes_max: u64,
        limit: Duration,
    ) -> Result<Self, Trouble> {
        let scanner = Scanner::new(hide_usage);
        let mut opened = Self { incoming, scanner, ahead: VecDeque::new(), ahead_bytes: 0, left: bytes_max };
        match timeout(limit, opened.fill()).await {
            Ok(Ok(())) if opened.scanner.error && opened.scanner.text_bytes == 0 => {
                Err(Trouble::Failed("it answered HTTP 200 and an error".to_owned()))
            }
            Ok(Ok(())) => Ok(opened),
            Ok(Err(trouble)) => Err(trouble),
            // What it sends to keep the connection says that it is at work.
            Err(_) if opened.ahead_bytes > 0 => Ok(opened),
            Err(_) => Err(Trouble::Timeout { given: true }),
        }
    }

    async fn fill(&mut self) -> Result<(), Trouble> {
        while !self.scanner.began && self.ahead_bytes < AHEAD_MAX {
            let data = match self.incoming.frame().await {
                Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
                Some(Err(_)) => return Err(Trouble::BrokeOff("the connection broke".to_owned())),
                None => return Err(Trouble::BrokeOff("its stream ended before its first event".to_owned())),
            };
            let passed = self.take(data).ok_or(Trouble::TooLong)?;
            self.ahead_bytes += passed.len();
            self.ahead.push_back(passed);
        }
        Ok(())
    }

    /// Gives what is passed on of what came; none where it is too much.
    fn take(&mut self, data: Bytes) -> Option<Bytes> {
        self.left = self.left.checked_sub(data.len() as u64)?;
        Some(self.scanner.feed(data))
    }
}

impl Streamed {
    /// Passes on a stream for as long as it never rests for longer than the provider may.
    pub(super) fn new(opened: Opened, mut call: Call, provider: Arc<Provider>, failures: Arc<Failures>) -> Self {
        call.given = true;
        Self {
            opened,
            call,
            failures,
            heard_at: Instant::now(),
            timer: Box::pin(sleep(provider.timeout)),
            provider,
            ended: false,
            excused: false,
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
        let scanner = &mut self.opened.scanner;
        let rest = scanner.finish();
        if !(scanner.done || scanner.usage.is_some()) {
            return Some(self.break_off("it ended before its end"));
        }
        self.call.outcome = if scanner.error { Outcome::Failed } else { Outcome::Complete };
        self.ended = true;
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
            let deadline = self.heard_at + self.provider.timeout;
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
            if let Some(passed) = this.opened.ahead.pop_front() {
                if passed.is_empty() {
                    continue;
                }
                break Some(passed);
            }
            match Pin::new(&mut this.opened.incoming).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => {
                    let Ok(data) = frame.into_data() else { continue };
                    this.heard_at = Instant::now();
                    let Some(passed) = this.opened.take(data) else {
                        this.excused = true;
                        break Some(this.break_off("it is longer than llm.max_answer_bytes"));
                    };
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
        let scanner = &self.opened.scanner;
        self.call.usage = scanner.usage;
        self.call.text_bytes = scanner.text_bytes;
        // A bot that has read the end need not wait for the connection's.
        if !self.ended && scanner.done {
            self.call.outcome = Outcome::Complete;
        }
        // One that went away did so in the middle of an answer.
        if self.call.outcome == Outcome::Failed && !self.excused {
            self.provider.failed();
        } else {
            self.provider.worked();
        }
        // Whole means to its very end: a bot may have read `[DONE]` and left before the rest passed.
        if self.ended
            && self.call.outcome == Outcome::Complete
            && let Some((slot, kept)) = self.kept.take()
        {
            slot.keep(true, &kept);
        }
        if self.call.outcome == Outcome::Failed {
            self.failures.note(&self.call.bot.id, provider::broke_off());
        }
    }
}
