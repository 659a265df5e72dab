//! What a store has to do with events: told with what they tell of, in one order, to nobody else.

use std::time::Duration;

use astrfleet_core::{
    Error,
    event::{Event, Kind, NewEvent, TEXT_CHARS_MAX},
    id::{EventId, SessionId, TenantId},
    message::{Failure, Message, State},
    ports::{Accepted, NewMessage, Outcome, Store},
    session::{CloseReason, Event as SessionEvent, Session},
    time::Timestamp,
};
use futures_util::future::join_all;
use serde_json::{Value, json};

use super::{
    messages::{accepted, message, reply},
    sessions::stored_session,
    store::{Make, NOW},
};

/// Everything of it.
pub async fn all(store: &dyn Store, make: &Make) {
    what_is_accepted(store, make).await;
    how_messages_end(store, make).await;
    what_becomes_of_sessions(store, make).await;
    what_is_shown_of_a_message(store, make).await;
    nobody_elses(store, make).await;
    every_place_is_seen_once(store, make).await;
    old_ones_are_forgotten(store, make).await;
}

fn after(seconds: u64) -> Timestamp {
    NOW.plus(Duration::from_secs(seconds))
}

async fn told(store: &dyn Store, tenant: &TenantId, session: Option<&SessionId>) -> Vec<Event> {
    store.events(tenant).after(0, session, 1_000).await.unwrap()
}

fn kinds(events: &[Event]) -> Vec<&str> {
    events.iter().map(|event| event.kind.as_str()).collect()
}

async fn what_is_accepted(store: &dyn Store, make: &Make) {
    let tenant = make.stored_tenant(store, "events-accepted").await;
    assert_eq!(store.events(&tenant).bounds().await.unwrap(), (1, 0));
    let session = stored_session(store, make, &tenant, "ada").await;
    let first = message(make, &session);
    accepted(store, &first).await;
    let told_once = told(store, &tenant, None).await;
    let [opened, event] = &told_once[..] else { panic!("{told_once:?}") };
    assert_eq!((opened.kind.as_str(), &opened.session_id), ("session.opened", &Some(session.id.clone())));
    assert_eq!(opened.data["session"]["end_user"], "ada");
    assert_eq!(event.id, EventId::of(&tenant, 2));
    assert_eq!((event.kind.as_str(), event.timestamp, &event.tenant_id), ("message.accepted", NOW, &tenant));
    assert_eq!(event.data["message_id"], first.id.as_str());
    assert_eq!((&event.data["message"]["id"], &event.data["message"]["text"]), (&json!(first.id), &json!(first.text)));
    assert_eq!(store.events(&tenant).bounds().await.unwrap(), (1, 2));

    // Once more, under a key, refused, and blocked: one event for each message that is new.
    accepted(store, &first).await;
    let key = Some(("key".to_owned(), [1; 32]));
    for _ in 0..2 {
        let again = NewMessage { message: message(make, &session), idempotency: key.clone() };
        store.messages(&tenant).accept(again).await.unwrap();
    }
    let homeless = Message { session_id: make.ids.session(), ..message(make, &session) };
    let refused = store.messages(&tenant).accept(NewMessage { message: homeless, idempotency: None }).await;
    assert!(refused.is_err());
    let blocked = Message { state: State::Blocked, ..message(make, &session) };
    accepted(store, &blocked).await;
    let all = told(store, &tenant, None).await;
    assert_eq!(kinds(&all)[2..], ["message.accepted", "message.blocked"]);

    let other = make.stored_tenant(store, "events-accepted-too").await;
    let theirs = stored_session(store, make, &other, "bob").await;
    let many: Vec<_> = (0..150).map(|number| message(make, if number % 3 == 0 { &theirs } else { &session })).collect();
    join_all(many.iter().map(|message| accepted(store, message))).await;
    for (tenant, from, count) in [(&tenant, 4, 100), (&other, 1, 50)] {
        let events = store.events(tenant).after(from, None, 1_000).await.unwrap();
        let places: Vec<_> = events.iter().map(Event::seq).collect();
        assert_eq!(places, (from + 1..=from + count).collect::<Vec<_>>(), "each a place of its own");
        let ids: Vec<_> = many.iter().filter(|message| message.tenant_id == *tenant).map(|m| json!(m.id)).collect();
        assert!(ids.iter().all(|id| events.iter().filter(|event| event.data["message_id"] == *id).count() == 1));
    }
}

