//! How a message ends. Each end is one transaction of the store, for whoever has the queue; only who comes first there
//! may tell the readers.

use astrfleet_core::{
    Result,
    id::{AttachmentId, MessageId, TenantId},
    message::{Author, Event, Failure, Message, State, TokenUsage, before, next, without_bot},
    ports::{BusEvent, Delivery, Messages, Outcome},
};

use super::{
    Service,
    deliver::Next,
    live::{End, Live},
    owners::Held,
    queue::Turn,
};
use crate::{metrics::StateLabel, problem::chain};

/// A whole answer.
pub(super) struct Whole {
    pub(super) text: String,
    pub(super) files: Vec<AttachmentId>,
    pub(super) usage: Option<TokenUsage>,
    /// The bot's number of it.
    pub(super) record: Option<i64>,
}

impl Service {
    /// Ends a message with its answer. Returns whether it was not at an end already.
    pub(super) async fn answered(&self, held: &Held, message: &Message, whole: Whole) -> Result<bool> {
        let reply =
            Message { attachments: whole.files, usage: whole.usage, ..self.reply(message, whole.text, State::Done) };
        let messages = self.messages(held);
        let outcome = Outcome::Reply(reply.clone());
        if !messages.finish(&message.id, &before(Event::Answered), outcome, reply.created_at).await? {
            return Ok(false);
        }
        if let Some(record) = whole.record
            && let Err(error) = messages.set_reply_record(&reply.id, record).await
        {
            tracing::warn!(error = chain(&error), "the bot's number of an answer could not be noted");
        }
        if let Some(live) = self.lives.get(&message.id) {
            live.rest_of(&reply.text);
        }
        self.ended(message, State::Done, &End::Done(Box::new(reply)));
        Ok(true)
    }

    /// Ends a message without an answer.
    pub(super) async fn failed(&self, held: &Held, message: &Message, failure: Failure) -> Result<bool> {
        self.fail(&*self.messages(held), &before(Event::Failed), message, failure).await
    }

    /// Ends a message that still waits, wherever its queue is: whoever serves it finds that it is not there any more.
    pub(super) async fn failed_waiting(&self, message: &Message, failure: Failure) -> Result<bool> {
        self.fail(&*self.base.store.messages(&message.tenant_id), &[State::Accepted], message, failure).await
    }

    /// Ends a message that an IM channel brought, which is in no queue of ours.
    pub(super) async fn failed_at_channel(&self, message: &Message, failure: Failure) -> Result<bool> {
        self.fail(&*self.base.store.messages(&message.tenant_id), &[State::Delivering], message, failure).await
    }

    async fn fail(&self, messages: &dyn Messages, from: &[State], message: &Message, failure: Failure) -> Result<bool> {
        let outcome = Outcome::NoReply(State::Failed, Some(failure.clone()));
        if !messages.finish(&message.id, from, outcome, self.base.clock.now()).await? {
            return Ok(false);
        }
        tracing::info!(
            tenant_id = %message.tenant_id,
            session_id = %message.session_id,
            message_id = %message.id,
            error_code = failure.code,
            "message_failed"
        );
        self.ended(message, State::Failed, &End::Failed(failure));
        Ok(true)
    }

    /// Ends a message with as much of an answer as came; the repair may find the whole one later.
    pub(super) async fn cut_off(&self, held: &Held, message: &Message, partial: &str) -> Result<bool> {
        let messages = self.messages(held);
        let state = next(State::Delivering, Event::CutOff)?;
        let outcome = if partial.is_empty() {
            Outcome::NoReply(state, None)
        } else {
            messages.set_partial(&message.id, partial).await?;
            Outcome::Reply(self.reply(message, partial.to_owned(), state))
        };
        let open: Vec<State> = before(Event::CutOff).into_iter().filter(|before| *before != state).collect();
        if !messages.finish(&message.id, &open, outcome, self.base.clock.now()).await? {
            return Ok(false);
        }
        self.ended(message, state, &End::Interrupted);
        self.wake_repair.notify_one();
        Ok(true)
    }

    /// Ends a message in whose session the bot does not answer any more. Returns whether it was not at an end already; none
    /// where the bot answers.
    pub(super) async fn overtaken(&self, held: &Held, delivery: &Delivery) -> Result<Option<bool>> {
        let message = &delivery.message;
        let Some((state, failure)) = without_bot(delivery.session_state) else { return Ok(None) };
        if let Some(failure) = failure {
            return self.failed(held, message, failure).await.map(Some);
        }
        let (from, outcome) = (before(Event::LeftToPerson), Outcome::NoReply(state, None));
        let ended = self.messages(held).finish(&message.id, &from, outcome, self.base.clock.now()).await?;
        if ended {
            self.end_as_stored(&message.tenant_id, &message.id).await;
        }
        Ok(Some(ended))
    }

    /// Tells the readers of a message how it ended, which is not known here: somebody else has ended it. Where nobody has,
    /// they find the rest in the store.
    pub(super) async fn end_as_stored(&self, tenant: &TenantId, message: &MessageId) {
        let end = match self.base.store.messages(tenant).exchange(message).await {
            Ok(exchange) => End::stored(&exchange),
            Err(error) => {
                tracing::warn!(error = chain(&error), "it is not known how a message ended");
                None
            }
        };
        self.lives.end(message, &end.unwrap_or(End::Interrupted));
    }

    /// Whoever reads is told how a message ended that was not ended here.
    pub(super) async fn close(&self, turn: &Turn, held: &Held, live: &Live, next: &Next) {
        if live.has_ended() {
            return;
        }
        if held.over.is_cancelled() {
            // They find the rest in the store.
            self.lives.end(&turn.message, &End::Interrupted);
            return;
        }
        if matches!(next, Next::Ended)
            && let Err(error) = self.leave_overtaken(turn, held).await
        {
            tracing::warn!(error = chain(&error), "a message whose answer came too late is still open");
            self.queues.doubt(&turn.tenant, &turn.session, &turn.message);
        }
        self.end_as_stored(&turn.tenant, &turn.message).await;
    }

    /// An answer was refused, since the bot does not answer in its session any more: then that is the end of the message,
    /// unless whoever took the session over has ended it.
    async fn leave_overtaken(&self, turn: &Turn, held: &Held) -> Result<()> {
        let delivery = self.messages(held).delivery(&turn.message).await?;
        if !delivery.message.state.is_final() {
            self.overtaken(held, &delivery).await?;
        }
        Ok(())
    }

    fn reply(&self, message: &Message, text: String, state: State) -> Message {
        let now = self.base.clock.now();
        Message {
            id: self.base.ids.message_after(Some(&message.id)),
            tenant_id: message.tenant_id.clone(),
            session_id: message.session_id.clone(),
            author: Author::Bot,
            sender: None,
            text,
            attachments: Vec::new(),
            state,
            reply_to: Some(message.id.clone()),
            failure: None,
            usage: None,
            created_at: now,
            updated_at: now,
        }
    }

    fn ended(&self, message: &Message, state: State, end: &End) {
        self.lives.end(&message.id, end);
        let state = format!("{state:?}").to_lowercase();
        self.base.metrics.messages.get_or_create(&StateLabel { state }).inc();
        self.base.bus.publish(BusEvent::SessionChanged(message.tenant_id.clone(), message.session_id.clone()));
    }
}

/// [`Failure`] in one line.
pub(super) fn failure(code: &str, detail: &str) -> Failure {
    Failure { code: code.to_owned(), detail: detail.to_owned() }
}
