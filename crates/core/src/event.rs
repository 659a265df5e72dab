//! What happened in a tenant's conversations, for whoever follows it: live streams and webhooks. An event is stored in
//! the same transaction as what it tells of, so there is none without the other.
//!
//! A tenant's events are one sequence without gaps: whoever has seen one place of it asks for what comes after.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    id::{AttachmentId, EventId, MessageId, SessionId, TenantId},
    message::{Author, Failure, State as MessageState, TokenUsage},
    ports::Outcome,
    session::{Session, State as SessionState},
    time::Timestamp,
};

/// Of a message's text, an event shows so many characters at the most.
pub const TEXT_CHARS_MAX: usize = 16 * 1024;

/// What can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = EventKind)]
pub enum Kind {
    /// A message is durable.
    #[serde(rename = "message.accepted")]
    MessageAccepted,
    /// A message was not let through to the bot.
    #[serde(rename = "message.blocked")]
    MessageBlocked,
    /// The whole answer to a message is there.
    #[serde(rename = "reply.done")]
    ReplyDone,
    /// There will be no answer to a message.
    #[serde(rename = "reply.failed")]
    ReplyFailed,
    /// The answer to a message was cut off; it may be repaired later.
    #[serde(rename = "reply.interrupted")]
    ReplyInterrupted,
    /// The whole answer to a message was found after it had been cut off.
    #[serde(rename = "reply.repaired")]
    ReplyRepaired,
    /// A conversation began.
    #[serde(rename = "session.opened")]
    SessionOpened,
    /// A person is wanted in a conversation.
    #[serde(rename = "session.waiting")]
    SessionWaiting,
    /// A person answers in a conversation.
    #[serde(rename = "session.taken_over")]
    SessionTakenOver,
    /// The bot answers again.
    #[serde(rename = "session.handed_back")]
    SessionHandedBack,
    /// A conversation is over.
    #[serde(rename = "session.closed")]
    SessionClosed,
    /// A webhook was switched off because its receiver did not take anything for too long.
    #[serde(rename = "webhook.disabled")]
    WebhookDisabled,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 12] = [
        Self::MessageAccepted,
        Self::MessageBlocked,
        Self::ReplyDone,
        Self::ReplyFailed,
        Self::ReplyInterrupted,
        Self::ReplyRepaired,
        Self::SessionOpened,
        Self::SessionWaiting,
        Self::SessionTakenOver,
        Self::SessionHandedBack,
        Self::SessionClosed,
        Self::WebhookDisabled,
    ];

    /// As the API and the database name it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::MessageAccepted => "message.accepted",
            Self::MessageBlocked => "message.blocked",
            Self::ReplyDone => "reply.done",
            Self::ReplyFailed => "reply.failed",
            Self::ReplyInterrupted => "reply.interrupted",
            Self::ReplyRepaired => "reply.repaired",
            Self::SessionOpened => "session.opened",
            Self::SessionWaiting => "session.waiting",
            Self::SessionTakenOver => "session.taken_over",
            Self::SessionHandedBack => "session.handed_back",
            Self::SessionClosed => "session.closed",
            Self::WebhookDisabled => "webhook.disabled",
        }
    }
}

/// An event as it stands in its tenant's sequence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Event {
    /// `evt_…`: sorts as it happened. Also what `Last-Event-ID` and the header `webhook-id` name.
    pub id: EventId,
    /// See [`Kind`]. A program should pass over those that it does not know.
    #[serde(rename = "type")]
    #[schema(example = "reply.done")]
    pub kind: String,
    /// When it happened.
    pub timestamp: Timestamp,
    /// Whose it is.
    pub tenant_id: TenantId,
    /// The conversation, where it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_id: Option<SessionId>,
    /// `message` and `message_id` (whose answer it is, where it is one); `session`; or `webhook`.
    #[schema(value_type = Object)]
    pub data: Value,
}

impl Event {
    /// Its place in the sequence.
    #[must_use]
    pub fn seq(&self) -> i64 {
        self.id.seq()
    }
}