async fn how_messages_end(store: &dyn Store, make: &Make) {
    let tenant = make.stored_tenant(store, "events-ends").await;
    let session = stored_session(store, make, &tenant, "ada").await;
    let messages = store.messages(&tenant);
    let failure = Some(Failure { code: "model_failed".to_owned(), detail: "Try again.".to_owned() });
    let asked = async || {
        let asked = message(make, &session);
        accepted(store, &asked).await;
        asked
    };
    let from = [State::Accepted, State::Delivering, State::Interrupted];
    let done = asked().await;
    let answer = reply(make, &done, State::Done, after(1));
    assert!(messages.finish(&done.id, &from, Outcome::Reply(answer.clone()), after(1)).await.unwrap());
    assert!(!messages.finish(&done.id, &from, Outcome::Reply(answer.clone()), after(2)).await.unwrap());
    let failed = asked().await;
    assert!(messages.finish(&failed.id, &from, Outcome::NoReply(State::Failed, failure), after(3)).await.unwrap());
    let blocked = asked().await;
    assert!(messages.finish(&blocked.id, &from, Outcome::NoReply(State::Blocked, None), after(4)).await.unwrap());
    let persons = asked().await;
    assert!(messages.finish(&persons.id, &from, Outcome::NoReply(State::Done, None), after(5)).await.unwrap());
    let cut = asked().await;
    let part = reply(make, &cut, State::Interrupted, after(6));
    assert!(messages.finish(&cut.id, &[State::Accepted], Outcome::Reply(part.clone()), after(6)).await.unwrap());
    let whole = reply(make, &cut, State::Done, after(7));
    assert!(messages.finish(&cut.id, &from, Outcome::Reply(whole.clone()), after(7)).await.unwrap());
    let silent = asked().await;
    let outcome = Outcome::NoReply(State::Interrupted, None);
    assert!(messages.finish(&silent.id, &[State::Accepted], outcome, after(8)).await.unwrap());
    let found = reply(make, &silent, State::Done, after(9));
    assert!(messages.finish(&silent.id, &[State::Interrupted], Outcome::Reply(found), after(9)).await.unwrap());

    let events = told(store, &tenant, Some(&session.id)).await;
    let ends: Vec<_> =
        events.iter().filter(|event| !matches!(&*event.kind, "message.accepted" | "session.opened")).collect();
    let seen: Vec<_> = ends.iter().map(|event| (&*event.kind, event.data["message_id"].as_str().unwrap())).collect();
    let expected = [
        ("reply.done", done.id.as_str()),
        ("reply.failed", failed.id.as_str()),
        ("message.blocked", blocked.id.as_str()),
        ("reply.interrupted", cut.id.as_str()),
        ("reply.repaired", cut.id.as_str()),
        ("reply.interrupted", silent.id.as_str()),
        ("reply.repaired", silent.id.as_str()),
    ];
    assert_eq!(seen, expected);
    let shown = |number: usize| &ends[number].data["message"];
    assert_eq!((&shown(0)["text"], &shown(0)["reply_to"]), (&json!(answer.text), &json!(done.id)));
    assert_eq!(shown(0)["usage"]["completion_tokens"], 22);
    assert_eq!(shown(1)["failure"]["code"], "model_failed");
    assert_eq!(shown(3), &Value::Null, "the part that the whole answer replaced is gone");
    assert_eq!(shown(4)["text"], whole.text);
    assert_eq!(ends[0].timestamp, after(1));
}

