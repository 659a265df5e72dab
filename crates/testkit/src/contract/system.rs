//! What a store has to do beyond one tenant.

use std::time::Duration;

use astrfleet_core::{
    id::{MessageId, SessionId},
    message::State,
    ports::{Outcome, Store, Taken, queue_lease},
    session::{CloseReason, Event, Session},
    time::Timestamp,
};

use super::{
    bridge::inbound,
    leases::holder,
    messages::{accepted, message},
    sessions::{session, stored_session},
    store::{Make, NOW},
};

/// A moment of the store's own clock after which everything comes that is stored from here on, and before which
/// everything was that is stored.
pub async fn later(store: &dyn Store) -> Timestamp {
    let system = store.system("the suite of the store");
    let begun = system.now().await.unwrap();
    loop {
        tokio::time::sleep(Duration::from_millis(1)).await;
        let now = system.now().await.unwrap();
        if now > begun {
            return now;
        }
    }
}

/// Everything of it.
pub async fn all(store: &dyn Store, make: &Make) {
    store.system("the suite of the store").ping().await.unwrap();
    work_is_found(store, make).await;
    idle_sessions(store, make).await;
    an_idle_session_in_which_somebody_writes_stays_open(store, make).await;
}

async fn work_is_found(store: &dyn Store, make: &Make) {
    let mut messages = Vec::new();
    for name in ["work-one", "work-two"] {
        let tenant = make.stored_tenant(store, name).await;
        let session = stored_session(store, make, &tenant, "ada").await;
        for _ in 0..4 {
            messages.push(message(make, &session));
        }
    }
    for message in &messages {
        accepted(store, message).await;
    }
    let system = store.system("the suite of the store");
    let ours = |id: &MessageId| messages.iter().any(|message| message.id == *id);

    let expected: Vec<_> = messages
        .iter()
        .map(|message| (message.tenant_id.clone(), message.session_id.clone(), message.id.clone()))
        .collect();
    let (tenants, name) =
        (async || system.tenants_without_owner(1_000).await.unwrap(), queue_lease(&messages[0].tenant_id));
    let first = &messages[0].tenant_id;
    assert!(tenants().await.contains(first));
    let ada = holder("owner-of-a-queue");
    assert!(matches!(store.leases().take(&name, &ada, Duration::from_hours(1)).await.unwrap(), Taken::Ours(_)));
    assert!(!tenants().await.contains(first) && tenants().await.contains(&messages[4].tenant_id));
    let of = async |after, limit| system.waiting_messages_of(&ada.id, after, limit).await.unwrap();
    assert_eq!(of(None, 1_000).await, expected[..4], "of her tenant alone, the oldest first");
    assert_eq!(of(Some(&messages[1].id), 1).await, expected[2..3], "after the one that was seen last");

    let later = NOW.plus(Duration::from_secs(10));
    let set = async |number: usize, from, to, at| {
        let message = &messages[number];
        assert!(store.messages(&message.tenant_id).set_state(&message.id, from, to, at).await.unwrap());
    };
    for number in 1..7 {
        set(number, State::Accepted, State::Delivering, NOW).await;
    }
    set(1, State::Delivering, State::Streaming, NOW).await;
    for (number, at) in [(2, NOW), (3, later)] {
        let message = &messages[number];
        let outcome = Outcome::NoReply(State::Interrupted, None);
        assert!(
            store.messages(&message.tenant_id).finish(&message.id, &[State::Delivering], outcome, at).await.unwrap()
        );
    }
    set(4, State::Delivering, State::Failed, later).await;
    set(5, State::Delivering, State::Done, later).await;

    let found = async |since| {
        let found = system.unfinished_messages(since, None, 1_000).await.unwrap();
        found.into_iter().map(|(_, id)| id).filter(|id| ours(id)).collect::<Vec<_>>()
    };
    let ids = |numbers: &[usize]| numbers.iter().map(|number| messages[*number].id.clone()).collect::<Vec<_>>();
    assert_eq!(found(Timestamp::default()).await, ids(&[1, 2, 3, 6]));
    assert_eq!(found(NOW).await, ids(&[1, 3, 6]), "what was interrupted too long ago is left");
    let after = system.unfinished_messages(NOW, Some(&messages[1].id), 1).await.unwrap();
    assert_eq!(after, [(messages[3].tenant_id.clone(), messages[3].id.clone())]);
    assert_eq!(of(None, 1_000).await, expected[..1], "what is on its way does not wait");
    store.leases().release_all(&ada.id).await.unwrap();
    assert!(tenants().await.contains(first), "whose queue was given back");
}

