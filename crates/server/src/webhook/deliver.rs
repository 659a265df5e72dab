//! Loop `webhook.deliver`: claims what is due and tries it. Tries run beside the loop, so that a slow receiver holds up
//! nobody but itself; how many do at the same moment is bounded, for all together, for each tenant and for each webhook.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError},
    time::Duration,
};

use astrfleet_core::{
    Error, Result,
    id::{TenantId, WebhookId},
    policy::Action,
    ports::{BusEvent, PassOver, Recorded},
    webhook::{Delivery, Outcome, Tried},
};
use bytes::Bytes;
use secrecy::SecretString;
use serde_json::json;
use tokio::{sync::OwnedSemaphorePermit, time::Instant};

use super::{Service, send::Parcel, sign::signatures, target::Target};
use crate::{auth::SYSTEM, config::seconds, metrics::StateLabel, problem::chain};

/// How much longer than a try a claim lasts: for what comes before it and after it. Whoever stood still for longer than
/// this before they sent does not send.
const CLAIM_MARGIN: Duration = Duration::from_secs(30);

/// The part of all tries that those of one tenant may be, the first one in so many.
const PART_OF_A_TENANT: usize = 4;

/// How many tries run.
#[derive(Default)]
pub(super) struct Busy {
    tenants: HashMap<TenantId, usize>,
    webhooks: HashMap<WebhookId, usize>,
}

/// A try that counts as running until it is dropped.
struct Slot {
    service: Arc<Service>,
    tenant: TenantId,
    webhook: WebhookId,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut busy = self.service.busy.lock().unwrap_or_else(PoisonError::into_inner);
        one_less(&mut busy.tenants, &self.tenant);
        one_less(&mut busy.webhooks, &self.webhook);
    }
}

fn one_less<K: Eq + std::hash::Hash>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

impl Service {
    /// Returns how many tries it began.
    pub(super) async fn deliver(self: Arc<Self>) -> Result<u64> {
        let system = self.base.store.system("deliveries that are due");
        let mut all = 0;
        while !self.base.stop.is_cancelled() && self.slots.available_permits() > 0 {
            let many = u32::try_from(self.slots.available_permits()).unwrap_or(u32::MAX).min(256);
            let due = system.webhooks_due(self.base.time_for_all(&*system).await?, &self.full(), many).await?;
            let mut some = 0;
            for (tenant, webhook) in &due {
                some += self.begin(tenant, webhook).await?;
            }
            all += some;
            if some == 0 {
                break;
            }
        }
        Ok(all)
    }

    /// Begins as many tries of a webhook as may run.
    async fn begin(self: &Arc<Self>, tenant: &TenantId, webhook: &WebhookId) -> Result<u64> {
        let mut slots = self.slots_for(tenant, webhook);
        if slots.is_empty() {
            return Ok(0);
        }
        let life = seconds(self.base.config.webhooks.timeout_s) + CLAIM_MARGIN;
        let limit = u32::try_from(slots.len()).unwrap_or(u32::MAX);
        // The claim lasts at least from here on.
        let begun = Instant::now();
        let claimed = self.base.store.deliveries(tenant, webhook).claim(self.now().await?, life, limit).await?;
        let count = claimed.len() as u64;
        for delivery in claimed {
            let Some(slot) = slots.pop() else { break };
            self.base.tasks.spawn(async move {
                let service = Arc::clone(&slot.service);
                if let Err(error) = service.attempt(&delivery, begun).await {
                    // The claim runs out, and it is tried again.
                    tracing::warn!(
                        tenant_id = %delivery.tenant_id,
                        webhook_id = %delivery.webhook_id,
                        delivery_id = %delivery.id,
                        error = chain(&error),
                        "a delivery was not tried, or what came of it was not noted"
                    );
                }
                drop(slot);
                // The next of its session may go now.
                service.wake_deliver.notify_one();
            });
        }
        Ok(count)
    }

    /// How many tries may run for one tenant and for one webhook.
    fn most(&self) -> (usize, usize) {
        let config = &self.base.config.webhooks;
        ((config.concurrency / PART_OF_A_TENANT).max(1), config.concurrency_per_webhook.max(1))
    }

    /// Those for whom no more tries may run now.
    fn full(&self) -> PassOver {
        let (most_of_tenant, most_of_webhook) = self.most();
        let busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        let tenants = busy.tenants.iter().filter(|(_, count)| **count >= most_of_tenant);
        let webhooks = busy.webhooks.iter().filter(|(_, count)| **count >= most_of_webhook);
        PassOver {
            tenants: tenants.map(|(id, _)| id.clone()).collect(),
            webhooks: webhooks.map(|(id, _)| id.clone()).collect(),
        }
    }

