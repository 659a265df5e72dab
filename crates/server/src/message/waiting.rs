//! Loop `message.deliver_waiting`: messages that are durable, and not in the queue of this process that they belong to.
//! Another process took them in, and did not get to tell so.

use astrfleet_core::{
    Result,
    id::{MessageId, TenantId},
    message::State,
    quota::Kind,
};

use super::Service;
use crate::quota::notices::Seen;

/// Rows read at once.
const BATCH: u32 = 200;

impl Service {
    /// Puts every message that waits into its queue, where that is here. Returns how many were not in it.
    pub(super) async fn deliver_waiting(&self) -> Result<u64> {
        if self.draining.is_cancelled() || self.owners.all().is_empty() {
            return Ok(0);
        }
        let found = self.queue_waiting().await?;
        for tenant in self.queues.tenants() {
            self.pump(&tenant);
        }
        Ok(found)
    }

    async fn queue_waiting(&self) -> Result<u64> {
        let system = self.base.store.system("messages that wait for a bot");
        let (mut after, mut found): (Option<MessageId>, u64) = (None, 0);
        loop {
            let waiting = system.waiting_messages_of(&self.owners.holder.id, after.as_ref(), BATCH).await?;
            for (tenant, session, id) in &waiting {
                if self.queues.holds(tenant, id) || self.owners.held(tenant).is_none() {
                    continue;
                }
                let concurrent = self.concurrent_of(tenant).await;
                found += u64::from(self.queues.put(tenant, session, id, concurrent));
            }
            after = waiting.last().map(|(.., id)| id.clone());
            if waiting.len() < BATCH as usize {
                return Ok(found);
            }
        }
    }

    /// Puts one message into its queue, which is here. Another process took it in.
    pub(super) async fn queue_one(&self, tenant: &TenantId, id: &MessageId) -> Result<()> {
        if self.queues.holds(tenant, id) {
            return Ok(());
        }
        let message = self.base.store.messages(tenant).get(id).await?;
        if message.state == State::Accepted && self.owners.held(tenant).is_some() {
            self.queues.put(tenant, &message.session_id, id, self.concurrent_of(tenant).await);
            self.pump(tenant);
        }
        Ok(())
    }

    /// Tells a tenant where nearly as many chats are under way as may be: further messages wait.
    pub(super) async fn notice_chats(&self, tenant: &TenantId) {
        let Ok(tenant) = self.tenants.resolve(tenant.as_str()).await else { return };
        let Ok(plan) = self.tenants.plan(&tenant) else { return };
        let (amount, used) = (plan.chats(self.base.config.message.concurrent_chats), self.queues.serving(&tenant.id));
        let seen = Seen::now(&tenant.id, Kind::ConcurrentChats, amount, used, self.base.clock.now());
        self.daily.purses().notices().look(seen);
    }

    /// One at a time where the plan cannot be read.
    pub(super) async fn concurrent_of(&self, tenant: &TenantId) -> usize {
        match self.tenants.resolve(tenant.as_str()).await {
            Ok(tenant) => self.tenants.plan(&tenant).map_or(1, |plan| self.concurrent(plan.concurrent_chats)),
            Err(_) => 1,
        }
    }
}
