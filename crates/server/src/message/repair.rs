//! Loop `message.repair`: what was on its way, or was cut off, and nobody works on. The bot's own memory tells what became
//! of it: it goes on running when our connection breaks, so an answer may be found there later.
//!
//! What has begun is never delivered again.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use astrfleet_core::{
    Result,
    id::MessageId,
    message::{Event, Message, State, next},
    ports::{BotClient, BotStatus, Delivery},
};

use tokio::time::Instant;

use super::{
    Service,
    answer::{Finding, Sought, find},
    deliver::model_failed,
    ending::Whole,
    owners::{Held, Whereabouts},
};
use crate::{config::seconds, manager::Route, problem::chain};

/// Rows read at once.
const BATCH: u32 = 100;
/// How long an interrupted message is looked for in the bot's memory, at least.
const WINDOW_MIN: Duration = Duration::from_hours(1);
/// How long a request that broke off may still be on its way inside the bot.
const SETTLE: Duration = Duration::from_secs(3);

/// What is known of earlier runs.
#[derive(Default)]
pub(super) struct Repairs {
    seen: Mutex<HashMap<MessageId, Seen>>,
}

/// A message that was looked at before. How long ago that was is asked of the monotonic clock: the moments in the store
/// are those of another process, whose clock may be another one.
#[derive(Clone, Copy)]
struct Seen {
    since: Instant,
    /// It was interrupted, and nothing more is to be expected.
    hopeless: bool,
}

impl Service {
    /// Looks at everything that nobody works on. Returns how many came to an end, or back into their queue.
    pub(super) async fn repair(&self) -> Result<u64> {
        if self.draining.is_cancelled() {
            return Ok(0);
        }
        let doubtful = self.queues.doubtful();
        let window = seconds(self.base.config.message.answer_timeout_s).saturating_mul(2).max(WINDOW_MIN);
        let system = self.base.store.system("messages that were cut off on their way");
        let since = self.base.time_for_all(&*system).await?.minus(window);
        let (mut after, mut seen, mut repaired): (Option<MessageId>, HashSet<MessageId>, u64) =
            (None, HashSet::new(), 0);
        loop {
            let unfinished = system.unfinished_messages(since, after.as_ref(), BATCH).await?;
            for (tenant, id) in &unfinished {
                seen.insert(id.clone());
                if self.draining.is_cancelled() {
                    return Ok(repaired);
                }
                let nothing_to_find = matches!(self.manager.route(tenant), Route::NotReady { .. });
                if nothing_to_find || self.queues.serves(tenant, id) || self.seen(id).hopeless {
                    continue;
                }
                // Elsewhere somebody else does this.
                let Ok(Whereabouts::Here(held)) = self.whereabouts(tenant).await else { continue };
                match self.examine(&held, id).await {
                    Ok(changed) => repaired += u64::from(changed),
                    // The others may fare better.
                    Err(error) => tracing::debug!(message_id = %id, error = chain(&error), "not repaired yet"),
                }
            }
            after = unfinished.last().map(|(_, id)| id.clone());
            if unfinished.len() < BATCH as usize {
                break;
            }
        }
        self.lock_seen().retain(|id, _| seen.contains(id));
        // What is doubtful and not among them is at an end, or waits again.
        for (tenant, id) in doubtful.into_iter().filter(|(_, id)| !seen.contains(id)) {
            self.queues.settle(&tenant, &id);
            self.wake_waiting.notify_one();
        }
        for tenant in self.queues.tenants() {
            self.pump(&tenant);
        }
        Ok(repaired)
    }

    fn lock_seen(&self) -> MutexGuard<'_, HashMap<MessageId, Seen>> {
        self.repairs.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn seen(&self, id: &MessageId) -> Seen {
        *self.lock_seen().entry(id.clone()).or_insert_with(|| Seen { since: Instant::now(), hopeless: false })
    }