async fn what_becomes_of_sessions(store: &dyn Store, make: &Make) {
    let tenant = make.stored_tenant(store, "events-sessions").await;
    let sessions = store.sessions(&tenant);
    let mut session = stored_session(store, make, &tenant, "ada").await;
    let life = [
        SessionEvent::PersonWanted,
        SessionEvent::TakenOver,
        SessionEvent::HandedBack,
        SessionEvent::TakenOver,
        SessionEvent::Closed(CloseReason::Idle),
    ];
    for (number, event) in (1..).zip(life) {
        let stale = Session { version: 99, ..session.after(event, after(number)).unwrap() };
        assert!(matches!(sessions.update(&stale).await, Err(Error::Stale { .. })));
        session = sessions.update(&session.after(event, after(number)).unwrap()).await.unwrap();
        session = sessions.update(&Session { metadata: json!({ "n": number }), ..session }).await.unwrap();
    }
    let events = told(store, &tenant, None).await;
    let expected = [
        "session.opened",
        "session.waiting",
        "session.taken_over",
        "session.handed_back",
        "session.taken_over",
        "session.closed",
    ];
    assert_eq!(kinds(&events), expected, "each change of state, and no other");
    let closed = &events[5];
    assert_eq!(
        (&closed.data["session"]["state"], &closed.data["session"]["close_reason"]),
        (&json!("closed"), &json!("idle"))
    );
    assert_eq!((closed.timestamp, &closed.data["session"]["generation"]), (after(5), &json!(session.generation)));
}

async fn what_is_shown_of_a_message(store: &dyn Store, make: &Make) {
    let tenant = make.stored_tenant(store, "events-shown").await;
    let session = stored_session(store, make, &tenant, "ada").await;
    let long = Message { text: "客".repeat(TEXT_CHARS_MAX + 1), ..message(make, &session) };
    let whole = Message { text: "客".repeat(TEXT_CHARS_MAX), ..message(make, &session) };
    for message in [&long, &whole] {
        accepted(store, message).await;
    }
    let events = store.events(&tenant).after(1, None, 10).await.unwrap();
    let shown: Vec<_> = events
        .iter()
        .map(|event| (event.data["message"]["text"].as_str().unwrap(), event.data["message"]["text_cut"] == true))
        .collect();
    assert_eq!(shown, [(&*whole.text, true), (&*whole.text, false)]);
    assert!(store.messages(&tenant).set_state(&whole.id, State::Accepted, State::Delivering, NOW).await.unwrap());
    let events = store.events(&tenant).after(2, None, 10).await.unwrap();
    assert_eq!(events[0].data["message"]["state"], "delivering", "as it stands now");
}

async fn nobody_elses(store: &dyn Store, make: &Make) {
    let (ours, theirs) =
        (make.stored_tenant(store, "events-ours").await, make.stored_tenant(store, "events-theirs").await);
    let (one, two) = (stored_session(store, make, &ours, "ada").await, stored_session(store, make, &ours, "bob").await);
    let elsewhere = stored_session(store, make, &theirs, "ada").await;
    for session in [&one, &two, &elsewhere] {
        accepted(store, &message(make, session)).await;
    }
    let (of_one, of_two) = (told(store, &ours, Some(&one.id)).await, told(store, &ours, Some(&two.id)).await);
    assert_eq!(
        of_one.iter().chain(&of_two).map(|event| event.session_id.clone().unwrap()).collect::<Vec<_>>(),
        [one.id.clone(), one.id.clone(), two.id.clone(), two.id.clone()]
    );
    assert_eq!(told(store, &ours, Some(&elsewhere.id)).await, []);
    assert_eq!(told(store, &theirs, Some(&one.id)).await, []);
    assert_eq!(told(store, &theirs, None).await.len(), 2);
    assert_eq!(store.events(&ours).after(1, Some(&one.id), 1).await.unwrap(), of_one[1..]);

    let disabled = NewEvent {
        kind: Kind::WebhookDisabled,
        session_id: None,
        message_id: None,
        data: json!({ "webhook": { "id": "whk_1" } }),
        at: NOW,
    };
    store.events(&ours).append(&disabled).await.unwrap();
    let last = told(store, &ours, None).await.pop().unwrap();
    assert_eq!((last.seq(), &*last.kind, last.session_id), (5, "webhook.disabled", None));
    let nowhere = store.events(&make.ids.tenant()).append(&disabled).await;
    assert!(nowhere.is_err(), "a tenant that is not there");

    let system = store.system("the suite of the store");
    let mut newest = system.newest_events(&[ours.clone(), make.ids.tenant(), theirs.clone()]).await.unwrap();
    newest.sort();
    assert_eq!(newest, [(ours, 5), (theirs, 2)]);
    assert_eq!(system.newest_events(&[]).await.unwrap(), []);
}

