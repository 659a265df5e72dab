//! How a queue comes to this process and leaves it again. Loops `message.renew_leases` and `message.take_over`.
//!
//! Whoever takes a queue first finds out what was left in it: what was on its way when its owner before ended has its
//! session wait until the bot's own memory has told what became of it (`repair`), and what waited is queued in order.

use std::{collections::HashMap, sync::Arc, time::Duration};

use astrfleet_core::{
    Error, Result,
    id::{MessageId, TenantId},
    message::State,
    ports::{BusEvent, Taken, queue_lease},
};
use futures_util::{StreamExt, stream};
use tokio::time::{Instant, sleep_until, timeout};

use super::{
    Service,
    live::End,
    owners::{Held, Whereabouts},
};
use crate::problem::chain;

/// Rows read at once.
const BATCH: u32 = 200;
/// Queues that are taken over in one run, and beside each other.
const TAKEN_MAX: u32 = 1_000;
const AT_ONCE: usize = 8;
/// A queue in which nothing happened for so long is given back.
const IDLE: Duration = Duration::from_mins(1);
/// How long the leases may take to be given back at the end of the process.
const RELEASE_MAX: Duration = Duration::from_secs(2);

impl Service {
    /// Where the queue of a tenant is; taken, where nobody has it.
    pub(super) async fn whereabouts(&self, tenant: &TenantId) -> Result<Whereabouts> {
        if let Some(known) = self.known_whereabouts(tenant) {
            return Ok(known);
        }
        // A task of its own: whoever asks may hang up in the middle of it.
        let (service, tenant) = (self.clone(), tenant.clone());
        let take = async move {
            let _turn = service.owners.turn(&tenant).await;
            match service.known_whereabouts(&tenant) {
                Some(known) => Ok(known),
                None => service.take(&tenant).await,
            }
        };
        self.base.tasks.spawn(take).await.map_err(Error::internal)?
    }

    fn known_whereabouts(&self, tenant: &TenantId) -> Option<Whereabouts> {
        if let Some(held) = self.owners.held(tenant) {
            return Some(Whereabouts::Here(held));
        }
        if let Some(url) = self.owners.elsewhere(tenant) {
            return Some(Whereabouts::There(url));
        }
        (!self.delivers() || self.draining.is_cancelled()).then_some(Whereabouts::Nowhere)
    }

    async fn take(&self, tenant: &TenantId) -> Result<Whereabouts> {
        let held = {
            let _taking = self.owners.taking.read().await;
            if self.draining.is_cancelled() {
                return Ok(Whereabouts::Nowhere);
            }
            let asked = Instant::now();
            match self.base.store.leases().take(&queue_lease(tenant), &self.owners.holder, self.owners.life).await? {
                Taken::Theirs(lease) => {
                    self.owners.note(tenant, &lease);
                    return Ok(Whereabouts::There(lease.url));
                }
                Taken::Ours(epoch) => {
                    let over = self.draining.child_token();
                    self.owners.hold(tenant, epoch, self.owners.end(asked), over)
                }
            }
        };
        if let Err(error) = self.recover(&held).await {
            self.give_back(&held).await;
            return Err(error);
        }
        if held.set_ready() {
            self.wake_waiting.notify_one();
        }
        tracing::debug!(tenant_id = %tenant, epoch = held.epoch, "a queue was taken");
        self.base.tasks.spawn(self.clone().watch(Arc::clone(&held)));
        self.pump(tenant);
        Ok(Whereabouts::Here(held))
    }

    /// Finds out what was left in a queue.
    async fn recover(&self, held: &Held) -> Result<()> {
        let (tenant, messages) = (&held.tenant, self.base.store.messages(&held.tenant));
        let (mut after, mut left): (Option<MessageId>, bool) = (None, false);
        loop {
            let open = messages.open(after.as_ref(), BATCH).await?;
            let concurrent = if open.is_empty() { 1 } else { self.concurrent_of(tenant).await };
            for (session, id, state) in &open {
                if *state == State::Accepted {
                    self.queues.put(tenant, session, id, concurrent);
                } else {
                    left = true;
                    self.queues.doubt(tenant, session, id);
                }
            }
            after = open.last().map(|(_, id, _)| id.clone());
            if open.len() < BATCH as usize {
                break;
            }
        }
        if left {
            self.wake_repair.notify_one();
        }
        Ok(())
    }

