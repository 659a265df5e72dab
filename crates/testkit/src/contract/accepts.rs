//! What a store has to do with messages that are accepted, many at once.

use astrfleet_core::{
    Error, Result,
    id::TenantId,
    message::{Failure, Message, State},
    page::PageRequest,
    ports::{Accepted, NewMessage, Store},
};
use futures_util::future::join_all;

use super::{
    messages::{accepted, message, reply},
    sessions::stored_session,
    store::{Make, NOW},
};

/// More than go into one statement.
const MANY: usize = 200;

/// Everything of it.
pub async fn all(store: &dyn Store, make: &Make) {
    what_is_taken_in(store, make).await;
    keys(store, make).await;
    the_same_key_at_the_same_moment(store, make).await;
    a_refused_one_fails_alone(store, make).await;
}

async fn accept(store: &dyn Store, message: &Message, key: Option<(&str, u8)>) -> Result<Accepted> {
    let idempotency = key.map(|(key, hash)| (key.to_owned(), [hash; 32]));
    store.messages(&message.tenant_id).accept(NewMessage { message: message.clone(), idempotency }).await
}

async fn what_is_taken_in(store: &dyn Store, make: &Make) {
    let tenant = make.stored_tenant(store, "accepts-many").await;
    let session = stored_session(store, make, &tenant, "ada").await;
    let said: Vec<_> = (0..MANY).map(|_| message(make, &session)).collect();
    join_all(said.iter().map(|message| accepted(store, message))).await;
    let page = store.messages(&tenant).list(&session.id, &PageRequest::first()).await.unwrap();
    assert_eq!(page.items, said, "all of them, each as it was");

    let failure = Failure { code: "quota_exceeded".to_owned(), detail: "Tomorrow there will be more.".to_owned() };
    let blocked = Message { state: State::Blocked, failure: Some(failure), ..message(make, &session) };
    accepted(store, &blocked).await;
    assert_eq!(store.messages(&tenant).get(&blocked.id).await.unwrap(), blocked);
    let broken = Message { text: "a\u{0}b".to_owned(), ..message(make, &session) };
    accepted(store, &broken).await;
    assert_eq!(store.messages(&tenant).get(&broken.id).await.unwrap().text, "a\u{fffd}b");
    accepted(store, &broken).await;

    let answer = reply(make, &broken, State::Done, NOW);
    assert!(matches!(accept(store, &answer, None).await, Err(Error::Internal { .. })), "answers come otherwise");
    let new = NewMessage { message: message(make, &session), idempotency: None };
    let other = store.messages(&make.ids.tenant()).accept(new).await;
    assert!(matches!(other, Err(Error::Internal { .. })), "and another tenant's not at all");
}

async fn keys(store: &dyn Store, make: &Make) {
    let tenant = make.stored_tenant(store, "accepts-keys").await;
    let other = make.stored_tenant(store, "accepts-keys-theirs").await;
    let session = stored_session(store, make, &tenant, "ada").await;
    let first = message(make, &session);
    assert_eq!(accept(store, &first, Some(("key", 1))).await.unwrap(), Accepted::New);
    let again = message(make, &session);
    assert_eq!(accept(store, &again, Some(("key", 1))).await.unwrap(), Accepted::Before(first.id.clone()));
    assert!(matches!(accept(store, &again, Some(("key", 2))).await, Err(Error::KeyReused)));
    assert!(store.messages(&tenant).get(&again.id).await.is_err(), "nothing came of it");
    assert_eq!(accept(store, &again, Some(("Key", 1))).await.unwrap(), Accepted::New, "another key");
    let before =
        async |of: &TenantId, key, hash| store.messages(of).accepted_before(&session.id, key, &[hash; 32]).await;
    assert_eq!(before(&tenant, "key", 1).await.unwrap(), Some(first.id.clone()));
    assert!(matches!(before(&tenant, "key", 2).await, Err(Error::KeyReused)));
    assert_eq!(before(&tenant, "new", 1).await.unwrap(), None);
    assert_eq!(before(&other, "key", 1).await.unwrap(), None, "another tenant's key is another one");

    for tenant in [&tenant, &other] {
        let session = stored_session(store, make, tenant, "ada").await;
        let elsewhere = message(make, &session);
        assert_eq!(accept(store, &elsewhere, Some(("key", 2))).await.unwrap(), Accepted::New, "another session");
    }
}

async fn the_same_key_at_the_same_moment(store: &dyn Store, make: &Make) {
    let tenant = make.stored_tenant(store, "accepts-race").await;
    let session = stored_session(store, make, &tenant, "ada").await;
    let tries: Vec<_> = (0..64).map(|_| message(make, &session)).collect();
    let outcomes = join_all(tries.iter().map(|message| accept(store, message, Some(("key", 1))))).await;
    let page = store.messages(&tenant).list(&session.id, &PageRequest::first()).await.unwrap();
    let [stored] = &page.items[..] else { panic!("{} were stored", page.items.len()) };
    for (tried, outcome) in tries.iter().zip(outcomes) {
        let expected = if tried.id == stored.id { Accepted::New } else { Accepted::Before(stored.id.clone()) };
        assert_eq!(outcome.unwrap(), expected);
    }
}

async fn a_refused_one_fails_alone(store: &dyn Store, make: &Make) {
    let tenant = make.stored_tenant(store, "accepts-refused").await;
    let other = make.stored_tenant(store, "accepts-refused-theirs").await;
    let session = stored_session(store, make, &tenant, "ada").await;
    let theirs = stored_session(store, make, &other, "ada").await;
    let said: Vec<_> = (0..MANY)
        .map(|number| match number % 50 {
            7 => Message { session_id: make.ids.session(), ..message(make, &session) },
            // A session that is there, but not this tenant's.
            8 => Message { session_id: theirs.id.clone(), ..message(make, &session) },
            _ => message(make, &session),
        })
        .collect();
    let outcomes = join_all(said.iter().map(|message| accept(store, message, None))).await;
    for (number, outcome) in outcomes.into_iter().enumerate() {
        if matches!(number % 50, 7 | 8) {
            assert!(matches!(outcome, Err(Error::NotFound { what: "session" })), "{number}: {outcome:?}");
        } else {
            assert_eq!(outcome.unwrap(), Accepted::New, "{number}");
        }
    }
    let stored = store.messages(&tenant).list(&session.id, &PageRequest::first()).await.unwrap().items;
    let good = said.iter().filter(|message| message.session_id == session.id);
    assert!(stored.iter().eq(good));
}