/// A message as an event shows it: as it stands when the event is read, not as it stood when it happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ToldMessage {
    /// `msg_…`
    pub id: MessageId,
    /// Who wrote it.
    pub author: Author,
    /// Where it is in its life.
    pub state: MessageState,
    /// What they wrote; at most [`TEXT_CHARS_MAX`] characters of it.
    pub text: String,
    /// The text is longer: the message itself has all of it.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub text_cut: bool,
    /// What goes with it.
    pub attachments: Vec<AttachmentId>,
    /// The message that it answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<MessageId>,
    /// Only when it failed or was blocked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// What an answer took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<TokenUsage>,
    /// When it was accepted.
    pub created_at: Timestamp,
}

/// No more of an event than it takes to decide who is told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Brief {
    /// Which.
    pub id: EventId,
    /// Its kind.
    pub kind: String,
    /// The conversation, where it is about one.
    pub session_id: Option<SessionId>,
}

/// What is to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEvent {
    /// What happened.
    pub kind: Kind,
    /// In which conversation.
    pub session_id: Option<SessionId>,
    /// The message that is shown with it.
    pub message_id: Option<MessageId>,
    /// Ids and states: never a text that somebody wrote.
    pub data: Value,
    /// When.
    pub at: Timestamp,
}

impl NewEvent {
    /// What the acceptance of a message tells.
    #[must_use]
    pub fn of_accepted(message: &crate::message::Message) -> Self {
        let blocked = message.state == MessageState::Blocked;
        Self {
            kind: if blocked { Kind::MessageBlocked } else { Kind::MessageAccepted },
            session_id: Some(message.session_id.clone()),
            message_id: Some(message.id.clone()),
            data: json!({ "message_id": message.id }),
            at: message.created_at,
        }
    }

    /// What the end of a message tells, `repaired` saying that it had been cut off before.
    #[must_use]
    pub fn of_outcome(
        message: &MessageId,
        session: SessionId,
        outcome: &Outcome,
        repaired: bool,
        at: Timestamp,
    ) -> Option<Self> {
        let (kind, shown) = match outcome {
            Outcome::Reply(reply) if reply.state == MessageState::Done && repaired => (Kind::ReplyRepaired, &reply.id),
            Outcome::Reply(reply) if reply.state == MessageState::Done => (Kind::ReplyDone, &reply.id),
            Outcome::Reply(reply) => (Kind::ReplyInterrupted, &reply.id),
            Outcome::NoReply(MessageState::Interrupted, _) => (Kind::ReplyInterrupted, message),
            Outcome::NoReply(MessageState::Failed, _) => (Kind::ReplyFailed, message),
            Outcome::NoReply(MessageState::Blocked, _) => (Kind::MessageBlocked, message),
            // A person answers: that is a message of its own.
            Outcome::NoReply(..) => return None,
        };
        let data = json!({ "message_id": message });
        Some(Self { kind, session_id: Some(session), message_id: Some(shown.clone()), data, at })
    }

    /// What a session's change tells, `before` being its state until then; none: it is new.
    #[must_use]
    pub fn of_session(before: Option<SessionState>, session: &Session) -> Option<Self> {
        if before == Some(session.state) {
            return None;
        }
        let kind = match (before, session.state) {
            (None, _) => Kind::SessionOpened,
            (Some(_), SessionState::Bot) => Kind::SessionHandedBack,
            (Some(_), SessionState::Waiting) => Kind::SessionWaiting,
            (Some(_), SessionState::Active) => Kind::SessionTakenOver,
            (Some(_), SessionState::Closed) => Kind::SessionClosed,
        };
        let mut told = json!({
            "id": session.id, "end_user": session.end_user, "channel": session.channel, "state": session.state,
            "generation": session.generation,
        });
        if let Some(reason) = session.close_reason {
            told["close_reason"] = json!(reason);
        }
        let at = if before.is_none() { session.created_at } else { session.last_active_at };
        let data = json!({ "session": told });
        Some(Self { kind, session_id: Some(session.id.clone()), message_id: None, data, at })
    }
}

#[cfg(test)]
mod tests {
    use super::Kind;

    #[test]
    fn a_kind_has_one_name() {
        for kind in Kind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
        }
        let mut names = Kind::ALL.map(Kind::name);
        names.sort_unstable();
        assert!(names.is_sorted_by(|one, other| one < other), "no two have the same");
    }
}
