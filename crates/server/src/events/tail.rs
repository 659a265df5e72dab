//! Goes on for one of those who follow: with what their room has, and where that has passed by, with pages of their own, of
//! which the next is read only when one is taken.

use std::{collections::VecDeque, sync::Arc};

use astrfleet_core::{
    event::Event,
    id::{EventId, TenantId},
};
use tokio::sync::OwnedSemaphorePermit;

use super::hub::{AGAIN, Follower, Look, PAGE};
use crate::{app::Base, problem::chain};

/// What whoever follows gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// The next thing that happened.
    Event(Arc<Event>),
    /// Something that happened before what comes next is not there any more. What they know of the tenant is to be read
    /// anew; the place is where it goes on.
    Gap(EventId),
    /// All that had happened when they came was told: the last thing for those who do not want to wait for more. The place
    /// is where they can go on.
    End(EventId),
}

/// One who follows.
pub struct Tail {
    base: Arc<Base>,
    tenant: TenantId,
    follower: Follower,
    /// The last place that was seen.
    seq: i64,
    /// Up to here there is nothing more to be seen.
    looked_to: i64,
    /// The last place that there was when they came.
    newest: i64,
    /// The last place that is wanted; none: whatever happens.
    until: Option<i64>,
    gap: bool,
    /// The first that were read; all but one of them only as far as there is memory for them.
    page: VecDeque<(Event, Option<OwnedSemaphorePermit>)>,
}

impl Tail {
    pub(super) fn new(base: Arc<Base>, tenant: TenantId, follower: Follower, seq: i64, newest: i64, gap: bool) -> Self {
        Self { base, tenant, follower, seq, looked_to: seq, newest, until: None, gap, page: VecDeque::new() }
    }

    /// The same for those who want no more than what was there when they came.
    #[must_use]
    pub fn only_past(self) -> Self {
        Self { until: Some(self.newest), ..self }
    }

    /// Where they are: whoever is cut off goes on from here.
    pub fn place(&self) -> EventId {
        EventId::of(&self.tenant, self.seq)
    }

    /// The next one, as soon as there is one. Nothing is lost when this is given up while it waits, but what it reads just
    /// then is read again.
    pub async fn next(&mut self) -> Heard {
        loop {
            if std::mem::take(&mut self.gap) {
                return Heard::Gap(self.place());
            }
            if self.page.is_empty() && self.until.is_some_and(|until| self.looked_to >= until) {
                return Heard::End(self.place());
            }
            if let Some((event, place)) = self.page.pop_front() {
                if self.is_gap_before(&event) {
                    self.page.push_front((event, place));
                    continue;
                }
                return self.seen(Arc::new(event));
            }
            // Before it is looked: what happens from now on wakes us.
            self.follower.woken.mark_unchanged();
            match self.follower.look(self.looked_to) {
                Look::Next(event) => {
                    if !self.is_gap_before(&event) {
                        return self.seen(event);
                    }
                }
                Look::Nothing(up_to) => {
                    self.looked_to = self.looked_to.max(up_to);
                    if self.follower.woken.changed().await.is_err() {
                        // Nobody wakes us any more.
                        tokio::time::sleep(AGAIN).await;
                    }
                }
                Look::Passed(up_to) => self.read(up_to).await,
            }
        }
    }

    fn seen(&mut self, event: Arc<Event>) -> Heard {
        self.seq = event.seq();
        self.looked_to = self.looked_to.max(self.seq);
        Heard::Event(event)
    }

    /// Notes a gap before this event, if there is one. Of a whole tenant, every place follows the one before; deleted ones
    /// are the oldest, or an erased session's.
    fn is_gap_before(&mut self, event: &Event) -> bool {
        self.gap = self.follower.session().is_none() && event.seq() > self.seq + 1;
        if self.gap {
            self.seq = event.seq() - 1;
        }
        self.gap
    }

    /// Reads a page of its own. Everything up to the place `up_to` is there to be read.
    async fn read(&mut self, up_to: i64) {
        let events = self.base.store.events(&self.tenant);
        match events.after(self.looked_to, self.follower.session(), PAGE).await {
            Ok(page) if page.is_empty() => self.looked_to = self.looked_to.max(up_to),
            Ok(page) => {
                for event in page {
                    let place = self.follower.keeping().keep(&event);
                    if place.is_none() && !self.page.is_empty() {
                        break;
                    }
                    self.page.push_back((event, place));
                }
            }
            Err(error) => {
                tracing::debug!(tenant_id = %self.tenant, error = chain(&error), "events could not be read");
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}
