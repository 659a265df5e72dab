//! One task for each bot: reads, decides, acts, writes down. Woken by changes and by time; never retries by itself:
//! the next round sees what this one left. A round that has begun is never dropped between an act and its note; only
//! what it waits for is.

use std::{sync::Arc, time::Duration};

use astrfleet_core::{
    Error, Result,
    id::{InstanceId, TenantId},
    instance::{Event, Instance, Observed},
    ports::{BotClient, BotStatus},
    tenant::Tenant,
    time::Timestamp,
};
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio_util::sync::CancellationToken;

use super::{
    ERASED, Service,
    decide::{Step, decide},
    permit::Permit,
};
use crate::{config::seconds, problem::chain};

/// How often a bot that starts is asked whether it is ready: it is seen within this time.
const READINESS_PERIOD: Duration = Duration::from_millis(50);
/// Questions in a row to a bot that starts, before the store is looked at again.
const QUESTIONS_A_ROUND: u32 = 20;
/// How often a running bot's process is looked for: cheap, from memory or a file of the kernel.
const PROCESS_PERIOD: Duration = Duration::from_secs(1);
/// The wait after a round that failed.
const AFTER_ERROR: Duration = Duration::from_secs(1);

/// What is to happen before the next round.
enum Next {
    /// It begins at once.
    AtOnce,
    /// So much time, or a change.
    After(Duration),
    /// The time between two questions to a running bot, a change, or the end of this process.
    Watch(InstanceId, i64),
    /// Nothing is left to keep.
    Never,
}

/// Keeps one bot.
pub(super) struct Keeper {
    service: Arc<Service>,
    tenant: TenantId,
    wake: Arc<Notify>,
    /// A place among the bots that may run; held while its process does.
    place: Permit,
    /// A turn among the bots that may start at the same time; held until it is ready or gone.
    turn: Permit,
    /// Unanswered questions in a row.
    unanswered: u32,
    asked_at: Timestamp,
    /// The start whose process we stopped ourselves: its end is no accident.
    stopped: Option<i64>,
}

impl Keeper {
    /// `place` is that of a bot that was found running.
    pub(super) fn new(
        service: Arc<Service>,
        tenant: TenantId,
        wake: Arc<Notify>,
        place: Option<OwnedSemaphorePermit>,
    ) -> Self {
        Self {
            place: Permit::new(&service.places, place),
            turn: Permit::new(&service.turns, None),
            service,
            tenant,
            wake,
            unanswered: 0,
            asked_at: Timestamp::default(),
            stopped: None,
        }
    }

    /// Until the bot is erased, or the process ends.
    pub(super) async fn run(mut self) {
        let _kept = Kept { service: Arc::clone(&self.service), tenant: self.tenant.clone() };
        while !self.service.base.stop.is_cancelled() && self.service.keeps_bots() {
            let next = match self.round().await {
                Ok(next) => next,
                Err(Error::NotFound { .. }) => Next::Never,
                // Somebody wants something else: look again.
                Err(Error::Stale { .. }) => Next::AtOnce,
                Err(error) => {
                    tracing::warn!(tenant_id = %self.tenant, error = chain(&error), "a bot could not be looked after");
                    // Others are not to wait for what fails here.
                    self.turn.release();
                    Next::After(AFTER_ERROR)
                }
            };
            match next {
                Next::AtOnce => tokio::task::yield_now().await,
                Next::After(wait) => {
                    self.interrupted(tokio::time::sleep(wait)).await;
                }
                Next::Watch(instance, generation) => self.watch(&instance, generation).await,
                Next::Never => {
                    self.service.forget(&self.tenant);
                    return;
                }
            }
        }
    }