    fn slots_for(self: &Arc<Self>, tenant: &TenantId, webhook: &WebhookId) -> Vec<Slot> {
        let (most_of_tenant, most_of_webhook) = self.most();
        let mut slots = Vec::new();
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        while busy.tenants.get(tenant).is_none_or(|count| *count < most_of_tenant)
            && busy.webhooks.get(webhook).is_none_or(|count| *count < most_of_webhook)
        {
            let Ok(permit) = Arc::clone(&self.slots).try_acquire_owned() else { break };
            *busy.tenants.entry(tenant.clone()).or_default() += 1;
            *busy.webhooks.entry(webhook.clone()).or_default() += 1;
            let (tenant, webhook) = (tenant.clone(), webhook.clone());
            slots.push(Slot { service: Arc::clone(self), tenant, webhook, _permit: permit });
        }
        slots
    }

    /// Tries once.
    async fn attempt(&self, delivery: &Delivery, begun: Instant) -> Result<()> {
        let tried = tokio::select! {
            tried = self.tried(delivery, begun) => tried?,
            () = self.base.stop.cancelled() => None,
        };
        let deliveries = self.base.store.deliveries(&delivery.tenant_id, &delivery.webhook_id);
        let Some(tried) = tried else { return deliveries.release(delivery).await };
        let config = &self.base.config.webhooks;
        let mut random = [0; 4];
        self.base.rng.fill(&mut random);
        let (now, disorder) = (self.now().await?, u32::from_le_bytes(random));
        let recorded = deliveries.record(delivery, &tried, now, disorder, seconds(config.disable_after_s)).await?;
        let outcome = match tried.outcome {
            Outcome::Taken => "taken",
            Outcome::Refused(_) => "refused",
            Outcome::Gone => "gone",
            Outcome::Impossible => "impossible",
        };
        self.base.metrics.webhook_tries.get_or_create(&StateLabel { state: outcome.to_owned() }).inc();
        tracing::debug!(
            tenant_id = %delivery.tenant_id,
            webhook_id = %delivery.webhook_id,
            delivery_id = %delivery.id,
            attempt = delivery.attempts,
            status = tried.status,
            outcome,
            "a delivery was tried"
        );
        if let Recorded::Disabled(reason) = recorded {
            tracing::info!(tenant_id = %delivery.tenant_id, webhook_id = %delivery.webhook_id, ?reason, "webhook_disabled");
            let detail = json!({ "enabled": false, "reason": reason });
            let (tenant, webhook) = (&delivery.tenant_id, delivery.webhook_id.as_str());
            self.auth.audit_as(SYSTEM, Some(tenant), Action::WebhookManage, webhook, detail).await?;
            self.base.bus.publish(BusEvent::TenantChanged(tenant.clone()));
        }
        Ok(())
    }

    /// What came of it. None where it was not tried.
    async fn tried(&self, delivery: &Delivery, begun: Instant) -> Result<Option<Tried>> {
        let tenant = &delivery.tenant_id;
        let webhooks = self.base.store.webhooks(tenant);
        let webhook = match webhooks.get(&delivery.webhook_id).await {
            Ok(webhook) => webhook,
            // Its deliveries are gone with it.
            Err(Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let seq = delivery.event_id.seq();
        let found = self.base.store.events(tenant).after(seq - 1, None, 1).await?;
        let Some(event) = found.first().filter(|event| event.seq() == seq) else {
            return Ok(Some(impossible("the event is not kept any more")));
        };
        let target = match Target::read(&webhook.url, &self.base.config.webhooks) {
            Ok(target) => target,
            Err(Error::Invalid { reason, .. }) => return Ok(Some(refused(format!("the address {reason}")))),
            Err(error) => return Err(error),
        };
        let body = Bytes::from(serde_json::to_vec(event).map_err(Error::internal)?);
        let now = self.now().await?;
        let sealed = webhooks.secrets(&webhook.id).await?;
        let secrets: Vec<SecretString> = match self.secrets(&webhook.id, &sealed, now) {
            Ok(secrets) => secrets,
            Err(error) => {
                tracing::warn!(tenant_id = %tenant, webhook_id = %webhook.id, error = chain(&error), "a webhook cannot sign");
                return Ok(Some(refused("its secret cannot be read any more: rotate it")));
            }
        };
        let id = delivery.event_id.as_str();
        let signatures = signatures(&secrets, id, now.seconds(), &body)?;
        if begun.elapsed() >= CLAIM_MARGIN {
            return Ok(None);
        }
        Ok(Some(self.send(Parcel { target: &target, id, timestamp_s: now.seconds(), signatures, body }).await))
    }
}

fn impossible(reason: &str) -> Tried {
    Tried { outcome: Outcome::Impossible, status: None, body: None, error: Some(reason.to_owned()) }
}

/// It was not taken, for a reason of ours or of the way.
pub(super) fn refused(reason: impl Into<String>) -> Tried {
    Tried { outcome: Outcome::Refused(None), status: None, body: None, error: Some(reason.into()) }
}
