//! The life of a message:
//! `accepted -> delivering -> streaming -> done | interrupted | failed | blocked`.

use serde::{Deserialize, Serialize};

use crate::{
    error::Error,
    id::{AttachmentId, MessageId, SessionId, TenantId},
    session,
    time::Timestamp,
};

/// Who wrote a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Author {
    /// The end user.
    User,
    /// The tenant's bot.
    Bot,
    /// A person of the tenant.
    Agent,
}

/// Where a message is in its life. Only an end user's message passes through all of it; an answer is stored `done`,
/// or `interrupted` where only a part of it came. A message that an IM channel brought is stored `delivering`, since its
/// bot has it already; so is what a person says into one, until the bot has sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = MessageState)]
pub enum State {
    /// Durable. Nobody has answered yet.
    Accepted,
    /// On its way to the bot.
    Delivering,
    /// The answer has begun.
    Streaming,
    /// Answered. The end.
    Done,
    /// The answer was cut off: it will be repaired from the bot's own history, or stay as it is.
    Interrupted,
    /// There will be no answer, and `failure` says why. The end.
    Failed,
    /// It was not let through to the bot. The end.
    Blocked,
}

impl State {
    /// Whether nothing more will happen to the message by itself.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Blocked | Self::Interrupted)
    }
}

/// What can happen to a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A worker takes it to the bot.
    Claimed,
    /// The first piece of the answer.
    FirstPiece,
    /// The bot cannot have got it: it goes back to be delivered again.
    Returned,
    /// The whole answer.
    Answered,
    /// The answer broke off.
    CutOff,
    /// There will be no answer.
    Failed,
    /// It must not go to the bot.
    Blocked,
    /// The bot does not answer it, or not any more: a person of the tenant answers in this conversation.
    LeftToPerson,
}

/// The state after `event`.
///
/// # Errors
/// [`Error::Conflict`] where `event` cannot happen in `state`.
pub fn next(state: State, event: Event) -> Result<State, Error> {
    match (state, event) {
        (State::Accepted, Event::Claimed) => Ok(State::Delivering),
        (State::Delivering, Event::Returned) => Ok(State::Accepted),
        (State::Delivering | State::Streaming, Event::FirstPiece) => Ok(State::Streaming),
        // `interrupted -> done` is the repair. An answer without pieces goes straight from delivering to done.
        // However far the bot has come with it, a message is the person's from the moment in which they take over.
        (State::Delivering | State::Streaming | State::Interrupted, Event::Answered)
        | (State::Accepted | State::Delivering | State::Streaming | State::Interrupted, Event::LeftToPerson) => {
            Ok(State::Done)
        }
        (State::Delivering | State::Streaming | State::Interrupted, Event::CutOff) => Ok(State::Interrupted),
        (State::Accepted | State::Delivering | State::Streaming, Event::Failed) => Ok(State::Failed),
        (State::Accepted | State::Delivering, Event::Blocked) => Ok(State::Blocked),
        (state, event) => {
            Err(Error::conflict(format!("a message that is {state:?} cannot be {event:?}").to_lowercase()))
        }
    }
}

/// The states in which `event` can happen.
#[must_use]
pub fn before(event: Event) -> Vec<State> {
    let all = [
        State::Accepted,
        State::Delivering,
        State::Streaming,
        State::Done,
        State::Interrupted,
        State::Failed,
        State::Blocked,
    ];
    all.into_iter().filter(|state| next(*state, event).is_ok()).collect()
}

/// How a message ends that waits for the bot, or for the end of its answer, where the bot does not answer in its session
/// any more. None where it does.
#[must_use]
pub fn without_bot(session: session::State) -> Option<(State, Option<Failure>)> {
    match session {
        session::State::Bot => None,
        // Nothing has failed: a person answers.
        session::State::Waiting | session::State::Active => Some((State::Done, None)),
        session::State::Closed => Some((State::Failed, Some(session_closed()))),
    }
}

/// Why a message of a closed session has no answer.
#[must_use]
pub fn session_closed() -> Failure {
    Failure { code: "stopped".to_owned(), detail: "the session was closed before there was an answer".to_owned() }
}

/// Why there is no answer: a code for programs and a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Failure {
    /// Stable: `model_failed`, `quota_exceeded`, `stopped`, `bot_unavailable`, `queue_full`, …
    pub code: String,
    /// What happened, and what to do now.
    pub detail: String,
}

/// Tokens that an answer took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TokenUsage {
    /// Read by the model, cached ones included.
    pub prompt_tokens: u64,
    /// Written by the model.
    pub completion_tokens: u64,
}

impl TokenUsage {
    /// Both together: what a quota counts.
    #[must_use]
    pub fn total(self) -> u64 {
        self.prompt_tokens.saturating_add(self.completion_tokens)
    }
}

/// Who wrote in an IM channel, as the IM platform names them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Sender {
    /// Theirs alone within the channel.
    pub id: String,
    /// For people.
    pub name: String,
}

/// One message of a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Message {
    /// `msg_…`: ordered by time within a session.
    pub id: MessageId,
    /// Whose it is.
    pub tenant_id: TenantId,
    /// The conversation it belongs to.
    pub session_id: SessionId,
    /// Who wrote it.
    pub author: Author,
    /// Who of them, where it came through an IM channel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sender: Option<Box<Sender>>,
    /// What they wrote, at most 32 KiB.
    pub text: String,
    /// What goes with it.
    pub attachments: Vec<AttachmentId>,
    /// See [`State`].
    pub state: State,
    /// The message that this one answers.
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
    /// When it was last changed.
    pub updated_at: Timestamp,
}

/// The longest text of a message, in bytes.
pub const MAX_TEXT_BYTES: usize = 32 * 1024;
/// Attachments of one message.
pub const MAX_ATTACHMENTS: usize = 10;

/// An accepted message together with what is known of its answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Exchange {
    /// What was asked.
    pub message: Message,
    /// What was answered, whole or as far as it came.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply: Option<Message>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Event, State, next};

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            Just(Event::Claimed),
            Just(Event::FirstPiece),
            Just(Event::Returned),
            Just(Event::Answered),
            Just(Event::CutOff),
            Just(Event::Failed),
            Just(Event::Blocked),
            Just(Event::LeftToPerson),
        ]
    }

    proptest! {
        #[test]
        fn an_end_is_never_left_but_for_the_repair(events in prop::collection::vec(event(), 0..30)) {
            let mut state = State::Accepted;
            for event in events {
                let before = state;
                state = next(state, event).unwrap_or(state);
                if matches!(before, State::Done | State::Failed | State::Blocked) {
                    prop_assert_eq!(state, before);
                }
                if before == State::Interrupted {
                    prop_assert!(matches!(state, State::Interrupted | State::Done));
                }
            }
        }

        #[test]
        fn what_has_begun_is_never_delivered_again(events in prop::collection::vec(event(), 0..30)) {
            let (mut state, mut begun) = (State::Accepted, false);
            for event in events {
                state = next(state, event).unwrap_or(state);
                begun |= state == State::Streaming;
                prop_assert!(!(begun && matches!(state, State::Accepted | State::Delivering)));
            }
        }
    }
}
