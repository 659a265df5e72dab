//! How a message is taken in: everything that can refuse it comes first, then it is made durable, then it is
//! acknowledged. Nothing in here talks to a bot.

use std::{sync::Arc, time::Duration};

use astrfleet_core::{
    Error, Result,
    id::{AttachmentId, MessageId, SessionId, TenantId},
    message::{Author, Event, MAX_ATTACHMENTS, MAX_TEXT_BYTES, Message, State, next},
    ports::{Accepted, BusEvent, NewMessage, Outcome},
    session,
    tenant::Tenant,
    text::idempotency_key,
};
use aws_lc_rs::digest::{SHA256, digest};
use tracing::Instrument;

use super::{
    Counted, Service,
    live::{End, Progress},
    owners::Whereabouts,
    queue::Room,
};
use crate::{metrics::StateLabel, problem::chain};

/// When somebody who found the queue full may try again.
const FULL_RETRY_AFTER: Duration = Duration::from_secs(2);

/// What an end user says.
pub struct Words {
    /// At most 32 KiB.
    pub text: String,
    /// Files that were stored before.
    pub attachments: Vec<AttachmentId>,
}

impl Words {
    fn check(&self) -> Result<()> {
        if self.text.len() > MAX_TEXT_BYTES {
            return Err(Error::invalid("text", format!("must have at most {MAX_TEXT_BYTES} bytes of UTF-8")));
        }
        if self.text.trim().is_empty() && self.attachments.is_empty() {
            return Err(Error::invalid("text", "must not be blank where nothing is attached"));
        }
        if self.text.contains('\0') {
            return Err(Error::invalid("text", "must not contain the character U+0000"));
        }
        if self.attachments.len() > MAX_ATTACHMENTS {
            return Err(Error::invalid("attachments", format!("must be at most {MAX_ATTACHMENTS}")));
        }
        Ok(())
    }

    /// The same for the same words, however their JSON was written.
    fn hash(&self) -> [u8; 32] {
        let canonical = serde_json::json!([self.text, self.attachments]).to_string();
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, canonical.as_bytes()).as_ref());
        hash
    }
}

impl Service {
    /// Takes a message in: when this returns, it is durable.
    ///
    /// # Errors
    /// [`Error::Forbidden`] for a tenant that is not served; [`Error::Blocked`]; [`Error::NotFound`] for a session or attachment that is not
    /// the tenant's; [`Error::Conflict`] for a closed session; [`Error::QuotaExceeded`]; [`Error::TooMany`] where the
    /// bot's queue is full; [`Error::KeyReused`].
    pub async fn accept(
        &self,
        tenant: Arc<Tenant>,
        session: SessionId,
        words: Words,
        key: Option<String>,
    ) -> Result<TakenIn> {
        // A task of its own: whoever asked may hang up in the middle of it.
        let service = self.clone();
        let work = async move { service.accept_now(&tenant, &session, words, key).await };
        self.base.tasks.spawn(work.in_current_span()).await.map_err(Error::internal)?
    }

    async fn accept_now(
        &self,
        tenant: &Tenant,
        session: &SessionId,
        words: Words,
        key: Option<String>,
    ) -> Result<TakenIn> {
        let begun = self.base.clock.now();
        words.check()?;
        key.as_deref().map_or(Ok(()), idempotency_key)?;
        let hash = words.hash();
        let admitted = match self.admit(tenant, session, &words).await {
            Ok(Entry::EndUser(admitted)) => admitted,
            Ok(Entry::Person(session, newest)) => {
                return self.say(tenant, &session, newest.as_ref(), words, key.zip(Some(hash))).await;
            }
            Err(refused) => {
                return self.before(tenant, session, key.as_deref(), &hash, refused).await.map(TakenIn::Stored);
            }
        };
        let content_length = words.text.len();
        let message = Message {
            // Later than what was said before in this session, also where another process's clock is ahead.
            id: self.base.ids.message_after(admitted.newest.as_ref()),
            tenant_id: tenant.id.clone(),
            session_id: session.clone(),
            author: Author::User,
            sender: None,
            text: words.text,
            attachments: words.attachments,
            state: State::Accepted,
            reply_to: None,
            failure: None,
            usage: None,
            created_at: begun,
            updated_at: begun,
        };
        let (id, taken) = (message.id.clone(), Box::new(message.clone()));
        let new = NewMessage { message, idempotency: key.map(|key| (key, hash)) };
        match self.base.store.messages(&tenant.id).accept(new).await? {
            Accepted::Before(first) => return Ok(TakenIn::Stored(first)),
            Accepted::New => admitted.counted.keep(),
        }
        self.base.metrics.messages.get_or_create(&StateLabel { state: "accepted".to_owned() }).inc();
        tracing::info!(
            tenant_id = %tenant.id,
            user_id = admitted.session.end_user,
            session_id = %session,
            message_id = %id,
            content_length,
            processing_time_ms = u64::try_from(self.base.clock.now().since(begun).as_millis()).unwrap_or(u64::MAX),
            "message_created"
        );
        let waits = admitted.session.state == session::State::Bot;
        if !waits {
            self.leave_to_person(&tenant.id, &id).await?;
        } else if self.is_here(&tenant.id) {
            self.lives.open(&id, session).progress(Progress::Queued);
            self.queues.put(&tenant.id, session, &id, admitted.concurrent);
            self.pump(&tenant.id);
        } else {
            self.hand_on(&tenant.id);
        }
        drop(admitted.room);
        self.base.bus.publish(BusEvent::MessageAccepted(tenant.id.clone(), id.clone()));
        Ok(if waits { TakenIn::Waits(taken) } else { TakenIn::Stored(id) })
    }

