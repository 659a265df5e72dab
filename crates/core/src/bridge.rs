//! What becomes of a message that an IM channel brought: it reached the bot by itself, and the bot asks us what to do
//! with it before anything else happens. Such a message never waits in our own queue.

use serde::{Deserialize, Serialize};

use crate::{
    message::{self, Failure},
    session,
};

/// What the bot is to do with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Go on as if nobody had been asked.
    Answer,
    /// Say nothing: a person of the tenant answers.
    Hold,
    /// Say nothing.
    Drop,
}

/// How a message came to us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// The bot waits for our word, and would answer.
    Asked,
    /// The bot waits for our word, and was not meant: people talk among themselves in a group.
    Overheard,
    /// The tenant may not have it answered, for this reason.
    Refused(Failure),
    /// We were away; the bot has answered meanwhile, and tells how it went next.
    AnsweredMeanwhile,
    /// We were away, and the bot was to keep silent.
    SilentMeanwhile,
}

/// What follows for the bot, and in which state the message is stored.
#[must_use]
pub fn decide(session: session::State, arrival: &Arrival) -> (Verdict, message::State, Option<Failure>) {
    let by_person = matches!(session, session::State::Waiting | session::State::Active);
    match arrival {
        Arrival::Refused(failure) => (Verdict::Drop, message::State::Blocked, Some(failure.clone())),
        // Whoever answers in the session now: the bot has done it, or is about to.
        Arrival::AnsweredMeanwhile => (Verdict::Answer, message::State::Delivering, None),
        _ if session == session::State::Closed => {
            (Verdict::Drop, message::State::Failed, Some(message::session_closed()))
        }
        _ if by_person => (Verdict::Hold, message::State::Done, None),
        Arrival::SilentMeanwhile => (Verdict::Drop, message::State::Failed, Some(silent())),
        Arrival::Asked => (Verdict::Answer, message::State::Delivering, None),
        Arrival::Overheard => (Verdict::Answer, message::State::Done, None),
    }
}

/// What follows for a bot that tells of a message once more since it did not hear us the first time; `message` is its
/// state by now.
#[must_use]
pub fn decide_again(session: session::State, message: message::State, arrival: &Arrival) -> Verdict {
    // What counted against the message then counted already.
    let arrival = if matches!(arrival, Arrival::Refused(_)) { &Arrival::Asked } else { arrival };
    let (verdict, ..) = decide(session, arrival);
    match (message, verdict) {
        (message::State::Delivering, verdict) => verdict,
        (message::State::Done, Verdict::Answer) if *arrival == Arrival::Overheard => Verdict::Answer,
        (message::State::Done, Verdict::Hold) => Verdict::Hold,
        _ => Verdict::Drop,
    }
}

/// Why an answer must not go out, if it must not: what the session and the message are now beside what the bot knows.
/// `generation` is the session's at the time of the verdict.
#[must_use]
pub fn too_late(session: &session::Session, message: message::State, generation: i64) -> Option<Late> {
    match session.state {
        session::State::Closed => Some(Late::Closed),
        session::State::Waiting | session::State::Active => Some(Late::HandedOver),
        session::State::Bot if session.generation != generation => Some(Late::HandedOver),
        session::State::Bot if matches!(message, message::State::Failed | message::State::Blocked) => Some(Late::Ended),
        session::State::Bot => None,
    }
}

/// Why an answer comes too late.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Late {
    /// A person has taken the session over meanwhile.
    HandedOver,
    /// The session was closed meanwhile.
    Closed,
    /// The message was stopped, or given up.
    Ended,
}

fn silent() -> Failure {
    Failure {
        code: "no_answer".to_owned(),
        detail: "the platform was away when this came, and the bot is told to be silent then: answer by hand"
            .to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Arrival, Late, Verdict, decide, too_late};
    use crate::{
        id::{Ids, SessionId},
        message::{Failure, State as MessageState},
        ports::testing::{CountingRng, FixedClock},
        session::{Session, State},
        time::Timestamp,
    };

    fn arrivals() -> impl Strategy<Value = Arrival> {
        let failure = Failure { code: "quota_exceeded".to_owned(), detail: String::new() };
        prop_oneof![
            Just(Arrival::Asked),
            Just(Arrival::Overheard),
            Just(Arrival::Refused(failure)),
            Just(Arrival::AnsweredMeanwhile),
            Just(Arrival::SilentMeanwhile),
        ]
    }

    fn states() -> impl Strategy<Value = State> {
        prop_oneof![Just(State::Bot), Just(State::Waiting), Just(State::Active), Just(State::Closed)]
    }

    proptest! {
        #[test]
        fn the_bot_is_silent_where_a_person_answers(state in states(), arrival in arrivals()) {
            let (verdict, stored, failure) = decide(state, &arrival);
            if state != State::Bot && arrival != Arrival::AnsweredMeanwhile {
                prop_assert_ne!(verdict, Verdict::Answer);
            }
            // What nobody is to answer is at its end, and what ended badly says why.
            prop_assert!(verdict == Verdict::Answer || stored.is_final());
            prop_assert_eq!(failure.is_some(), matches!(stored, MessageState::Failed | MessageState::Blocked));
            // Nothing for our own queue.
            prop_assert_ne!(stored, MessageState::Accepted);
        }

        #[test]
        fn an_answer_goes_out_only_in_the_time_that_it_was_asked_in(state in states(), then in 0i64..3, now in 0i64..3) {
            let session = session(state, now);
            let late = too_late(&session, MessageState::Delivering, then);
            prop_assert_eq!(late.is_none(), state == State::Bot && then == now);
        }
    }

    fn session(state: State, generation: i64) -> Session {
        let ids = Ids::new(std::sync::Arc::new(FixedClock::at(0)), std::sync::Arc::new(CountingRng::default()));
        let id: SessionId = ids.session();
        Session {
            id,
            tenant_id: ids.tenant(),
            end_user: "7".to_owned(),
            channel: "tg1".to_owned(),
            umo: Some("tg1:FriendMessage:7".to_owned()),
            state,
            close_reason: None,
            metadata: serde_json::json!({}),
            generation,
            created_at: Timestamp::from_micros(0),
            last_active_at: Timestamp::from_micros(0),
            version: 1,
        }
    }

    #[test]
    fn what_was_stopped_is_not_answered_any_more() {
        let open = session(State::Bot, 0);
        assert_eq!(too_late(&open, MessageState::Failed, 0), Some(Late::Ended));
        assert_eq!(too_late(&open, MessageState::Done, 0), None, "a second piece of an answer");
    }
}