    async fn round(&mut self) -> Result<Next> {
        let base = Arc::clone(&self.service.base);
        let instance = base.store.instances(&self.tenant).get().await?;
        self.service.know(&instance);
        let tenant = self.service.tenants.resolve(self.tenant.as_str()).await?;
        let seen = base.runtime.status(&instance.id).await?;
        let mut disorder = [0; 4];
        base.rng.fill(&mut disorder);
        let now = base.clock.now();
        let step = decide(&instance, &tenant, &seen, now, &base.config.manager, u32::from_le_bytes(disorder));
        match step {
            Step::Start => self.start(instance, &tenant).await,
            Step::NoteStarted => {
                self.note(&instance, Event::ProcessStarted, "").await?;
                Ok(Next::AtOnce)
            }
            Step::Probe => self.probe(instance).await,
            Step::Stop => {
                let finish = self.service.finish_answers(&instance);
                if unless_stopped(&base.stop, finish).await.transpose()?.is_none() {
                    return Ok(Next::AtOnce);
                }
                self.service.must_keep_bots()?;
                base.runtime.stop(&instance.id).await?;
                self.stopped = Some(instance.generation);
                self.turn.release();
                Ok(Next::AtOnce)
            }
            Step::NoteStopped { reason } => {
                self.ended();
                self.note(&Instance { port: None, ..instance }, Event::Stopped, reason).await?;
                Ok(Next::AtOnce)
            }
            Step::NoteExit { .. } if self.stopped == Some(instance.generation) => {
                self.note(&Instance { port: None, ..instance }, Event::Exited, "").await?;
                Ok(Next::AtOnce)
            }
            Step::NoteExit { how, give_up } => {
                self.note_exit(&instance, &how, give_up).await?;
                Ok(Next::AtOnce)
            }
            Step::NoteWanted => {
                self.note(&Instance { restarts: 0, ..instance }, Event::TryAgain, "").await?;
                Ok(Next::AtOnce)
            }
            Step::Erase => {
                self.ended();
                let deleting = self.note(&Instance { port: None, ..instance }, Event::ErasureBegan, "").await?;
                base.runtime.erase(&deleting.id).await?;
                self.note(&deleting, Event::ErasureBegan, ERASED).await?;
                Ok(Next::AtOnce)
            }
            Step::Wait(wait) => {
                self.turn.release();
                Ok(Next::After(wait))
            }
            Step::Rest => {
                self.ended();
                Ok(Next::After(seconds(base.config.manager.liveness_period_s)))
            }
        }
    }

    async fn start(&mut self, instance: Instance, tenant: &Tenant) -> Result<Next> {
        let service = Arc::clone(&self.service);
        let base = &service.base;
        if !self.place.take_now() {
            let places = base.config.manager.max_instances;
            let reason = format!("all {places} places for bots are taken: it starts when one is free");
            if instance.reason != reason {
                service.write(&Instance { reason, ..instance }).await?;
            }
            let (stop, wake) = (base.stop.clone(), Arc::clone(&self.wake));
            until(&stop, &wake, self.place.take()).await;
            return Ok(Next::AtOnce);
        }
        let begins = matches!(instance.observed, Observed::Pending | Observed::Hibernated);
        if !self.turn.take_now() {
            if begins {
                self.note(&instance, Event::ProvisioningBegan, "it waits for its turn to start").await?;
            }
            let (stop, wake) = (base.stop.clone(), Arc::clone(&self.wake));
            until(&stop, &wake, self.turn.take()).await;
            return Ok(Next::AtOnce);
        }
        let instance = if begins { self.note(&instance, Event::ProvisioningBegan, "").await? } else { instance };
        let (instance, port) = service.renew(instance).await?;
        let spec = service.spec(&instance, tenant, port)?;
        service.must_keep_bots()?;
        if let Err(error) = base.runtime.start(&spec).await {
            let give_up = instance.restarts.saturating_add(1) >= base.config.manager.max_restarts;
            self.note_exit(&instance, &format!("it could not be started: {}", chain(&error)), give_up).await?;
            return Ok(Next::AtOnce);
        }
        self.unanswered = 0;
        self.note(&instance, Event::ProcessStarted, "").await?;
        Ok(Next::AtOnce)
    }

    async fn probe(&mut self, instance: Instance) -> Result<Next> {
        let service = Arc::clone(&self.service);
        let base = &service.base;
        let config = &base.config.manager;
        // Taken over, or begun by a round that was interrupted. What runs has a place.
        self.place.take_now();
        let bot = base.bots.client(&service.access(&instance)?);
        if !matches!(instance.observed, Observed::Running | Observed::Degraded) {
            return self.await_readiness(instance, &*bot).await;
        }
        self.turn.release();
        let now = base.clock.now();
        let period = seconds(config.liveness_period_s);
        if now.since(self.asked_at) < period {
            return Ok(Next::Watch(instance.id, instance.generation));
        }
        self.asked_at = now;
        let Some(ready) = unless_stopped(&base.stop, bot.is_ready()).await else { return Ok(Next::AtOnce) };
        let watch = Next::Watch(instance.id.clone(), instance.generation);
        if ready {
            self.unanswered = 0;
            if instance.observed == Observed::Degraded {
                self.note(&instance, Event::BecameReady, "").await?;
            } else if instance.restarts > 0 && now.since(instance.since) > seconds(config.restarts_forgotten_after_s) {
                service.write(&Instance { restarts: 0, ..instance }).await?;
            }
            return Ok(watch);
        }
        self.unanswered += 1;
        if self.unanswered >= config.restart_after_failures {
            service.must_keep_bots()?;
            base.runtime.stop(&instance.id).await?;
            self.note_exit(&instance, "it did not answer", instance.restarts.saturating_add(1) >= config.max_restarts)
                .await?;
            return Ok(Next::AtOnce);
        }
        if self.unanswered >= config.liveness_failures && instance.observed == Observed::Running {
            self.note(&instance, Event::StoppedAnswering, "it does not answer").await?;
        }
        Ok(watch)
    }