    /// What the bot's own memory tells of a message.
    pub(super) async fn look(&self, client: &dyn BotClient, delivery: &Delivery) -> Result<Finding> {
        let message = &delivery.message;
        let earlier =
            self.base.store.messages(&message.tenant_id).last_bot_record(&message.session_id, &message.id).await?;
        let history = client.history(&delivery.end_user, message.session_id.as_str()).await?;
        let failure_text = self.base.secrets.failure_text()?;
        let sought = Sought {
            known: delivery.bot_record,
            earlier,
            text: &message.text,
            with_files: !message.attachments.is_empty(),
        };
        Ok(find(&history, sought, &failure_text))
    }

    async fn examine(&self, held: &Held, id: &MessageId) -> Result<bool> {
        let tenant = &held.tenant;
        let Route::Ready { access, .. } = self.manager.route(tenant) else { return Ok(false) };
        let delivery = self.base.store.messages(tenant).delivery(id).await?;
        let message = &delivery.message;
        if let Some(ended) = self.overtaken(held, &delivery).await? {
            // What its bot remembers of it is of no use any more.
            self.queues.settle(tenant, id);
            self.pump(tenant);
            return Ok(ended);
        }
        // The process that had it may be another one by now: then nothing is running any more. The release before did not
        // note which one it was: then it counts as the one that runs.
        let another = match self.manager.process(tenant, &access.instance).await? {
            BotStatus::Running { generation, .. } => delivery.start.is_some_and(|start| start != generation),
            BotStatus::Absent | BotStatus::Exited { .. } => return Ok(false),
        };
        let waited = self.seen(id).since.elapsed();
        let finding = self.look(&*self.base.bots.client(&access), &delivery).await?;
        if finding == Finding::NotReceived && !another && waited < SETTLE {
            return Ok(false);
        }
        let gone = another || waited >= seconds(self.base.config.message.answer_timeout_s);
        let again = self.judge(held, message, &delivery.partial, finding, gone).await?;
        if again {
            self.queues.settle(tenant, id);
            self.queues.put(tenant, &message.session_id, id, self.concurrent_of(tenant).await);
            self.pump(tenant);
        }
        let now = self.base.store.messages(tenant).get(id).await?;
        if now.state.is_final() {
            self.queues.settle(tenant, id);
            self.pump(tenant);
        }
        if gone && now.state == State::Interrupted {
            self.lock_seen().entry(id.clone()).and_modify(|seen| seen.hopeless = true);
        }
        Ok(now.state != message.state)
    }

    /// Does what follows from what was found; `gone` tells that no more is to be expected. Returns whether the message is
    /// to be delivered again.
    pub(super) async fn judge(
        &self,
        held: &Held,
        message: &Message,
        partial: &str,
        finding: Finding,
        gone: bool,
    ) -> Result<bool> {
        let messages = self.messages(held);
        let state = messages.get(&message.id).await?.state;
        let interrupted = state == State::Interrupted;
        match finding {
            Finding::Answered { failed: true, record, .. } => {
                messages.set_bot_record(&message.id, record).await?;
                if !interrupted {
                    self.failed(held, message, model_failed()).await?;
                }
            }
            Finding::Answered { record, answer, text, usage, .. } => {
                messages.set_bot_record(&message.id, record).await?;
                let whole = Whole { text, files: Vec::new(), usage, record: Some(answer) };
                if self.answered(held, message, whole).await? {
                    tracing::info!(message_id = %message.id, "an answer was found in the bot's own memory");
                    // The stream that ended without it is worth nothing any more.
                    self.lives.forget_interrupted(&message.id);
                }
            }
            Finding::Unanswered { record } => {
                messages.set_bot_record(&message.id, record).await?;
                if gone && !interrupted {
                    self.cut_off(held, message, partial).await?;
                }
            }
            Finding::NotReceived if state == State::Delivering => {
                let back = next(state, Event::Returned)?;
                return messages.set_state(&message.id, state, back, self.base.clock.now()).await;
            }
            Finding::NotReceived => {
                if !interrupted {
                    self.cut_off(held, message, partial).await?;
                }
            }
        }
        Ok(false)
    }
}
