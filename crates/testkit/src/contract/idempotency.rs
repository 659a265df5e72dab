//! What a store has to do with answers under an `Idempotency-Key`.

use std::time::Duration;

use astrfleet_core::ports::{Begun, Store, StoredAnswer};

use super::store::{Make, NOW};

const REQUEST: [u8; 32] = [1; 32];
const OTHER_REQUEST: [u8; 32] = [2; 32];

/// Everything of it.
pub async fn all(store: &dyn Store, make: &Make) {
    let (owner, other) = (make.ids.user(), make.ids.user());
    let (ours, theirs) = (store.idempotency(owner.as_str()), store.idempotency(other.as_str()));
    let earlier = NOW.minus(Duration::from_secs(1));
    let answer = StoredAnswer { status: 201, body: "{\"ü\":1}".to_owned() };

    assert_eq!(ours.begin("one", &REQUEST, NOW, earlier).await.unwrap(), Begun::New);
    assert_eq!(ours.begin("one", &REQUEST, NOW, earlier).await.unwrap(), Begun::InProgress);
    assert_eq!(ours.begin("one", &OTHER_REQUEST, NOW, earlier).await.unwrap(), Begun::Different);
    assert_eq!(ours.begin("two", &REQUEST, NOW, earlier).await.unwrap(), Begun::New, "another key");

    assert_eq!(theirs.begin("one", &OTHER_REQUEST, NOW, earlier).await.unwrap(), Begun::New, "another owner");
    theirs.forget("one").await.unwrap();
    theirs.finish("two", &answer).await.unwrap();
    assert_eq!(ours.begin("two", &REQUEST, NOW, earlier).await.unwrap(), Begun::InProgress, "changes nothing of ours");

    ours.finish("one", &answer).await.unwrap();
    assert_eq!(ours.begin("one", &REQUEST, NOW, earlier).await.unwrap(), Begun::Answered(answer.clone()));
    assert_eq!(ours.begin("one", &OTHER_REQUEST, NOW, earlier).await.unwrap(), Begun::Different);
    ours.finish("one", &StoredAnswer { status: 500, body: String::new() }).await.unwrap();
    ours.forget("one").await.unwrap();
    let late = NOW.plus(Duration::from_secs(9));
    let answered = ours.begin("one", &REQUEST, late, late).await.unwrap();
    assert_eq!(answered, Begun::Answered(answer), "an answer stays, whoever comes late");

    ours.forget("two").await.unwrap();
    assert_eq!(ours.begin("two", &OTHER_REQUEST, NOW, earlier).await.unwrap(), Begun::New, "given back");
    assert_eq!(ours.begin("two", &REQUEST, late, late).await.unwrap(), Begun::New, "given up by whoever began it");
    assert_eq!(ours.begin("two", &REQUEST, late, late).await.unwrap(), Begun::InProgress, "which counts from now on");

    one_of_many(store, make).await;
    the_old_go(store, make).await;
}

async fn one_of_many(store: &dyn Store, make: &Make) {
    let owner = make.ids.user();
    let begins = (0..8).map(|_| {
        let port = store.idempotency(owner.as_str());
        async move { port.begin("key", &REQUEST, NOW, NOW).await.unwrap() }
    });
    let begun = futures_util::future::join_all(begins).await;
    assert_eq!(begun.iter().filter(|begun| **begun == Begun::New).count(), 1, "{begun:?}");
}

async fn the_old_go(store: &dyn Store, make: &Make) {
    let (owner, system) = (make.ids.user(), store.system("the suite of the store"));
    let long_ago = NOW.minus(Duration::from_hours(1000));
    let old = long_ago.minus(Duration::from_secs(1));
    for (key, at) in [("a", old), ("b", old), ("c", old), ("d", long_ago)] {
        assert_eq!(store.idempotency(owner.as_str()).begin(key, &REQUEST, at, old).await.unwrap(), Begun::New);
    }
    assert_eq!(system.delete_idempotency(long_ago, 2).await.unwrap(), 2, "no more than asked for");
    assert_eq!(system.delete_idempotency(long_ago, 2).await.unwrap(), 1, "what was begun at that moment stays");
    assert_eq!(system.delete_idempotency(long_ago, 2).await.unwrap(), 0);
}
