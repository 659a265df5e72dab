//! A place in a semaphore that is waited for without losing one's turn: whoever is woken by something else, looks, and
//! comes back stands where they stood before.

use std::{future::poll_fn, sync::Arc};

use futures_util::FutureExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::PollSemaphore;

/// Held, waited for, or neither.
pub(super) struct Permit {
    of: Arc<Semaphore>,
    held: Option<OwnedSemaphorePermit>,
    /// Keeps the turn of who waits.
    queued: PollSemaphore,
}

impl Permit {
    /// `held` where somebody took it on our behalf.
    pub(super) fn new(of: &Arc<Semaphore>, held: Option<OwnedSemaphorePermit>) -> Self {
        Self { of: Arc::clone(of), held, queued: PollSemaphore::new(Arc::clone(of)) }
    }

    /// Whether it is held; takes it if it can be had at once. Where it cannot, one waits from here on.
    pub(super) fn take_now(&mut self) -> bool {
        self.take().now_or_never();
        self.held.is_some()
    }

    /// Waits for it. Dropped, the wait goes on with the next call.
    pub(super) async fn take(&mut self) {
        if self.held.is_none() {
            self.held = poll_fn(|context| self.queued.poll_acquire(context)).await;
        }
    }

    /// Gives it back, or waits no more.
    pub(super) fn release(&mut self) {
        self.held = None;
        self.queued = PollSemaphore::new(Arc::clone(&self.of));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::FutureExt;
    use tokio::sync::Semaphore;

    use super::Permit;

    #[tokio::test]
    async fn who_waits_keeps_their_turn_while_they_look_at_something_else() {
        let semaphore = Arc::new(Semaphore::new(1));
        let mut permits = [(); 3].map(|()| Permit::new(&semaphore, None));
        let [holder, first, second] = &mut permits;
        assert!(holder.take_now());
        assert!(!first.take_now());
        assert!(second.take().now_or_never().is_none());
        assert!(first.take().now_or_never().is_none());
        holder.release();
        assert!(!second.take_now(), "the first one waits longer");
        assert!(first.take_now());
        first.release();
        second.take().await;
        assert!(second.take_now());
    }

    #[tokio::test]
    async fn who_waits_no_more_is_in_nobodys_way() {
        let semaphore = Arc::new(Semaphore::new(1));
        let mut permits = [(); 3].map(|()| Permit::new(&semaphore, None));
        let [holder, first, second] = &mut permits;
        assert!(holder.take_now());
        assert!(first.take().now_or_never().is_none());
        first.release();
        holder.release();
        assert!(second.take_now());
    }
}
