//! The beginning and the end of a run of the platform: bots that an earlier run left are taken over, and all are
//! stopped at the end. Here and in the keepers alone is a bot's process begun or ended.

use std::{collections::HashMap, time::Duration};

use astrfleet_core::{
    Error, Result,
    id::{InstanceId, TenantId},
    instance::{Desired, Event, Instance, Observed},
    ports::FoundBot,
};
use futures_util::{StreamExt, TryStreamExt, future::join_all, stream};

use super::Service;
use crate::{problem::chain, stale::again_while_stale};

/// Bots that are stopped at the same time, where an earlier run left some that are not wanted so.
const STOPS_AT_ONCE: usize = 16;

impl Service {
    /// Finds the bots that an earlier run of the platform left running: those that are wanted are kept, as far as there
    /// are places for them, all others stopped. Called once, before anything is started. Returns how many were kept.
    ///
    /// # Errors
    /// What the store or the runtime says.
    pub async fn adopt(&self) -> Result<usize> {
        let mut found: HashMap<InstanceId, FoundBot> =
            self.base.runtime.find().await?.into_iter().map(|bot| (bot.instance.clone(), bot)).collect();
        let kept = stream::iter(self.all_instances().await?)
            .map(|instance| {
                let running = found.remove(&instance.id);
                self.know(&instance);
                self.take_over(instance, running)
            })
            .buffer_unordered(STOPS_AT_ONCE)
            .try_fold(0, async |kept, runs_on| Ok(kept + usize::from(runs_on)))
            .await?;
        // Bots of which nothing is stored any more.
        for stray in found.into_keys() {
            tracing::warn!(instance_id = %stray, "a bot runs that belongs to nobody: it is stopped");
            if let Err(error) = self.base.runtime.stop(&stray).await {
                tracing::error!(instance_id = %stray, error = chain(&error), "a bot that belongs to nobody could not be stopped");
            }
        }
        Ok(kept)
    }

    /// Returns whether it runs on.
    async fn take_over(&self, instance: Instance, running: Option<FoundBot>) -> Result<bool> {
        let now = self.base.clock.now();
        let kept = match &running {
            Some(bot) if self.may_run_on(&instance, bot).await? => Some(bot),
            _ => None,
        };
        if let Some(bot) = kept {
            // Places are for what runs: without one, it waits for one.
            if let Ok(place) = self.places.clone().try_acquire_owned() {
                let kept = Instance { port: Some(bot.port), ..instance };
                let kept = match kept.observed {
                    Observed::Pending | Observed::Provisioning => kept.after(Event::ProcessStarted, "", now)?,
                    // It has the whole time to become ready, from here on.
                    Observed::Starting | Observed::Waking => Instance { since: now, ..kept },
                    _ => kept,
                };
                self.write_if_changed(&kept).await?;
                if let Some(known) = self.known_mut().get_mut(&kept.tenant_id) {
                    known.place = Some(place);
                }
                return Ok(true);
            }
        }
        let id = instance.id.clone();
        let ended = match instance.observed {
            observed if has_process(observed) => {
                instance.after(Event::Exited, "the platform was started again", now)?
            }
            _ => instance,
        };
        let ended = Instance { port: None, ..ended };
        self.write_if_changed(&ended).await?;
        if running.is_some() {
            self.finish_answers(&ended).await?;
            if let Err(error) = self.base.runtime.stop(&id).await {
                // Its keeper tries again, and starts no other one beside it.
                tracing::error!(instance_id = %id, error = chain(&error), "a bot that is not wanted could not be stopped");
            }
        }
        Ok(false)
    }

    /// It is wanted, and was started as it would be now: with the same limits, keys and addresses.
    async fn may_run_on(&self, instance: &Instance, bot: &FoundBot) -> Result<bool> {
        let is_wanted = instance.desired == Desired::Running
            && bot.generation == instance.generation
            && (instance.observed == Observed::Pending || has_process(instance.observed));
        if !is_wanted {
            return Ok(false);
        }
        let tenant = self.tenants.resolve(instance.tenant_id.as_str()).await?;
        let same = self.spec(instance, &tenant, bot.port)?.terms == bot.terms;
        if !same {
            tracing::info!(instance_id = %instance.id, "a bot runs with settings that have changed: it is started again");
        }
        Ok(same)
    }

    async fn write_if_changed(&self, instance: &Instance) -> Result<()> {
        let same = self.known().get(&instance.tenant_id).is_some_and(|known| known.instance == *instance);
        if same {
            return Ok(());
        }
        match self.write(instance).await {
            // Somebody wants something else of it already: its keeper sees to it.
            Ok(_) | Err(Error::Stale { .. } | Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Stops all bots, for the end of the process: they are wanted as before, and the next start starts them again.
    /// To be called after `stop` was set, which ends the keepers.
    pub async fn stop_all(&self, limit: Duration) {
        let everything = async {
            self.keepers_ended().await;
            let tenants: Vec<TenantId> = self.known().keys().cloned().collect();
            join_all(tenants.into_iter().map(|tenant| self.stop_in_order(tenant))).await;
        };
        if tokio::time::timeout(limit, everything).await.is_err() {
            tracing::warn!("not all bots were stopped in time: the next start finds them");
        }
    }

    /// Waits until nobody starts or stops anything any more: bots are left as they are. After `stop` was set.
    pub async fn keepers_ended(&self) {
        self.keepers.close();
        self.keepers.wait().await;
    }

    async fn stop_in_order(&self, tenant: TenantId) {
        match again_while_stale(|| self.stop_for_the_end(&tenant)).await {
            Ok(()) | Err(Error::NotFound { .. }) => {}
            Err(error) => {
                tracing::warn!(tenant_id = %tenant, error = chain(&error), "a bot could not be stopped in order");
            }
        }
    }

    async fn stop_for_the_end(&self, tenant: &TenantId) -> Result<()> {
        let instance = self.base.store.instances(tenant).get().await?;
        self.base.runtime.stop(&instance.id).await?;
        if !has_process(instance.observed) {
            return Ok(());
        }
        let ended = instance.after(Event::Exited, "the platform was stopped", self.base.clock.now())?;
        self.write(&Instance { port: None, ..ended }).await.map(|_| ())
    }
}

/// Whether a process of it may run.
fn has_process(observed: Observed) -> bool {
    match observed {
        Observed::Provisioning | Observed::Starting | Observed::Running | Observed::Degraded | Observed::Waking => true,
        Observed::Pending
        | Observed::Hibernated
        | Observed::Updating
        | Observed::Restoring
        | Observed::Suspended
        | Observed::Failed
        | Observed::Deleting => false,
    }
}