    /// Whether the queue of a tenant is here. Before the loops run, everything is: nothing is delivered.
    fn is_here(&self, tenant: &TenantId) -> bool {
        !self.delivers() || self.owners.held(tenant).is_some()
    }

    /// A message was stored whose queue is not here: it is taken where nobody has it. Whoever has it hears of the message
    /// over the bus, or finds it.
    fn hand_on(&self, tenant: &TenantId) {
        let (service, tenant) = (self.clone(), tenant.clone());
        self.base.tasks.spawn(async move {
            match service.whereabouts(&tenant).await {
                // It may have been taken before this message was stored.
                Ok(Whereabouts::Here(_)) => service.wake_waiting.notify_one(),
                Ok(Whereabouts::There(_) | Whereabouts::Nowhere) => {}
                Err(error) => {
                    tracing::warn!(tenant_id = %tenant, error = chain(&error), "a queue was not found: it is looked for again");
                }
            }
        });
    }

    /// Everything that can refuse a message.
    async fn admit(&self, tenant: &Tenant, session: &SessionId, words: &Words) -> Result<Entry> {
        tenant.must_be_served()?;
        if self.draining.is_cancelled() {
            return Err(Error::unavailable("the platform, which is being stopped,", "draining"));
        }
        let (session, newest) = self.base.store.sessions(&tenant.id).get_with_newest(session).await?;
        if session.state == session::State::Closed {
            return Err(Error::conflict("this session is closed: open a new one"));
        }
        if session.umo.is_some() {
            // End users write in the channel itself: whoever comes this way is a person who answers.
            return Ok(Entry::Person(session, newest));
        }
        if self.tenants.is_blocked(&tenant.id, &session.channel, &session.end_user).await? {
            return Err(Error::Blocked);
        }
        for attachment in &words.attachments {
            self.base.store.attachments(&tenant.id).get(attachment).await?;
        }
        let full = || Error::TooMany { what: "messages wait for this bot", retry_after: FULL_RETRY_AFTER };
        let length = self.base.config.message.queue_length;
        let room = if self.is_here(&tenant.id) {
            Some(self.queues.reserve(&tenant.id, length).ok_or_else(full)?)
        } else if self.backlog.admit(&*self.base.store, &tenant.id, length).await? {
            None
        } else {
            return Err(full());
        };
        let concurrent = self.concurrent(self.tenants.plan(tenant)?.concurrent_chats);
        let counted = self.count(tenant).await?;
        Ok(Entry::EndUser(Admitted { session, newest, room, counted, concurrent }))
    }

    /// The message that was accepted under this key before: whoever asks again gets it, also where a new one would be
    /// refused now.
    async fn before(
        &self,
        tenant: &Tenant,
        session: &SessionId,
        key: Option<&str>,
        hash: &[u8; 32],
        refused: Error,
    ) -> Result<MessageId> {
        let Some(key) = key else { return Err(refused) };
        let messages = self.base.store.messages(&tenant.id);
        messages.accepted_before(session, key, hash).await?.ok_or(refused)
    }

    /// Ends a message that does not go to the bot, since a person answers in its session.
    pub(super) async fn leave_to_person(&self, tenant: &TenantId, id: &MessageId) -> Result<()> {
        let messages = self.base.store.messages(tenant);
        let to = next(State::Accepted, Event::LeftToPerson)?;
        if messages.finish(id, &[State::Accepted], Outcome::NoReply(to, None), self.base.clock.now()).await? {
            let message = messages.get(id).await?;
            self.lives.end(id, &End::Done(Box::new(message)));
        }
        Ok(())
    }
}

/// What became of what somebody said.
pub enum TakenIn {
    /// A message that waits for the bot, as it was stored.
    Waits(Box<Message>),
    /// A message of which the store knows more: it was there before, under the same key, or a person answers it.
    Stored(MessageId),
}

impl TakenIn {
    /// Of the message.
    pub fn id(&self) -> &MessageId {
        match self {
            Self::Waits(message) => &message.id,
            Self::Stored(id) => id,
        }
    }
}

/// Who speaks.
enum Entry {
    EndUser(Admitted),
    /// In a session of an IM channel, after its newest message.
    Person(session::Session, Option<MessageId>),
}

/// A message that may be stored.
struct Admitted {
    session: session::Session,
    /// The newest message of the session.
    newest: Option<MessageId>,
    /// In the queue, where that is here.
    room: Option<Room>,
    counted: Counted,
    concurrent: usize,
}

#[cfg(test)]
mod tests {
    use super::Words;

    #[test]
    fn words_have_limits() {
        let words = |text: &str| Words { text: text.to_owned(), attachments: Vec::new() };
        assert!(words("Hi").check().is_ok());
        assert!(words(&"x".repeat(32 * 1024)).check().is_ok());
        for bad in ["", " \n", "a\0b", &"x".repeat(32 * 1024 + 1)] {
            assert!(words(bad).check().is_err());
        }
        assert_ne!(words("a").hash(), words("b").hash());
    }
}