async fn idle_sessions(store: &dyn Store, make: &Make) {
    let tenant = make.stored_tenant(store, "idle").await;
    let sessions = store.sessions(&tenant);
    let (long_ago, now) = (NOW.minus(Duration::from_mins(150)), NOW);
    let open = async |last_active_at| {
        let session = Session { last_active_at, ..session(make, &tenant, "ada") };
        sessions.insert(&session).await.unwrap();
        session
    };
    let idle = open(long_ago).await;
    let idler = open(long_ago.minus(Duration::from_secs(1))).await;
    let _busy = open(now).await;
    let closed = open(long_ago).await;
    sessions.update(&closed.after(Event::Closed(CloseReason::Closed), long_ago).unwrap()).await.unwrap();
    let (waiting, answered, written_in) = (open(long_ago).await, open(long_ago).await, open(long_ago).await);
    let old = |session: &Session| astrfleet_core::message::Message { created_at: long_ago, ..message(make, session) };
    accepted(store, &old(&waiting)).await;
    let done = old(&answered);
    accepted(store, &done).await;
    let blocked = astrfleet_core::message::Message { state: State::Blocked, ..message(make, &written_in) };
    accepted(store, &blocked).await;

    let system = store.system("the suite of the store");
    let before = NOW.minus(Duration::from_mins(1));
    let found = async || {
        let found = system.idle_sessions(before, 1_000).await.unwrap();
        found.into_iter().filter(|session| session.tenant_id == tenant).collect::<Vec<_>>()
    };
    let ids = |sessions: &[Session]| sessions.iter().map(|session| session.id.clone()).collect::<Vec<SessionId>>();
    assert_eq!(ids(&found().await), ids(&[idler.clone(), idle.clone()]), "unfinished ones and new words count");
    assert_eq!(system.idle_sessions(before, 1).await.unwrap().len(), 1);

    let outcome = Outcome::NoReply(State::Failed, None);
    let messages = store.messages(&tenant);
    assert!(messages.finish(&done.id, &[State::Accepted], outcome, long_ago).await.unwrap());
    let found = found().await;
    assert_eq!(found.len(), 3);
    assert!(found.contains(&idler) && found.contains(&idle) && found.contains(&answered), "as they are stored");
}

/// Between the look for idle sessions and the close, somebody writes: in the one through the API, in the other through a
/// channel.
async fn an_idle_session_in_which_somebody_writes_stays_open(store: &dyn Store, make: &Make) {
    let tenant = make.stored_tenant(store, "idle-no-more").await;
    let (long_ago, before) = (NOW.minus(Duration::from_mins(150)), NOW.minus(Duration::from_mins(1)));
    let (sessions, messages) = (store.sessions(&tenant), store.messages(&tenant));
    let umo = "tg1:FriendMessage:idle";
    let mut found = Vec::new();
    for umo in [None, None, Some(umo.to_owned())] {
        let session = Session { last_active_at: long_ago, umo, ..session(make, &tenant, "ada") };
        sessions.insert(&session).await.unwrap();
        found.push(session);
    }
    let close = async |session: &Session| {
        let closed = session.after(Event::Closed(CloseReason::Idle), NOW).unwrap();
        sessions.close_idle(&closed, before).await.unwrap()
    };
    let [idle, written_in, of_a_channel] = &found[..] else { unreachable!() };
    let asked = message(make, written_in);
    accepted(store, &asked).await;
    store.bridge(&tenant).take_in(inbound(make, &tenant, umo, "1", 1)).await.unwrap();
    assert!(!close(written_in).await && !close(of_a_channel).await);
    assert_eq!(sessions.get(&written_in.id).await.unwrap(), *written_in);
    let outcome = Outcome::NoReply(State::Failed, None);
    assert!(messages.finish(&asked.id, &[State::Accepted], outcome, long_ago).await.unwrap());
    assert!(!close(written_in).await, "what was written counts when it is at its end, too");

    assert!(close(idle).await);
    let closed = sessions.get(&idle.id).await.unwrap();
    assert_eq!((closed.close_reason, closed.version), (Some(CloseReason::Idle), idle.version + 1));
    assert!(!close(idle).await && !close(&closed).await, "once");
    let theirs = make.stored_tenant(store, "idle-theirs").await;
    assert!(!store.sessions(&theirs).close_idle(idle, before).await.unwrap(), "another tenant's");
}