    /// Of a bot that starts: until it is ready, gone, or too late, or a few questions were asked.
    async fn await_readiness(&mut self, instance: Instance, bot: &dyn BotClient) -> Result<Next> {
        let service = Arc::clone(&self.service);
        let base = &service.base;
        let mut trouble = String::new();
        for _ in 0..QUESTIONS_A_ROUND {
            let Some(ready) = unless_stopped(&base.stop, bot.is_ready()).await else { return Ok(Next::AtOnce) };
            if ready {
                match unless_stopped(&base.stop, bot.prepare()).await {
                    None => return Ok(Next::AtOnce),
                    Some(Ok(())) => {
                        self.turn.release();
                        (self.unanswered, self.asked_at) = (0, base.clock.now());
                        self.note(&instance, Event::BecameReady, "").await?;
                        return Ok(Next::Watch(instance.id, instance.generation));
                    }
                    Some(Err(error)) => trouble = format!(": {}", chain(&error)),
                }
            }
            let limit = seconds(base.config.manager.start_timeout_s);
            if base.clock.now().since(instance.since) >= limit {
                service.must_keep_bots()?;
                base.runtime.stop(&instance.id).await?;
                let how = format!("it was not ready within {} s{trouble}", limit.as_secs());
                let give_up = instance.restarts.saturating_add(1) >= base.config.manager.max_restarts;
                self.note_exit(&instance, &how, give_up).await?;
                return Ok(Next::AtOnce);
            }
            let wait = if trouble.is_empty() { READINESS_PERIOD } else { AFTER_ERROR };
            if self.interrupted(tokio::time::sleep(wait)).await || !self.runs(&instance.id, instance.generation).await {
                return Ok(Next::AtOnce);
            }
        }
        if !trouble.is_empty() {
            tracing::warn!(tenant_id = %self.tenant, instance_id = %instance.id, error = trouble, "a bot answers and cannot be prepared");
        }
        Ok(Next::AtOnce)
    }

    /// Waits as long as a running bot needs no question.
    async fn watch(&self, instance: &InstanceId, generation: i64) {
        for _ in 0..self.service.base.config.manager.liveness_period_s.max(1) {
            if self.interrupted(tokio::time::sleep(PROCESS_PERIOD)).await || !self.runs(instance, generation).await {
                return;
            }
        }
    }

    async fn runs(&self, instance: &InstanceId, generation: i64) -> bool {
        let seen = self.service.base.runtime.status(instance).await;
        matches!(seen, Ok(BotStatus::Running { generation: found, .. }) if found == generation)
    }

    /// Waits for `wait`; true where something changed before.
    async fn interrupted(&self, wait: impl Future) -> bool {
        until(&self.service.base.stop, &self.wake, wait).await
    }

    async fn note(&self, instance: &Instance, event: Event, reason: &str) -> Result<Instance> {
        self.service.write(&instance.after(event, reason, self.service.base.clock.now())?).await
    }

    async fn note_exit(&mut self, instance: &Instance, how: &str, give_up: bool) -> Result<()> {
        self.ended();
        let restarts = instance.restarts.saturating_add(1);
        let event = if give_up { Event::GivenUp } else { Event::Exited };
        let reason = if give_up {
            format!("given up after {restarts} exits in a row: {how}")
        } else {
            format!("it will be started again: {how}")
        };
        let now = self.service.base.clock.now();
        let ended = instance.after(event, reason, now)?;
        // The back-off counts from here, also where it was pending before.
        self.service.write(&Instance { restarts, port: None, since: now, ..ended }).await?;
        self.service.base.metrics.restarts.inc();
        tracing::warn!(
            tenant_id = %self.tenant,
            instance_id = %instance.id,
            restarts,
            given_up = give_up,
            "a bot's process ended and nobody asked it to"
        );
        Ok(())
    }

    /// Its process is gone: others may have its place and its turn.
    fn ended(&mut self) {
        self.place.release();
        self.turn.release();
        self.unanswered = 0;
    }
}

/// Waits for `wait`; true where a change or the end of this process came before.
async fn until(stop: &CancellationToken, wake: &Notify, wait: impl Future) -> bool {
    tokio::select! {
        () = stop.cancelled() => true,
        () = wake.notified() => true,
        _ = wait => false,
    }
}

/// What `work` brings; nothing where the end of this process came before.
async fn unless_stopped<T>(stop: &CancellationToken, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        () = stop.cancelled() => None,
        done = work => Some(done),
    }
}

/// However a keeper ends, its bot gets another one, here or where the bots are kept then.
struct Kept {
    service: Arc<Service>,
    tenant: TenantId,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.service.unkept(&self.tenant);
    }
}
