//! Where sessions, their messages and what goes with them are kept.

use async_trait::async_trait;

use crate::{
    attachment::Attachment,
    blocklist::Block,
    error::Result,
    id::{AttachmentId, BlockId, MessageId, SessionId},
    message::{Exchange, Failure, Message, State},
    page::{Page, PageRequest},
    session::{self, Session},
    time::Timestamp,
};

/// Sessions of one tenant.
#[async_trait]
pub trait Sessions: Send + Sync {
    /// Stores a new one.
    async fn insert(&self, session: &Session) -> Result<()>;
    /// # Errors
    /// [`crate::Error::NotFound`].
    async fn get(&self, id: &SessionId) -> Result<Session>;
    /// With the newest message in it: what is said now is to come after that, whatever the clocks say.
    ///
    /// # Errors
    /// [`crate::Error::NotFound`].
    async fn get_with_newest(&self, id: &SessionId) -> Result<(Session, Option<MessageId>)>;
    /// The newest first. `end_user` narrows the list.
    async fn list(&self, end_user: Option<&str>, page: &PageRequest) -> Result<Page<Session>>;
    /// Stores a changed one if its `version` is still the stored one. Returns it as stored.
    ///
    /// Where the bot does not answer in it any more, its messages that wait for the bot, or for the end of an answer, end in
    /// the same transaction ([`crate::message::without_bot`]): no answer of before comes after it, whoever still works on one
    /// and whatever they know. One in which they wait is not idle.
    ///
    /// # Errors
    /// [`crate::Error::Stale`], also where it was to be closed as idle and somebody has written.
    async fn update(&self, session: &Session) -> Result<Session>;
    /// Stores one that was closed because nobody wrote in it since `before`, if that is so still and its `version` is the
    /// stored one. Returns whether it did.
    async fn close_idle(&self, closed: &Session, before: Timestamp) -> Result<bool>;
}

/// A message to be accepted.
#[derive(Clone, Debug)]
pub struct NewMessage {
    /// The message, in state `accepted` (or `blocked`).
    pub message: Message,
    /// The caller's `Idempotency-Key`, if any, with the SHA-256 of what they sent.
    pub idempotency: Option<(String, [u8; 32])>,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// It is durable.
    New,
    /// The same was accepted before, under this id.
    Before(MessageId),
}

/// What a delivery needs to know, and how far it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Which.
    pub message: Message,
    /// Whose words.
    pub end_user: String,
    /// Who answers in its session now.
    pub session_state: session::State,
    /// The bot's number of the message, once the bot has said it.
    pub bot_record: Option<i64>,
    /// Which start of the bot, by its generation, it was brought to; none before that.
    pub start: Option<i64>,
    /// The answer as far as it came, where it was interrupted.
    pub partial: String,
    /// The first message of the session before this one that is not at an end: this one has to wait for it. Looked for
    /// among the [`Delivery::LOOK_BACK`] messages before it.
    pub behind: Option<(MessageId, State)>,
}

impl Delivery {
    /// How many messages before it are looked at. More can only be between two that are not at an end where they ended
    /// without being delivered.
    pub const LOOK_BACK: u32 = 64;
}

/// How a delivery ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// With an answer: stored in state `done` (whole) or `interrupted` (a part of it). Its `reply_to` is the message.
    Reply(Message),
    /// Without one; the message becomes `failed`, `blocked` or `interrupted` as given.
    NoReply(State, Option<Failure>),
}

