//! What a person of the tenant says in a session of an IM channel: stored, and then sent once by the tenant's bot. It is
//! never sent a second time by us, since nobody can tell whether the first one arrived.

use astrfleet_core::{
    Error, Result,
    id::MessageId,
    message::{Author, Event, Failure, Message, State, next},
    ports::{Accepted, BotClient, BusEvent, NewMessage, Outcome},
    session::{Session, State as SessionState},
    tenant::Tenant,
};
use tracing::Instrument;

use super::{
    Service,
    accept::{TakenIn, Words},
    ending::failure,
    live::{End, Progress},
};
use crate::{metrics::StateLabel, problem::chain};

impl Service {
    /// Takes what a person says: when this returns, it is durable, and on its way. It comes after `newest`, the session's
    /// newest message; `key` is their `Idempotency-Key` with the hash of what they said.
    pub(super) async fn say(
        &self,
        tenant: &Tenant,
        session: &Session,
        newest: Option<&MessageId>,
        words: Words,
        key: Option<(String, [u8; 32])>,
    ) -> Result<TakenIn> {
        if let Some((key, hash)) = &key {
            // It may have been said before the session was handed back.
            let messages = self.base.store.messages(&tenant.id);
            if let Some(before) = messages.accepted_before(&session.id, key, hash).await? {
                return Ok(TakenIn::Stored(before));
            }
        }
        if session.state != SessionState::Active {
            return Err(Error::conflict(
                "the bot answers in this session of a channel: take it over first (`POST …/take-over`), then write",
            ));
        }
        if !words.attachments.is_empty() {
            return Err(Error::invalid("attachments", "cannot be sent into a channel yet: send text alone"));
        }
        let umo = session.umo.clone().ok_or_else(|| Error::internal("a session of no channel"))?;
        let client = self.manager.client(tenant)?;
        let now = self.base.clock.now();
        let message = Message {
            id: self.base.ids.message_after(newest),
            tenant_id: tenant.id.clone(),
            session_id: session.id.clone(),
            author: Author::Agent,
            sender: None,
            text: words.text,
            attachments: Vec::new(),
            state: next(State::Accepted, Event::Claimed)?,
            reply_to: None,
            failure: None,
            usage: None,
            created_at: now,
            updated_at: now,
        };
        let new = NewMessage { message: message.clone(), idempotency: key };
        match self.base.store.messages(&tenant.id).accept(new).await? {
            Accepted::Before(first) => return Ok(TakenIn::Stored(first)),
            Accepted::New => {}
        }
        self.base.bus.publish(BusEvent::SessionChanged(tenant.id.clone(), session.id.clone()));
        let live = self.lives.open(&message.id, &session.id);
        live.progress(Progress::Delivering);
        let (service, id) = (self.clone(), message.id.clone());
        let work = async move { service.send(&*client, &umo, message).await };
        self.base.tasks.spawn(work.in_current_span());
        Ok(TakenIn::Stored(id))
    }

    async fn send(&self, client: &dyn BotClient, umo: &str, message: Message) {
        let (state, why) = match client.say(umo, &message.text).await {
            Ok(()) => (State::Done, None),
            Err(error) => {
                tracing::warn!(message_id = %message.id, error = chain(&error), "a bot did not send what a person said");
                (State::Failed, Some(not_sent(&error)))
            }
        };
        let messages = self.base.store.messages(&message.tenant_id);
        let outcome = Outcome::NoReply(state, why.clone());
        match messages.finish(&message.id, &[State::Delivering], outcome, self.base.clock.now()).await {
            Ok(_) => {}
            // The loop of the bridge ends it: what became of it is not known then.
            Err(error) => {
                tracing::warn!(message_id = %message.id, error = chain(&error), "the end of a message was not stored");
            }
        }
        let label = format!("{state:?}").to_lowercase();
        self.base.metrics.messages.get_or_create(&StateLabel { state: label }).inc();
        self.base.bus.publish(BusEvent::SessionChanged(message.tenant_id.clone(), message.session_id.clone()));
        let id = message.id.clone();
        match why {
            Some(failure) => self.lives.end(&id, &End::Failed(failure)),
            None => self.lives.end(&id, &End::Done(Box::new(Message { state, ..message }))),
        }
    }
}

fn not_sent(error: &Error) -> Failure {
    match error {
        Error::Conflict { reason } => failure("not_sent", reason),
        _ => failure(
            "not_sent",
            "the bot did not say whether it has sent this: look in the channel before you send it again",
        ),
    }
}
