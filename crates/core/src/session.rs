//! The life of a conversation: `bot -> waiting -> active -> closed`, and back to `bot`.

use serde::{Deserialize, Serialize};

use crate::{
    error::Error,
    id::{SessionId, TenantId},
    time::Timestamp,
};

/// Who answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = SessionState)]
pub enum State {
    /// The bot.
    Bot,
    /// A person was asked for and has not come yet.
    Waiting,
    /// A person.
    Active,
    /// Nobody: it is over.
    Closed,
}

/// Why a conversation is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CloseReason {
    /// Somebody closed it.
    Closed,
    /// Nobody wrote for `SESSION_TIMEOUT`.
    Idle,
}

/// What can happen to a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A person is wanted.
    PersonWanted,
    /// A person takes over.
    TakenOver,
    /// The person gives it back to the bot.
    HandedBack,
    /// It is over.
    Closed(CloseReason),
}

/// The state after `event`.
///
/// # Errors
/// [`Error::Conflict`] where `event` cannot happen in `state`.
pub fn next(state: State, event: Event) -> Result<State, Error> {
    match (state, event) {
        (State::Bot, Event::PersonWanted) => Ok(State::Waiting),
        (State::Bot | State::Waiting, Event::TakenOver) => Ok(State::Active),
        (State::Waiting | State::Active, Event::HandedBack) => Ok(State::Bot),
        // Closing may be asked for twice, and the idle loop may run late: an end stays an end.
        (_, Event::Closed(_)) => Ok(State::Closed),
        (state, event) => {
            Err(Error::conflict(format!("a session that is {state:?} cannot be {event:?}").to_lowercase()))
        }
    }
}

/// One conversation of a tenant with one end user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Session {
    /// `ses_…`
    pub id: SessionId,
    /// Whose it is.
    pub tenant_id: TenantId,
    /// The tenant's own name of whoever writes, at most 128 characters.
    pub end_user: String,
    /// Where they write: `api`, or the id of a channel of the bot.
    pub channel: String,
    /// The bot's name of the conversation in an IM channel; none where somebody writes through the API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub umo: Option<String>,
    /// See [`State`].
    pub state: State,
    /// Only when it is closed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub close_reason: Option<CloseReason>,
    /// Whatever the tenant wants to keep with it, at most 4 KiB.
    #[schema(value_type = Object)]
    pub metadata: serde_json::Value,
    /// Grows whenever somebody else becomes the one who answers: what an earlier one still sends is refused.
    pub generation: i64,
    /// When it was opened.
    pub created_at: Timestamp,
    /// When somebody last wrote.
    pub last_active_at: Timestamp,
    /// Grows with every change: its `ETag`.
    pub version: i64,
}

impl Session {
    /// The session after `event` at `now`.
    ///
    /// # Errors
    /// See [`next`].
    pub fn after(&self, event: Event, now: Timestamp) -> Result<Self, Error> {
        let state = next(self.state, event)?;
        let close_reason = match event {
            Event::Closed(reason) => self.close_reason.or(Some(reason)),
            Event::PersonWanted | Event::TakenOver | Event::HandedBack => None,
        };
        let generation = self.generation + i64::from(state != self.state);
        Ok(Self { state, close_reason, generation, last_active_at: now, ..self.clone() })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{CloseReason, Event, State, next};

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            Just(Event::PersonWanted),
            Just(Event::TakenOver),
            Just(Event::HandedBack),
            Just(Event::Closed(CloseReason::Closed)),
            Just(Event::Closed(CloseReason::Idle)),
        ]
    }

    proptest! {
        #[test]
        fn an_end_is_never_left(events in prop::collection::vec(event(), 0..20)) {
            let mut state = State::Bot;
            for event in events {
                let before = state;
                state = next(state, event).unwrap_or(state);
                prop_assert!(before != State::Closed || state == State::Closed);
            }
        }
    }
}