/// Messages of one tenant.
#[async_trait]
pub trait Messages: Send + Sync {
    /// Makes a message durable. When this returns, it survives the loss of everything but the disk.
    ///
    /// # Errors
    /// [`crate::Error::KeyReused`] where the key was used in this session for something else;
    /// [`crate::Error::NotFound`] where the session is not this tenant's.
    async fn accept(&self, new: NewMessage) -> Result<Accepted>;
    /// The message that was accepted in a session under an `Idempotency-Key`, `hash` being the SHA-256 of what is sent
    /// now.
    ///
    /// # Errors
    /// [`crate::Error::KeyReused`] where something else was sent then.
    async fn accepted_before(&self, session: &SessionId, key: &str, hash: &[u8; 32]) -> Result<Option<MessageId>>;
    /// # Errors
    /// [`crate::Error::NotFound`].
    async fn get(&self, id: &MessageId) -> Result<Message>;
    /// With its answer.
    ///
    /// # Errors
    /// [`crate::Error::NotFound`].
    async fn exchange(&self, id: &MessageId) -> Result<Exchange>;
    /// Of a session, the newest last. Without a cursor: the newest page; a cursor leads to older ones.
    async fn list(&self, session: &SessionId, page: &PageRequest) -> Result<Page<Message>>;
    /// Moves a message from one state to another if it is still in the first, and to the bot only where that answers in its
    /// session. Returns whether it was moved.
    async fn set_state(&self, id: &MessageId, from: State, to: State, now: Timestamp) -> Result<bool>;
    /// Moves a message from `accepted` to `delivering`, to the start of its bot that has this generation. Returns whether
    /// it was accepted.
    async fn claim(&self, id: &MessageId, start: i64, now: Timestamp) -> Result<bool>;
    /// Notes the bot's own number of a message.
    async fn set_bot_record(&self, id: &MessageId, record: i64) -> Result<()>;
    /// Keeps the answer as far as it came, for the repair. Returns whether the message is not at an end that is never left.
    ///
    /// # Errors
    /// [`crate::Error::NotFound`].
    async fn set_partial(&self, id: &MessageId, partial: &str) -> Result<bool>;
    /// Ends a delivery in one transaction: the message's state, the reply, the session's last activity. Does nothing
    /// and returns `false` where the message is in none of the states `from`, and for a reply where the bot does not answer
    /// in the session any more. A message that is `interrupted` and has
    /// a partial reply gets that reply replaced.
    async fn finish(&self, id: &MessageId, from: &[State], outcome: Outcome, now: Timestamp) -> Result<bool>;
    /// What a delivery needs.
    ///
    /// # Errors
    /// [`crate::Error::NotFound`].
    async fn delivery(&self, id: &MessageId) -> Result<Delivery>;
    /// The largest of the bot's own numbers in a session that belongs to an earlier message than `before`; 0 for none.
    async fn last_bot_record(&self, session: &SessionId, before: &MessageId) -> Result<i64>;
    /// Notes the bot's number of an answer.
    async fn set_reply_record(&self, reply: &MessageId, record: i64) -> Result<()>;
    /// At most `limit` messages that are not at an end (accepted, delivering or streaming), the oldest first, after
    /// `after`.
    async fn open(&self, after: Option<&MessageId>, limit: u32) -> Result<Vec<(SessionId, MessageId, State)>>;
    /// How many wait to be delivered.
    async fn count_waiting(&self) -> Result<u64>;
    /// Messages of end users that came to us since `since`, by their ids: for the daily quota.
    async fn count_since(&self, since: Timestamp) -> Result<u64>;
}

/// Attachments of one tenant.
#[async_trait]
pub trait Attachments: Send + Sync {
    /// Stores a new one, unless all together are then more than `most_bytes`; of several at the same moment, each finds those
    /// before it. Returns the bytes of all with it; none where it was not stored.
    ///
    /// # Errors
    /// [`crate::Error::NotFound`] for the tenant.
    async fn insert(&self, attachment: &Attachment, most_bytes: u64) -> Result<Option<u64>>;
    /// # Errors
    /// [`crate::Error::NotFound`].
    async fn get(&self, id: &AttachmentId) -> Result<Attachment>;
    /// The bytes of all together, for the quota.
    async fn total_bytes(&self) -> Result<u64>;
}

/// The blocklist of one tenant.
#[async_trait]
pub trait Blocklist: Send + Sync {
    /// Puts somebody on the list; where they are on it for that channel, their reason and end become the new ones, and
    /// their id stays. Returns the entry as stored.
    async fn put(&self, block: &Block) -> Result<Block>;
    /// The newest last.
    async fn list(&self, page: &PageRequest) -> Result<Page<Block>>;
    /// Takes an entry off the list, and returns it.
    ///
    /// # Errors
    /// [`crate::Error::NotFound`].
    async fn remove(&self, id: &BlockId) -> Result<Block>;
    /// Forgets why an end user is on the list, on whatever channel. Returns how many entries they have.
    async fn forget_reasons(&self, end_user: &str) -> Result<u64>;
    /// How many entries there are.
    async fn count(&self) -> Result<u64>;
    /// All whose end lies after `now`, or that have none; at most `limit`, the newest first.
    async fn in_force(&self, now: Timestamp, limit: u32) -> Result<Vec<Block>>;
}
