//! What a store has to do with answers under an `Idempotency-Key`.

use std::time::Duration;

use astrfleet_core::{
    ports::{Begun, Store, StoredAnswer},
    time::Timestamp,
};

use super::{store::Make, system::later};

const REQUEST: [u8; 32] = [1; 32];
const OTHER_REQUEST: [u8; 32] = [2; 32];
/// Longer than any suite.
const LONG: Duration = Duration::from_hours(1);

/// Everything of it. What is old and what is not goes by the store's own clock, which no test turns.
pub async fn all(store: &dyn Store, make: &Make) {
    let (owner, other) = (make.ids.user(), make.ids.user());
    let (ours, theirs) = (store.idempotency(owner.as_str()), store.idempotency(other.as_str()));
    let answer = StoredAnswer { status: 201, body: "{\"ü\":1}".to_owned() };

    assert_eq!(ours.begin("one", &REQUEST, LONG).await.unwrap(), Begun::New);
    assert_eq!(ours.begin("one", &REQUEST, LONG).await.unwrap(), Begun::InProgress);
    assert_eq!(ours.begin("one", &REQUEST, Duration::MAX).await.unwrap(), Begun::InProgress);
    assert_eq!(ours.begin("one", &OTHER_REQUEST, LONG).await.unwrap(), Begun::Different);
    assert_eq!(ours.begin("two", &REQUEST, LONG).await.unwrap(), Begun::New, "another key");

    assert_eq!(theirs.begin("one", &OTHER_REQUEST, LONG).await.unwrap(), Begun::New, "another owner");
    theirs.forget("one").await.unwrap();
    theirs.finish("two", &answer).await.unwrap();
    assert_eq!(ours.begin("two", &REQUEST, LONG).await.unwrap(), Begun::InProgress, "changes nothing of ours");

    ours.finish("one", &answer).await.unwrap();
    assert_eq!(ours.begin("one", &REQUEST, LONG).await.unwrap(), Begun::Answered(answer.clone()));
    assert_eq!(ours.begin("one", &OTHER_REQUEST, LONG).await.unwrap(), Begun::Different);
    ours.finish("one", &StoredAnswer { status: 500, body: String::new() }).await.unwrap();
    ours.forget("one").await.unwrap();
    later(store).await;
    let answered = ours.begin("one", &REQUEST, Duration::ZERO).await.unwrap();
    assert_eq!(answered, Begun::Answered(answer), "an answer stays, whoever comes late");

    ours.forget("two").await.unwrap();
    assert_eq!(ours.begin("two", &OTHER_REQUEST, LONG).await.unwrap(), Begun::New, "given back");
    later(store).await;
    assert_eq!(ours.begin("two", &REQUEST, Duration::ZERO).await.unwrap(), Begun::New, "given up by whoever began it");
    assert_eq!(ours.begin("two", &REQUEST, LONG).await.unwrap(), Begun::InProgress, "which counts from now on");

    one_of_many(store, make).await;
    the_old_go(store, make).await;
}

async fn one_of_many(store: &dyn Store, make: &Make) {
    let owner = make.ids.user();
    let begins = (0..8).map(|_| {
        let port = store.idempotency(owner.as_str());
        async move { port.begin("key", &REQUEST, LONG).await.unwrap() }
    });
    let begun = futures_util::future::join_all(begins).await;
    assert_eq!(begun.iter().filter(|begun| **begun == Begun::New).count(), 1, "{begun:?}");
}

async fn the_old_go(store: &dyn Store, make: &Make) {
    let (owner, system) = (make.ids.user(), store.system("the suite of the store"));
    let begin = async |key: &str| {
        assert_eq!(store.idempotency(owner.as_str()).begin(key, &REQUEST, LONG).await.unwrap(), Begun::New);
    };
    // What others have left here.
    let first: Timestamp = later(store).await;
    while system.delete_idempotency(first, 100).await.unwrap() > 0 {}
    for key in ["a", "b", "c"] {
        begin(key).await;
    }
    let before = later(store).await;
    begin("d").await;
    assert_eq!(system.delete_idempotency(before, 2).await.unwrap(), 2, "no more than asked for");
    assert_eq!(system.delete_idempotency(before, 2).await.unwrap(), 1, "what was begun since stays");
    assert_eq!(system.delete_idempotency(before, 2).await.unwrap(), 0);
}
