//! What the bridge needs of the store: messages of IM channels, each stored once by the IM platform's own number.

use async_trait::async_trait;

use crate::{
    bridge::{Arrival, Late, Verdict},
    error::Result,
    id::{MessageId, SessionId, TenantId},
    message::{Failure, Message, State, TokenUsage},
    session::Session,
    time::Timestamp,
};

/// A message that a channel brought.
#[derive(Clone, Debug)]
pub struct Inbound {
    /// What is stored. Its session and its state are found out meanwhile; its id becomes a later one where it is not later
    /// than all of its session.
    pub message: Message,
    /// Opened where the conversation (its `umo`) has no session that is not closed.
    pub session: Session,
    /// Names the message within the tenant, whoever tells of it and how often.
    pub platform_id: String,
    /// Who tells: one word for each time that the bot got it.
    pub delivery: String,
    /// The start of the bot that tells. A later one may take over what an earlier one left.
    pub start: i64,
    /// How it came.
    pub arrival: Arrival,
}

/// What is stored of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TakenIn {
    /// As it is stored now.
    pub message: Message,
    /// Of the message.
    pub session: Session,
    /// It was not there before.
    pub is_new: bool,
    /// Whoever told is the one to answer it: no other time of telling came first.
    pub is_theirs: bool,
    /// The session was opened for it.
    pub opened: bool,
    /// What whoever told is to do with it.
    pub verdict: Verdict,
}

/// What a bot says of a message that it was to answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// This went out.
    Sent {
        /// The new message's id; it becomes a later one where it is not later than all of its session.
        id: MessageId,
        /// What it said.
        text: String,
        /// What it took.
        usage: Option<TokenUsage>,
    },
    /// Nothing will go out, and the message ends so.
    Ended(State, Option<Failure>),
}

/// What a bot said that answers no message: by a timer, or of its own accord.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spoken {
    /// The new message's id.
    pub id: MessageId,
    /// Where.
    pub session: SessionId,
    /// What it said.
    pub text: String,
}

/// What is stored of what a bot said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// What went out.
    pub said: Option<MessageId>,
    /// Where.
    pub session: SessionId,
    /// It was not known before.
    pub is_new: bool,
}

/// Messages of IM channels of one tenant.
#[async_trait]
pub trait Bridge: Send + Sync {
    /// Stores a message once, in its session, which is opened where there is none.
    async fn take_in(&self, inbound: Inbound) -> Result<TakenIn>;
    /// The message of this number, with its session.
    ///
    /// # Errors
    /// [`crate::Error::NotFound`].
    async fn find(&self, platform_id: &str) -> Result<(Message, Session)>;
    /// Stores what a bot tells of the message of this number, once: `told_id` names what is told. What goes out after
    /// the message's end is stored all the same: it was said.
    ///
    /// # Errors
    /// [`crate::Error::NotFound`].
    async fn told(&self, platform_id: &str, told_id: &str, told: Told, now: Timestamp) -> Result<Heard>;
    /// The newest session of a conversation, closed or not. `end_user` is its peer.
    ///
    /// # Errors
    /// [`crate::Error::NotFound`].
    async fn newest_session(&self, end_user: &str, umo: &str) -> Result<Session>;
    /// Stores what a bot said that answers no message, once: `told_id` names what is told.
    ///
    /// # Errors
    /// [`crate::Error::NotFound`] where there is no such session.
    async fn spoken(&self, spoken: &Spoken, told_id: &str, now: Timestamp) -> Result<Heard>;
}

/// A message that its bot, or its person's bot, never came to an end with.
pub type Overdue = (TenantId, MessageId);

/// Why an answer was kept back, as the end of its message.
#[must_use]
pub fn kept_back(late: Late) -> Option<Failure> {
    let detail = match late {
        // A person answers: nothing has failed.
        Late::HandedOver => return None,
        Late::Closed => "the session was closed before the answer went out",
        Late::Ended => "it was at its end before the answer went out",
    };
    Some(Failure { code: "stopped".to_owned(), detail: detail.to_owned() })
}
