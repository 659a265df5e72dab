//! One task for each bot: reads, decides, acts, writes down. Woken by changes and by time; never retries by itself:
//! the next round sees what this one left.

use std::{sync::Arc, time::Duration};

use astrfleet_core::{
    Error, Result,
    id::TenantId,
    instance::{Event, Instance, Observed},
    ports::BotSpec,
    tenant::Tenant,
};
use tokio::sync::{Notify, OwnedSemaphorePermit};

use super::{
    ERASED, Service,
    decide::{Step, decide},
};
use crate::{config::seconds, problem::chain};

/// How often a bot that starts is asked whether it is ready: it is seen within this time.
const READINESS_PERIOD: Duration = Duration::from_millis(50);
/// How often a running bot's process is looked for: cheap, a file of the kernel.
const PROCESS_PERIOD: Duration = Duration::from_secs(1);
/// The wait after a round that failed.
const AFTER_ERROR: Duration = Duration::from_secs(1);

/// What is to happen before the next round.
enum Next {
    /// It begins at once.
    AtOnce,
    /// So much time, or a change.
    After(Duration),
    /// Nothing is left to keep.
    Never,
}

/// Keeps one bot.
pub(super) struct Keeper {
    service: Arc<Service>,
    tenant: TenantId,
    wake: Arc<Notify>,
    /// A place among the bots that may run; held while its process does.
    place: Option<OwnedSemaphorePermit>,
    /// A turn among the bots that may start at the same time; held until it is ready or gone.
    turn: Option<OwnedSemaphorePermit>,
    /// Unanswered questions in a row.
    unanswered: u32,
    asked_at: astrfleet_core::time::Timestamp,
}

impl Keeper {
    pub(super) fn new(service: Arc<Service>, tenant: TenantId, wake: Arc<Notify>) -> Self {
        Self {
            service,
            tenant,
            wake,
            place: None,
            turn: None,
            unanswered: 0,
            asked_at: astrfleet_core::time::Timestamp::default(),
        }
    }

    /// Until the bot is erased, or the process ends.
    pub(super) async fn run(mut self) {
        let stop = self.service.base.stop.clone();
        while !stop.is_cancelled() {
            let round = tokio::select! {
                // What is under way is finished by whoever stops everything: see `stop_all`.
                () = stop.cancelled() => return,
                round = self.round() => round,
            };
            let next = match round {
                Ok(next) => next,
                Err(Error::NotFound { .. }) => Next::Never,
                // Somebody wants something else: look again.
                Err(Error::Stale { .. }) => Next::AtOnce,
                Err(error) => {
                    tracing::warn!(tenant_id = %self.tenant, error = chain(&error), "a bot could not be looked after");
                    Next::After(AFTER_ERROR)
                }
            };
            match next {
                Next::AtOnce => tokio::task::yield_now().await,
                Next::After(wait) => tokio::select! {
                    () = stop.cancelled() => return,
                    () = self.wake.notified() => {}
                    () = tokio::time::sleep(wait) => {}
                },
                Next::Never => break,
            }
        }
        self.service.forget(&self.tenant);
    }

    async fn round(&mut self) -> Result<Next> {
        let base = Arc::clone(&self.service.base);
        let instance = base.store.instances(&self.tenant).get().await?;
        let tenant = self.service.tenants.resolve(self.tenant.as_str()).await?;
        let seen = base.runtime.status(&instance.id).await?;
        let mut disorder = [0; 4];
        base.rng.fill(&mut disorder);
        let now = base.clock.now();
        let step = decide(&instance, &tenant, &seen, now, &base.config.manager, u32::from_le_bytes(disorder));
        match step {
            Step::Start => self.start(instance, &tenant).await,
            Step::Probe => self.probe(instance).await,
            Step::Stop => {
                base.runtime.stop(&instance.id).await?;
                self.ended();
                Ok(Next::AtOnce)
            }
            Step::NoteStopped { reason } => {
                self.note(&instance, Event::Stopped, reason).await?;
                Ok(Next::AtOnce)
            }
            Step::NoteExit { how, give_up } => {
                self.note_exit(&instance, &how, give_up).await?;
                Ok(Next::AtOnce)
            }
            Step::Erase => {
                let deleting = self.note(&instance, Event::ErasureBegan, "").await?;
                base.runtime.erase(&deleting.id).await?;
                self.note(&deleting, Event::ErasureBegan, ERASED).await?;
                Ok(Next::AtOnce)
            }
            Step::Wait(wait) => Ok(Next::After(wait)),
            Step::Rest => {
                self.ended();
                self.service.know(&instance);
                Ok(Next::After(seconds(base.config.manager.liveness_period_s)))
            }
        }
    }

