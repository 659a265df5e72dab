//! Loop `webhook.fan_out`: makes deliveries of events. Several processes may do so at the same time: whoever comes second
//! changes nothing.

use astrfleet_core::{
    Error, Result,
    id::{TenantId, WebhookId},
    ports::NewDelivery,
};

use super::Service;
use crate::problem::chain;

/// Webhooks looked at in one go.
const WEBHOOKS: u32 = 64;
/// Events looked at in one go.
const EVENTS: u32 = 200;

impl Service {
    /// Returns how many webhooks have got something.
    pub(super) async fn fan_out(&self) -> Result<u64> {
        let system = self.base.store.system("events that webhooks have not got yet");
        let mut all = 0;
        while !self.base.stop.is_cancelled() {
            let behind = system.webhooks_behind(self.base.config.webhooks.pending_max, WEBHOOKS).await?;
            let mut some = 0;
            for (tenant, webhook) in &behind {
                match self.catch_up(tenant, webhook).await {
                    Ok(true) => some += 1,
                    Ok(false) | Err(Error::NotFound { .. }) => {}
                    // The others may fare better.
                    Err(error) => {
                        tracing::warn!(tenant_id = %tenant, webhook_id = %webhook, error = chain(&error), "a webhook has not got its events");
                    }
                }
            }
            if some > 0 {
                self.wake_deliver.notify_one();
            }
            all += some;
            if some == 0 {
                break;
            }
        }
        Ok(all)
    }

    /// Whether there was something, and nobody else did it.
    async fn catch_up(&self, tenant: &TenantId, id: &WebhookId) -> Result<bool> {
        let (webhooks, events) = (self.base.store.webhooks(tenant), self.base.store.events(tenant));
        let from = webhooks.seen(id).await?;
        let webhook = webhooks.get(id).await?;
        // Before the page is read: only of what was there before it can the page say that it is not there any more. What
        // comes after that, between the two reads or while another process moves the webhook on, is the next run's.
        let (_, newest) = events.bounds().await?;
        let page = events.brief_after(from, EVENTS).await?;
        let to = match page.last() {
            Some(last) => last.id.seq(),
            // All up to there were deleted before it came so far.
            None => newest,
        };
        if to <= from {
            return Ok(false);
        }
        let deliveries: Vec<NewDelivery> = page
            .into_iter()
            .filter(|event| webhook.wants(&event.kind))
            .map(|event| NewDelivery {
                id: self.base.ids.delivery(),
                event: event.id,
                kind: event.kind,
                session_id: event.session_id,
            })
            .collect();
        webhooks.fan_out(id, from, to, &deliveries, self.now().await?).await
    }
}
