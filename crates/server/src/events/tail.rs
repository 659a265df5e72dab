//! Reads on for one of those who follow: one page at a time, and the next one only when that is taken.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use astrfleet_core::{
    event::Event,
    id::{EventId, SessionId, TenantId},
};
use tokio::sync::watch;

use crate::{app::Base, problem::chain};

/// Events read at once: with the longest texts, some 2 MiB.
const PAGE: u32 = 32;
/// The wait after the store did not answer.
const AGAIN: Duration = Duration::from_secs(1);

/// What whoever follows gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// The next thing that happened.
    Event(Box<Event>),
    /// Something that happened before what comes next is not there any more. What they know of the tenant is to be read
    /// anew; the place is where it goes on.
    Gap(EventId),
}

/// One who follows.
pub struct Tail {
    base: Arc<Base>,
    tenant: TenantId,
    session: Option<SessionId>,
    /// The last place that was seen.
    seq: i64,
    gap: bool,
    page: VecDeque<Event>,
    woken: watch::Receiver<()>,
}

impl Tail {
    pub(super) fn new(
        base: Arc<Base>,
        tenant: TenantId,
        session: Option<SessionId>,
        seq: i64,
        gap: bool,
        woken: watch::Receiver<()>,
    ) -> Self {
        Self { base, tenant, session, seq, gap, page: VecDeque::new(), woken }
    }

    /// The next one, as soon as there is one. Nothing is lost when this is given up while it waits.
    pub async fn next(&mut self) -> Heard {
        loop {
            if std::mem::take(&mut self.gap) {
                return Heard::Gap(EventId::of(&self.tenant, self.seq));
            }
            if let Some(event) = self.page.pop_front() {
                let expected = self.seq + 1;
                // Without a session, every place follows the one before. Deleted ones are the oldest, or an erased
                // session's.
                if self.session.is_none() && event.seq() > expected {
                    self.seq = event.seq() - 1;
                    self.page.push_front(event);
                    self.gap = true;
                    continue;
                }
                self.seq = event.seq();
                return Heard::Event(Box::new(event));
            }
            // Before it is looked: what happens from now on wakes us.
            self.woken.mark_unchanged();
            match self.base.store.events(&self.tenant).after(self.seq, self.session.as_ref(), PAGE).await {
                Ok(page) if page.is_empty() => {
                    if self.woken.changed().await.is_err() {
                        // Nobody wakes us any more.
                        tokio::time::sleep(AGAIN).await;
                    }
                }
                Ok(page) => self.page = page.into(),
                Err(error) => {
                    tracing::debug!(tenant_id = %self.tenant, error = chain(&error), "events could not be read");
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
    }
}
