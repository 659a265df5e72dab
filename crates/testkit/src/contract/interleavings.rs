//! Whatever workers, repairs and people do to a message at the same moment, and in whatever order: it is never answered
//! twice, and an answer that was whole never changes.

use astrfleet_core::{
    id::TenantId,
    message::{Message, State},
    page::PageRequest,
    ports::{Messages, Outcome, Store},
};
use futures_util::future::join_all;
use proptest::{
    prelude::*,
    strategy::ValueTree,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};

use super::{
    messages::{accepted, message, reply},
    sessions::stored_session,
    store::{Make, NOW},
};

const CASES: u32 = 24;

/// What somebody does.
#[derive(Clone, Debug)]
enum Step {
    Set(State, State),
    Answer(Vec<State>, State),
    GiveUp(Vec<State>, State),
}

fn state() -> impl Strategy<Value = State> {
    prop::sample::select(vec![
        State::Accepted,
        State::Delivering,
        State::Streaming,
        State::Done,
        State::Interrupted,
        State::Failed,
        State::Blocked,
    ])
}

fn step() -> impl Strategy<Value = Step> {
    let from = || prop::collection::vec(state(), 0..4);
    let end = || prop::sample::select(vec![State::Failed, State::Blocked, State::Interrupted]);
    prop_oneof![
        (state(), state()).prop_map(|(from, to)| Step::Set(from, to)),
        (from(), prop::sample::select(vec![State::Done, State::Interrupted]))
            .prop_map(|(from, end)| Step::Answer(from, end)),
        (from(), end()).prop_map(|(from, end)| Step::GiveUp(from, end)),
    ]
}

/// Everything of it. The cases are the same in every run; each prints itself where it fails.
pub async fn all(store: &dyn Store, make: &Make) {
    let tenant = make.stored_tenant(store, "interleaved").await;
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    // What stands in one row happens at the same moment.
    let cases = prop::collection::vec(prop::collection::vec(step(), 1..4), 1..8);
    for _ in 0..CASES {
        let case = cases.new_tree(&mut runner).unwrap().current();
        run(store, make, &tenant, &case).await;
    }
}

async fn run(store: &dyn Store, make: &Make, tenant: &TenantId, case: &[Vec<Step>]) {
    let session = stored_session(store, make, tenant, "ada").await;
    let messages = store.messages(tenant);
    let asked = message(make, &session);
    accepted(store, &asked).await;
    let mut whole: Option<Message> = None;
    for row in case {
        let answers: Vec<_> = join_all(row.iter().map(|step| take(&*messages, make, &asked, step))).await;
        let said = messages.list(&session.id, &PageRequest::first()).await.unwrap().items;
        let replies: Vec<_> = said.iter().filter(|message| message.reply_to.is_some()).collect();
        assert!(replies.len() <= 1, "answered twice: {case:?}");
        if let Some(whole) = &whole {
            assert_eq!(replies, [whole], "a whole answer was changed: {case:?}");
        }
        for answer in answers.into_iter().flatten().filter(|answer| answer.state == State::Done) {
            assert_eq!(replies, [&answer], "an answer was lost: {case:?}");
            whole = Some(answer);
        }
    }
}

/// The answer that was given, if it was taken.
async fn take(messages: &dyn Messages, make: &Make, asked: &Message, step: &Step) -> Option<Message> {
    match step {
        Step::Set(from, to) => {
            messages.set_state(&asked.id, *from, *to, NOW).await.unwrap();
            None
        }
        Step::Answer(from, end) => {
            let answer = reply(make, asked, *end, NOW);
            let outcome = Outcome::Reply(answer.clone());
            // One that raced with a whole answer may be refused by the last wall instead of being told `false`.
            let taken = messages.finish(&asked.id, from, outcome, NOW).await.unwrap_or(false);
            taken.then_some(answer)
        }
        Step::GiveUp(from, end) => {
            messages.finish(&asked.id, from, Outcome::NoReply(*end, None), NOW).await.unwrap();
            None
        }
    }
}