/// Many write at the same moment, and somebody reads on all the while: what they saw last is never overtaken by what
/// they have not seen.
async fn every_place_is_seen_once(store: &dyn Store, make: &Make) {
    let tenant = make.stored_tenant(store, "events-order").await;
    let sessions = join_all((0..4).map(|_| stored_session(store, make, &tenant, "ada"))).await;
    let said: Vec<_> = (0..60).map(|number| message(make, &sessions[number % 4])).collect();
    let wanted = i64::try_from(sessions.len() + said.len() * 2).unwrap();
    let write = join_all(said.iter().map(|asked| async {
        let new = NewMessage { message: asked.clone(), idempotency: None };
        assert_eq!(store.messages(&tenant).accept(new).await.unwrap(), Accepted::New);
        let outcome = Outcome::Reply(reply(make, asked, State::Done, NOW));
        assert!(store.messages(&tenant).finish(&asked.id, &[State::Accepted], outcome, NOW).await.unwrap());
    }));
    let read = async {
        let mut last = 0;
        while last < wanted {
            for event in store.events(&tenant).after(last, None, 7).await.unwrap() {
                assert_eq!(event.seq(), last + 1, "a place was passed over");
                last += 1;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::join!(write, read);
    let events = told(store, &tenant, None).await;
    assert_eq!(events.len(), usize::try_from(wanted).unwrap());
    for asked in &said {
        let of: Vec<_> = events.iter().filter(|event| event.data["message_id"] == asked.id.as_str()).collect();
        assert_eq!(of.iter().map(|event| &*event.kind).collect::<Vec<_>>(), ["message.accepted", "reply.done"]);
    }
}

async fn old_ones_are_forgotten(store: &dyn Store, make: &Make) {
    let tenant = make.stored_tenant(store, "events-old").await;
    let long_ago = NOW.minus(Duration::from_hours(24 * 365));
    let session = stored_session(store, make, &tenant, "ada").await;
    for at in [long_ago, long_ago, NOW] {
        // Others of the suites are newer than these.
        accepted(store, &Message { created_at: at, ..message(make, &session) }).await;
    }
    let first = Message { created_at: long_ago, ..message(make, &session) };
    accepted(store, &first).await;
    let system = store.system("the suite of the store");
    assert_eq!(system.delete_events(long_ago.plus(Duration::from_secs(1)), 2).await.unwrap(), 2, "no more at once");
    assert_eq!(system.delete_events(long_ago.plus(Duration::from_secs(1)), 9).await.unwrap(), 1);
    assert_eq!(system.delete_events(long_ago.plus(Duration::from_secs(1)), 9).await.unwrap(), 0);
    let places: Vec<_> = told(store, &tenant, None).await.iter().map(Event::seq).collect();
    assert_eq!(places, [1, 4]);
    assert_eq!(store.events(&tenant).bounds().await.unwrap(), (1, 5), "a place is never given twice");
    accepted(store, &message(make, &session)).await;
    assert_eq!(told(store, &tenant, None).await.last().unwrap().seq(), 6);
}
