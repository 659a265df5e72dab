//! How far the body of a request that is passed on has come, and who is waited for: the client, from whom the next piece has
//! not come, or the upstream, which has all that there is. Only the upstream's time is held against the upstream.

use std::{cell::Cell, rc::Rc, time::Duration};

use super::{
    arrival::WHOLE,
    ticks::{TICK, Ticks, count},
    upstream::ForwardError,
};

/// How long each side may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// How long nothing may come from the client; its whole body may take [`WHOLE`] times as long.
    pub(super) silence: Duration,
    /// How long the upstream may take to take the next piece, and to begin its answer once it has the last one.
    pub(super) answer: Duration,
}

/// Of one body, on its way to one upstream. Told by the body, asked by whoever waits for the answer.
#[derive(Debug)]
pub(super) struct Progress {
    ticks: Rc<Ticks>,
    began_at: u32,
    moved_at: Cell<u32>,
    waits_for_client: Cell<bool>,
}

impl Progress {
    /// Its sending begins now.
    pub(super) fn begun(ticks: &Rc<Ticks>) -> Self {
        let now = ticks.now();
        Self { ticks: Rc::clone(ticks), began_at: now, moved_at: Cell::new(now), waits_for_client: Cell::new(false) }
    }

    /// A piece of the body went on, or its end.
    pub(super) fn moved(&self) {
        self.waits_for_client.set(false);
        self.moved_at.set(self.ticks.now());
    }

    /// The upstream would take more, and there is nothing.
    pub(super) fn is_short(&self) {
        if !self.waits_for_client.replace(true) {
            self.moved_at.set(self.ticks.now());
        }
    }

    /// After how long one has to look again.
    ///
    /// # Errors
    /// Who was waited for too long: [`ForwardError::ClientTooSlow`] or [`ForwardError::ResponseTimeout`].
    pub(super) fn left(&self, patience: Patience) -> Result<Duration, ForwardError> {
        let after = |since: u32, limit: Duration| since.saturating_add(count(limit));
        let (due, late) = if self.waits_for_client.get() {
            let whole = after(self.began_at, patience.silence.saturating_mul(WHOLE));
            (after(self.moved_at.get(), patience.silence).min(whole), ForwardError::ClientTooSlow)
        } else {
            (after(self.moved_at.get(), patience.answer), ForwardError::ResponseTimeout)
        };
        match due.saturating_sub(self.ticks.now()) {
            0 => Err(late),
            // The other side may be the one that is waited for by then, and be late before this one would be.
            left => Ok((TICK * left).min(patience.silence).min(patience.answer)),
        }
    }
}
