//! What a store has to do with leases: at most one holder at any time, an epoch that only grows, and writes that depend
//! on it. Nobody waits for a lease to run out here: one that was taken for no time at all has run out at once.

use std::{collections::BTreeSet, time::Duration};

use astrfleet_core::{
    Error,
    message::State,
    ports::{Fence, Holder, Leases, Messages, Outcome, Store, Taken, queue_lease},
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

/// Longer than any suite takes.
const LONG: Duration = Duration::from_hours(1);
const CASES: u32 = 48;

/// Somebody.
#[must_use]
pub fn holder(id: &str) -> Holder {
    Holder { id: id.to_owned(), url: format!("http://{id}.example") }
}

/// Everything of it.
pub async fn all(store: &dyn Store, make: &Make) {
    let leases = store.leases();
    hands(&*leases).await;
    whoever_is_first_has_it(&*leases).await;
    whatever_happens_there_is_one_holder(&*leases).await;
    late_writes_change_nothing(store, make).await;
    leases.free_all().await.unwrap();
}

async fn epoch(leases: &dyn Leases, name: &str, by: &Holder, life: Duration) -> i64 {
    match leases.take(name, by, life).await.unwrap() {
        Taken::Ours(epoch) => epoch,
        Taken::Theirs(lease) => panic!("{} has {name}", lease.owner),
    }
}

async fn hands(leases: &dyn Leases) {
    let (ada, bob) = (holder("ada"), holder("bob"));
    assert_eq!(leases.get("hands").await.unwrap(), None);
    let first = epoch(leases, "hands", &ada, LONG).await;
    let seen = leases.get("hands").await.unwrap().unwrap();
    assert_eq!((seen.name.as_str(), seen.owner.as_str(), seen.url.as_str()), ("hands", "ada", "http://ada.example"));
    assert!(seen.epoch == first && !seen.is_free() && seen.remaining <= LONG);
    let Taken::Theirs(told) = leases.take("hands", &bob, LONG).await.unwrap() else { panic!("it is held") };
    assert_eq!((told.owner, told.epoch), (seen.owner, first), "and nothing was changed");
    let again = epoch(leases, "hands", &ada, LONG).await;
    assert!(again > first, "whoever takes it again may have lost count of it");

    assert!(!leases.release("hands", "ada", first).await.unwrap(), "an earlier epoch");
    assert!(!leases.release("hands", "bob", again).await.unwrap(), "another's");
    assert!(leases.release("hands", "ada", again).await.unwrap());
    assert!(!leases.release("hands", "ada", again).await.unwrap(), "twice is once");
    let free = leases.get("hands").await.unwrap().unwrap();
    assert!(free.is_free() && free.epoch == again, "the epoch stays");
    assert_eq!(leases.renew("ada", LONG).await.unwrap(), [], "what was given back is not held by being renewed");
    let second = epoch(leases, "hands", &bob, LONG).await;
    assert!(second > again);

    let other = epoch(leases, "other", &bob, LONG).await;
    let ran_out = epoch(leases, "ran out", &bob, Duration::ZERO).await;
    let mut renewed = leases.renew("bob", LONG).await.unwrap();
    renewed.sort_unstable();
    assert_eq!(renewed, [("hands".to_owned(), second), ("other".to_owned(), other)], "all that he still has");
    let stolen = epoch(leases, "ran out", &ada, LONG).await;
    assert!(stolen > ran_out);
    assert_eq!(leases.release_all("bob").await.unwrap(), 2);
    assert_eq!(leases.release_all("bob").await.unwrap(), 0);
    assert!(leases.get("hands").await.unwrap().unwrap().is_free());
    assert_eq!(leases.get("ran out").await.unwrap().unwrap().owner, "ada", "another's stay");
    assert!(leases.free_all().await.unwrap() >= 1);
    assert!(leases.get("ran out").await.unwrap().unwrap().is_free());
}

async fn whoever_is_first_has_it(leases: &dyn Leases) {
    let holders: Vec<_> = (0..8).map(|number| holder(&format!("first-{number}"))).collect();
    for round in 0..4 {
        let name = format!("first/{round}");
        let taken = join_all(holders.iter().map(|holder| leases.take(&name, holder, LONG))).await;
        let ours = taken.iter().filter(|taken| matches!(taken.as_ref().unwrap(), Taken::Ours(_))).count();
        assert_eq!(ours, 1, "{taken:?}");
    }
}

/// What somebody does.
#[derive(Clone, Debug)]
enum Step {
    Take(usize, bool),
    Renew(usize, bool),
    Release(usize),
    ReleaseAll(usize),
}

/// What must be true of the lease after it.
#[derive(Debug, Default)]
struct Model {
    owner: Option<usize>,
    epoch: i64,
    lasts: bool,
    /// Who was told so, and under which epoch.
    told: [i64; 3],
}

fn step() -> impl Strategy<Value = Step> {
    let who = || 0..3_usize;
    prop_oneof![
        4 => (who(), any::<bool>()).prop_map(|(who, long)| Step::Take(who, long)),
        2 => (who(), any::<bool>()).prop_map(|(who, long)| Step::Renew(who, long)),
        2 => who().prop_map(Step::Release),
        1 => who().prop_map(Step::ReleaseAll),
    ]
}

async fn whatever_happens_there_is_one_holder(leases: &dyn Leases) {
    let mut runner = TestRunner::new_with_rng(Config::default(), TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let steps = prop::collection::vec(step(), 1..16);
    for case in 0..CASES {
        let steps = steps.new_tree(&mut runner).unwrap().current();
        let name = format!("case/{case}");
        let holders: Vec<_> = (0..3).map(|who| holder(&format!("case-{case}-{who}"))).collect();
        let mut model = Model::default();
        for step in &steps {
            take_step(leases, &name, &holders, &mut model, step).await;
            let seen = leases.get(&name).await.unwrap();
            let lasts = seen.as_ref().is_some_and(|seen| !seen.is_free());
            assert_eq!((lasts, seen.map_or(0, |seen| seen.epoch)), (model.lasts, model.epoch), "{steps:?}");
        }
    }
}

async fn take_step(leases: &dyn Leases, name: &str, holders: &[Holder], model: &mut Model, step: &Step) {
    let life = |long: bool| if long { LONG } else { Duration::ZERO };
    match *step {
        Step::Take(who, long) => {
            let taken = leases.take(name, &holders[who], life(long)).await.unwrap();
            if model.lasts && model.owner != Some(who) {
                assert!(matches!(taken, Taken::Theirs(_)), "two hold it");
                return;
            }
            model.epoch += 1;
            assert_eq!(taken, Taken::Ours(model.epoch));
            (model.owner, model.lasts, model.told[who]) = (Some(who), long, model.epoch);
        }
        Step::Renew(who, long) => {
            let renewed = leases.renew(&holders[who].id, life(long)).await.unwrap();
            if model.lasts && model.owner == Some(who) {
                assert_eq!(renewed, [(name.to_owned(), model.epoch)]);
                model.lasts = long;
            } else {
                assert_eq!(renewed, [], "what has run out does not come back");
            }
        }
        Step::Release(who) => {
            let told = model.told[who];
            let released = leases.release(name, &holders[who].id, told).await.unwrap();
            let may = model.owner == Some(who) && told == model.epoch;
            assert!(may || !released, "somebody else's was given back");
            model.lasts &= !may;
        }
        Step::ReleaseAll(who) => {
            leases.release_all(&holders[who].id).await.unwrap();
            model.lasts &= model.owner != Some(who);
        }
    }
}

fn is_lost<T>(outcome: &Result<T, Error>) -> bool {
    matches!(outcome, Err(Error::Stale { what: "lease" }))
}

async fn late_writes_change_nothing(store: &dyn Store, make: &Make) {
    let tenant = make.stored_tenant(store, "fenced").await;
    let session = stored_session(store, make, &tenant, "ada").await;
    let (name, leases) = (queue_lease(&tenant), store.leases());
    let (early, late) = (holder("early"), holder("late"));
    let earlier = Fence { lease: name.clone(), epoch: epoch(&*leases, &name, &early, Duration::ZERO).await };
    let asked = message(make, &session);
    accepted(store, &asked).await;
    let by = |fence: &Fence| store.fenced_messages(&tenant, fence);

    let early = by(&earlier);
    assert!(early.set_state(&asked.id, State::Accepted, State::Delivering, NOW).await.unwrap(), "nobody took it yet");
    assert!(!early.set_state(&asked.id, State::Accepted, State::Delivering, NOW).await.unwrap(), "which is not lost");
    early.set_partial(&asked.id, "so far").await.unwrap();

    let later = Fence { epoch: epoch(&*leases, &name, &late, LONG).await, ..earlier.clone() };
    let before = store.messages(&tenant).delivery(&asked.id).await.unwrap();
    assert!(is_lost(&early.set_state(&asked.id, State::Delivering, State::Streaming, NOW).await));
    assert!(is_lost(&early.claim(&asked.id, 1, NOW).await));
    assert!(is_lost(&early.set_bot_record(&asked.id, 7).await));
    assert!(is_lost(&early.set_reply_record(&asked.id, 7).await));
    assert!(is_lost(&early.set_partial(&asked.id, "more").await));
    for outcome in [
        Outcome::Reply(reply(make, &asked, State::Done, NOW)),
        Outcome::Reply(reply(make, &asked, State::Interrupted, NOW)),
        Outcome::NoReply(State::Failed, None),
    ] {
        assert!(is_lost(&early.finish(&asked.id, &[State::Delivering], outcome, NOW).await));
    }
    assert_eq!(store.messages(&tenant).delivery(&asked.id).await.unwrap(), before, "nothing was changed");
    assert_eq!(store.messages(&tenant).exchange(&asked.id).await.unwrap().reply, None);

    let late = by(&later);
    let unknown = late.set_partial(&make.ids.message(), "?").await;
    assert!(matches!(unknown, Err(Error::NotFound { what: "message" })), "{unknown:?}");
    late.set_bot_record(&asked.id, 7).await.unwrap();
    let answer = reply(make, &asked, State::Done, NOW);
    assert!(late.finish(&asked.id, &[State::Delivering], Outcome::Reply(answer.clone()), NOW).await.unwrap());
    assert!(is_lost(&early.finish(&asked.id, &[State::Done], Outcome::NoReply(State::Failed, None), NOW).await));
    assert_eq!(store.messages(&tenant).exchange(&asked.id).await.unwrap().reply, Some(answer));
    races(store, make).await;
}

/// Two who both believe that they hold it answer at the same moment: one of them does.
async fn races(store: &dyn Store, make: &Make) {
    let tenant = make.stored_tenant(store, "fenced-races").await;
    let session = stored_session(store, make, &tenant, "ada").await;
    let (name, leases) = (queue_lease(&tenant), store.leases());
    for round in 0..8 {
        let asked = message(make, &session);
        accepted(store, &asked).await;
        let early = holder(&format!("racing-{round}"));
        let held = Fence { lease: name.clone(), epoch: epoch(&*leases, &name, &early, Duration::ZERO).await };
        let early = store.fenced_messages(&tenant, &held);
        let answers = [reply(make, &asked, State::Done, NOW), reply(make, &asked, State::Done, NOW)];
        let late = async {
            let epoch = epoch(&*leases, &name, &holder("late"), Duration::ZERO).await;
            let late = store.fenced_messages(&tenant, &Fence { epoch, ..held.clone() });
            finish(&*late, &answers[1]).await
        };
        let (one, other) = tokio::join!(finish(&*early, &answers[0]), late);
        let stored = store.messages(&tenant).exchange(&asked.id).await.unwrap().reply.unwrap();
        let given: BTreeSet<_> =
            [one.then(|| &answers[0].id), other.then(|| &answers[1].id)].into_iter().flatten().collect();
        assert_eq!(given, BTreeSet::from([&stored.id]), "one answer, and who gave it knows");
    }
}

async fn finish(messages: &dyn Messages, answer: &astrfleet_core::message::Message) -> bool {
    let asked = answer.reply_to.as_ref().unwrap();
    let outcome = Outcome::Reply(answer.clone());
    // One that raced with a whole answer may be refused by the last wall instead of being told `false`.
    messages.finish(asked, &[State::Accepted], outcome, NOW).await.unwrap_or(false)
}
