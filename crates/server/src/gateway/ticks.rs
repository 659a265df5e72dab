//! A coarse clock for one worker: time limits on the proxied path that cost a memory read instead of a timer each.
//!
//! Good for limits of a second and more. Nothing here may be used to measure a duration.

use std::{
    cell::RefCell,
    future::{Future, poll_fn},
    pin::pin,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

/// How long one tick lasts, and so how late a limit may be noticed.
pub const TICK: Duration = Duration::from_millis(100);

/// The time limit passed before the work was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overdue;

/// Counts ticks and wakes what waits past its limit. One for each worker, moved on by [`Ticks::run`].
#[derive(Debug, Default)]
pub struct Ticks {
    now: Arc<AtomicU32>,
    waits: RefCell<Waits>,
}

#[derive(Debug, Default)]
struct Waits {
    slots: Vec<Option<(u32, Waker)>>,
    free: Vec<usize>,
}

impl Ticks {
    /// Ticks since the worker started. Wraps after 13 years.
    #[must_use]
    pub fn now(&self) -> u32 {
        self.now.load(Relaxed)
    }

    /// The counter itself, for what must be `Send`.
    #[must_use]
    pub fn counter(&self) -> Arc<AtomicU32> {
        Arc::clone(&self.now)
    }

    /// Waits for `work`, but no longer than `limit` (and up to a tick more).
    ///
    /// # Errors
    /// [`Overdue`] when the limit passed first; `work` is dropped then.
    pub async fn limit<F: Future>(&self, limit: Duration, work: F) -> Result<F::Output, Overdue> {
        let mut work = pin!(work);
        let mut wait = Wait { ticks: self, due: self.now().saturating_add(count(limit)), slot: None };
        poll_fn(|context| match work.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Ok(output)),
            Poll::Pending => wait.poll(context).map(Err),
        })
        .await
    }

    /// Moves the clock on for as long as it is polled, and calls `each` after every tick.
    pub async fn run(self: Rc<Self>, mut each: impl FnMut(u32)) {
        let mut interval = tokio::time::interval(TICK);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let started = tokio::time::Instant::now();
        loop {
            let instant = interval.tick().await;
            let elapsed = instant.duration_since(started).as_millis() / TICK.as_millis();
            self.advance(u32::try_from(elapsed).unwrap_or(u32::MAX));
            each(self.now());
        }
    }

    fn advance(&self, now: u32) {
        self.now.store(now, Relaxed);
        let waits = self.waits.borrow();
        for (due, waker) in waits.slots.iter().flatten() {
            if *due <= now {
                waker.wake_by_ref();
            }
        }
    }
}

/// `duration` in ticks, rounded up, plus the tick that is already running.
#[must_use]
pub fn count(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis().div_ceil(TICK.as_millis())).unwrap_or(u32::MAX).saturating_add(1)
}

struct Wait<'a> {
    ticks: &'a Ticks,
    due: u32,
    slot: Option<usize>,
}

impl Wait<'_> {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Overdue> {
        if self.due <= self.ticks.now() {
            return Poll::Ready(Overdue);
        }
        let mut waits = self.ticks.waits.borrow_mut();
        match self.slot.and_then(|slot| waits.slots.get_mut(slot)).and_then(Option::as_mut) {
            Some((_, waker)) => waker.clone_from(context.waker()),
            None => self.slot = Some(waits.put(self.due, context.waker().clone())),
        }
        Poll::Pending
    }
}

impl Waits {
    fn put(&mut self, due: u32, waker: Waker) -> usize {
        if let Some(slot) = self.free.pop() {
            self.slots[slot] = Some((due, waker));
            return slot;
        }
        self.slots.push(Some((due, waker)));
        self.slots.len() - 1
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        let Some(slot) = self.slot else { return };
        let mut waits = self.ticks.waits.borrow_mut();
        waits.slots[slot] = None;
        waits.free.push(slot);
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    #[tokio::test]
    async fn work_in_time_gives_its_output_and_late_work_is_overdue() {
        let ticks = Rc::new(Ticks::default());
        let clock = Rc::clone(&ticks).run(|_| ());
        let limits = async {
            assert_eq!(ticks.limit(Duration::from_secs(1), ready(7)).await, Ok(7));
            let late = ticks.limit(TICK, pending::<()>());
            let in_time = ticks.limit(Duration::from_hours(1), tokio::time::sleep(TICK));
            assert_eq!(tokio::join!(late, in_time), (Err(Overdue), Ok(())));
        };
        tokio::select! {
            () = clock => unreachable!("the clock never stops"),
            () = limits => (),
        }
        let waits = ticks.waits.borrow();
        assert_eq!(waits.free.len(), waits.slots.len(), "a wait that ended kept its slot");
    }
}