    async fn start(&mut self, instance: Instance, tenant: &Tenant) -> Result<Next> {
        let service = Arc::clone(&self.service);
        let base = &service.base;
        if self.place.is_none() {
            self.place = Arc::clone(&service.places).try_acquire_owned().ok();
        }
        if self.place.is_none() {
            let reason = format!(
                "all {} places for bots are taken: it starts when one is free",
                base.config.manager.max_instances
            );
            if instance.observed != Observed::Pending || instance.reason != reason {
                let waiting = Instance { reason, ..instance };
                service.write(&waiting).await?;
            }
            return Ok(Next::After(seconds(base.config.manager.liveness_period_s)));
        }
        let instance = if instance.observed == Observed::Provisioning {
            instance
        } else {
            self.note(&instance, Event::ProvisioningBegan, "waits for its turn to start").await?
        };
        if self.turn.is_none() {
            let turn = tokio::select! {
                turn = Arc::clone(&service.turns).acquire_owned() => turn,
                // Something changed: it may not be wanted any more.
                () = self.wake.notified() => return Ok(Next::AtOnce),
            };
            self.turn = Some(turn.map_err(|_| Error::internal("the turns are closed"))?);
        }
        let plan = service.tenants.plan(tenant)?;
        // Written down before the process begins: whatever an older process still says is not believed from here on.
        let instance = {
            let mut taken = service.ports.lock().await;
            let port = match instance.port {
                Some(port) if taken.get(&port) == Some(&instance.id) => port,
                _ => base.runtime.free_port(&taken.keys().copied().collect::<Vec<_>>()).await?,
            };
            let renewed = Instance {
                port: Some(port),
                generation: instance.generation + 1,
                version: base.runtime.astrbot_version().to_owned(),
                reason: String::new(),
                ..instance
            };
            let written = service.write(&renewed).await?;
            taken.retain(|_, owner| *owner != written.id);
            taken.insert(port, written.id.clone());
            written
        };
        let port = instance.port.unwrap_or_default();
        let spec = BotSpec {
            instance: instance.id.clone(),
            tenant: instance.tenant_id.clone(),
            tenant_name: tenant.name.clone(),
            generation: instance.generation,
            port,
            llm_base_url: service.llm_base_url()?,
            llm_key: base.secrets.llm_key(&instance.id, instance.secrets_version)?,
            model: base.config.llm.model.clone(),
            jwt_secret: base.secrets.bot_jwt(&instance.id, instance.secrets_version)?,
            failure_text: base.secrets.failure_text()?,
            memory_bytes: plan.bot_memory_bytes,
            cpu_milli: plan.bot_cpu_milli,
        };
        match base.runtime.start(&spec).await {
            Ok(()) => {
                self.note(&instance, Event::ProcessStarted, "").await?;
                Ok(Next::After(READINESS_PERIOD))
            }
            Err(error) => {
                let give_up = instance.restarts + 1 >= base.config.manager.max_restarts;
                self.note_exit(&instance, &format!("it could not be started: {}", chain(&error)), give_up).await?;
                Ok(Next::AtOnce)
            }
        }
    }

    async fn probe(&mut self, instance: Instance) -> Result<Next> {
        let service = Arc::clone(&self.service);
        let base = &service.base;
        let config = &base.config.manager;
        let now = base.clock.now();
        let starts = !matches!(instance.observed, Observed::Running | Observed::Degraded);
        if !starts && now.since(self.asked_at) < seconds(config.liveness_period_s) && self.unanswered == 0 {
            service.know(&instance);
            return Ok(Next::After(PROCESS_PERIOD));
        }
        self.asked_at = now;
        let bot = base.bots.client(&service.access(&instance)?);
        if bot.is_ready().await {
            self.unanswered = 0;
            if instance.observed == Observed::Running {
                if instance.restarts > 0 && now.since(instance.since) > seconds(config.restarts_forgotten_after_s) {
                    service.write(&Instance { restarts: 0, ..instance }).await?;
                } else {
                    service.know(&instance);
                }
            } else {
                if starts {
                    bot.prepare().await?;
                }
                self.turn = None;
                // Found running: it has a place, also where there are more bots than places now.
                if self.place.is_none() {
                    self.place = Arc::clone(&service.places).try_acquire_owned().ok();
                }
                self.note(&instance, Event::BecameReady, "").await?;
            }
            return Ok(Next::After(PROCESS_PERIOD));
        }
        if starts {
            let limit = seconds(config.start_timeout_s);
            if now.since(instance.since) < limit {
                return Ok(Next::After(READINESS_PERIOD));
            }
            base.runtime.stop(&instance.id).await?;
            let how = format!("it was not ready within {} s", limit.as_secs());
            self.note_exit(&instance, &how, instance.restarts + 1 >= config.max_restarts).await?;
            return Ok(Next::AtOnce);
        }
        self.unanswered += 1;
        if self.unanswered >= config.restart_after_failures {
            base.runtime.stop(&instance.id).await?;
            self.note_exit(&instance, "it did not answer", instance.restarts + 1 >= config.max_restarts).await?;
            return Ok(Next::AtOnce);
        }
        if self.unanswered >= config.liveness_failures && instance.observed == Observed::Running {
            self.note(&instance, Event::StoppedAnswering, "it does not answer").await?;
        }
        Ok(Next::After(seconds(config.liveness_period_s)))
    }

    async fn note(&mut self, instance: &Instance, event: Event, reason: &str) -> Result<Instance> {
        self.service.write(&instance.after(event, reason, self.service.base.clock.now())?).await
    }

    async fn note_exit(&mut self, instance: &Instance, how: &str, give_up: bool) -> Result<()> {
        self.ended();
        self.service.base.metrics.restarts.inc();
        let event = if give_up { Event::GivenUp } else { Event::Exited };
        let reason = if give_up {
            format!("given up after {} exits in a row: {how}", instance.restarts + 1)
        } else {
            format!("it will be started again: {how}")
        };
        tracing::warn!(
            tenant_id = %self.tenant,
            instance_id = %instance.id,
            restarts = instance.restarts + 1,
            given_up = give_up,
            "a bot's process ended and nobody asked it to"
        );
        let now = self.service.base.clock.now();
        let ended = Instance { restarts: instance.restarts + 1, ..instance.after(event, reason, now)? };
        // The back-off counts from here, also where it was pending before.
        self.service.write(&Instance { since: now, ..ended }).await?;
        Ok(())
    }

    /// Its process is gone: others may have its place and its turn.
    fn ended(&mut self) {
        self.place = None;
        self.turn = None;
        self.unanswered = 0;
    }
}