    /// Notices when a lease has run out, so that what is under way ends then.
    async fn watch(self, held: Arc<Held>) {
        loop {
            let until = held.until();
            tokio::select! {
                () = held.over.cancelled() => return,
                () = sleep_until(until) => {}
            }
            if !held.is_in_time() {
                self.lose(&held);
                return;
            }
        }
    }

    /// A queue is another's by now, or may be. Whoever reads a stream of it finds the rest there.
    pub(super) fn lose(&self, held: &Arc<Held>) {
        if self.leave(held) && !self.draining.is_cancelled() {
            tracing::warn!(tenant_id = %held.tenant, epoch = held.epoch, "a queue was lost: its lease was not renewed in time");
            self.wake_take_over.notify_one();
        }
    }

    /// Forgets a queue. Returns whether it was here.
    fn leave(&self, held: &Arc<Held>) -> bool {
        if !self.owners.forget(held) {
            return false;
        }
        for message in self.queues.clear(&held.tenant) {
            self.lives.end(&message, &End::Interrupted);
        }
        true
    }

    /// Gives a queue back. Where the store is not told, its lease runs out.
    async fn give_back(&self, held: &Arc<Held>) {
        if !self.leave(held) {
            return;
        }
        let leases = self.base.store.leases();
        match leases.release(&queue_lease(&held.tenant), &self.owners.holder.id, held.epoch).await {
            Ok(_) => self.base.bus.publish(BusEvent::QueueReleased(held.tenant.clone())),
            Err(error) => tracing::debug!(error = chain(&error), "a lease was not given back: it runs out"),
        }
    }

    /// One statement for all of them. Returns how many were lost.
    pub(super) async fn renew_leases(&self) -> Result<u64> {
        let held = self.owners.all();
        if held.is_empty() {
            return Ok(0);
        }
        drop(held);
        let _alone = self.owners.taking.write().await;
        let (leases, holder, life) = (self.base.store.leases(), &self.owners.holder.id, self.owners.life);
        let asked = Instant::now();
        let renewed = timeout(life / 3, leases.renew(holder, life)).await;
        let renewed = renewed.map_err(|_| Error::unavailable("storage", "the leases were not renewed in time"))??;
        let mut renewed: HashMap<String, i64> = renewed.into_iter().collect();
        let mut lost = 0;
        for held in self.owners.all() {
            match renewed.remove(&queue_lease(&held.tenant)) {
                Some(epoch) if epoch == held.epoch => held.extend(self.owners.end(asked)),
                _ => {
                    lost += 1;
                    self.lose(&held);
                }
            }
        }
        // What this process does not know that it has: the answer to a take was lost.
        for (name, epoch) in renewed {
            leases.release(&name, holder, epoch).await?;
        }
        Ok(lost)
    }

    /// Takes what nobody has and somebody waits for, and gives back what nobody needs. Returns how many were taken.
    pub(super) async fn take_over(&self) -> Result<u64> {
        if self.draining.is_cancelled() {
            return Ok(0);
        }
        for held in self.owners.all() {
            if held.idle() > IDLE && self.queues.is_idle(&held.tenant) {
                self.give_back(&held).await;
            }
        }
        let system = self.base.store.system("queues that nobody has");
        let tenants = system.tenants_without_owner(TAKEN_MAX).await?;
        let found = stream::iter(tenants).map(|tenant| async move {
            // It was another's a moment ago.
            self.owners.forget_elsewhere(&tenant);
            self.whereabouts(&tenant).await
        });
        let outcomes: Vec<_> = found.buffer_unordered(AT_ONCE).collect().await;
        let mut count = 0;
        for outcome in outcomes {
            count += u64::from(matches!(outcome?, Whereabouts::Here(_)));
        }
        Ok(count)
    }

    /// The end of the process: nothing is under way any more, and others may go on at once.
    pub(super) async fn release_all(&self) {
        let release = async {
            let _alone = self.owners.taking.write().await;
            let held = self.owners.all();
            for held in &held {
                self.owners.forget(held);
            }
            self.base.store.leases().release_all(&self.owners.holder.id).await.map(|_| held)
        };
        match timeout(RELEASE_MAX, release).await {
            Ok(Ok(held)) => {
                for held in held {
                    self.base.bus.publish(BusEvent::QueueReleased(held.tenant.clone()));
                }
            }
            Ok(Err(error)) => tracing::warn!(error = chain(&error), "leases were not given back: they run out"),
            Err(_) => tracing::warn!("leases were not given back in time: they run out"),
        }
    }
}
