//! Loop `message.deliver_waiting`: messages that are durable and in no queue of this process. And what comes before
//! anything is delivered: finding out what an earlier process left behind.

use astrfleet_core::{
    Result,
    id::{MessageId, TenantId},
};

use super::Service;

/// Rows read at once.
const BATCH: u32 = 200;

impl Service {
    /// Puts every message that waits into its queue. Returns how many were not in one.
    pub(super) async fn deliver_waiting(&self) -> Result<u64> {
        if self.draining.is_cancelled() {
            return Ok(0);
        }
        self.recover().await?;
        let found = self.queue_waiting().await?;
        for tenant in self.queues.tenants() {
            self.pump(&tenant);
        }
        Ok(found)
    }

    /// Once: sessions in which an earlier process left a message on its way wait until it is known what became of it.
    /// Then what waited at its end is queued, so that nothing that comes later is delivered earlier.
    pub(super) async fn recover(&self) -> Result<()> {
        let recover = async {
            let system =
                self.base.store.system("messages that were on their way when the process before this one ended");
            let now = self.base.clock.now();
            let mut after: Option<MessageId> = None;
            loop {
                // What was interrupted holds nothing up.
                let left = system.unfinished_messages(now, after.as_ref(), BATCH).await?;
                for (tenant, id) in &left {
                    let message = self.base.store.messages(tenant).get(id).await?;
                    self.queues.doubt(tenant, &message.session_id, id);
                }
                after = left.last().map(|(_, id)| id.clone());
                if left.len() < BATCH as usize {
                    break;
                }
            }
            self.queue_waiting().await?;
            self.wake_repair.notify_one();
            Ok(())
        };
        self.recovered.get_or_try_init(|| recover).await.copied()
    }

    async fn queue_waiting(&self) -> Result<u64> {
        let system = self.base.store.system("messages that wait for a bot");
        let (mut after, mut found): (Option<MessageId>, u64) = (None, 0);
        loop {
            let waiting = system.waiting_messages(after.as_ref(), BATCH).await?;
            for (tenant, session, id) in &waiting {
                if self.queues.holds(tenant, id) {
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

    /// One at a time where the plan cannot be read.
    pub(super) async fn concurrent_of(&self, tenant: &TenantId) -> usize {
        match self.tenants.resolve(tenant.as_str()).await {
            Ok(tenant) => self.tenants.plan(&tenant).map_or(1, |plan| self.concurrent(plan.concurrent_chats)),
            Err(_) => 1,
        }
    }
}
