//! The way there and back, with everything that can refuse a message.

use std::sync::Arc;

use astrfleet_core::{
    Error,
    message::State,
    session::Event as SessionEvent,
    tenant::{Status, Tenant},
};
use serde_json::json;

use crate::{
    bots::{Act, answer},
    world::{World, until},
};

#[test]
fn a_message_is_answered_and_its_stream_tells_how() {
    let world = World::new();
    let (platform, tenant, session) = world.ready();
    let id = platform.send(&tenant, &session, "Hi");
    let stream = platform.stream(&tenant.id, &id, None);
    let text: String = stream
        .iter()
        .filter(|said| said.name == "delta")
        .map(|said| serde_json::from_str::<serde_json::Value>(&said.data).unwrap()["text"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(text, "Hello you");
    assert_eq!((stream[0].name, stream.last().unwrap().name), ("accepted", "done"));
    let exchange = platform.wait(&tenant.id, &id);
    let reply = exchange.reply.unwrap();
    assert_eq!((exchange.message.state, reply.state, reply.text.as_str()), (State::Done, State::Done, "Hello you"));
    assert_eq!(reply.usage.unwrap().total(), 14);
    assert_eq!(platform.said(&tenant.id, &session).len(), 2);
    platform.end();
}

#[test]
fn a_session_is_served_in_order_and_a_bot_within_its_bound() {
    let world = World::new();
    let (platform, tenant, session) = world.ready();
    world.fleet.script(|_, _| [vec![Act::Wait], answer()].concat());
    let others: Vec<_> = (0..5).map(|_| world.session(&platform, &tenant.id)).collect();
    let mut sent: Vec<_> = (0..3).map(|number| platform.send(&tenant, &session, &format!("first {number}"))).collect();
    sent.extend(others.iter().map(|other| platform.send(&tenant, other, "other")));
    until(|| world.fleet.asked().len() == 4);
    world.fleet.let_on.add_permits(100);
    for id in &sent {
        assert_eq!(platform.wait(&tenant.id, id).message.state, State::Done);
    }
    let in_order: Vec<_> = world.fleet.asked().into_iter().filter(|text| text.starts_with("first")).collect();
    assert_eq!(in_order, ["first 0", "first 1", "first 2"]);
    assert_eq!(world.fleet.most_at_once(), 4, "as many as the plan has");
    platform.end();
}

#[test]
fn a_key_gives_the_same_exchange_and_never_another() {
    let world = World::new().set("/plans/free/messages_per_day", json!(1));
    let (platform, tenant, session) = world.ready();
    let first = platform.try_send(&tenant, &session, "Hi", Some("k-1")).unwrap();
    platform.wait(&tenant.id, &first);
    assert_eq!(
        platform.try_send(&tenant, &session, "Hi", Some("k-1")).unwrap(),
        first,
        "also where a new message would be refused"
    );
    assert!(matches!(platform.try_send(&tenant, &session, "Ho", Some("k-1")), Err(Error::KeyReused)));
    assert!(matches!(platform.try_send(&tenant, &session, "Ho", Some("k-2")), Err(Error::QuotaExceeded { .. })));
    assert_eq!(world.fleet.asked(), ["Hi"]);
    assert_eq!(platform.stream(&tenant.id, &first, None).last().unwrap().name, "done");
    platform.end();
}

#[test]
fn a_full_queue_refuses_before_anything_is_stored() {
    let world = World::new().set("/message/queue_length", json!(2)).set("/plans/free/concurrent_chats", json!(1));
    let (platform, tenant, session) = world.ready();
    world.fleet.script(|_, _| [vec![Act::Wait], answer()].concat());
    let first = platform.send(&tenant, &session, "0");
    until(|| world.fleet.asked().len() == 1);
    platform.send(&tenant, &session, "1");
    let last = platform.send(&tenant, &session, "2");
    assert!(matches!(platform.try_send(&tenant, &session, "3", None), Err(Error::TooMany { .. })));
    assert_eq!(platform.said(&tenant.id, &session).len(), 3);
    world.fleet.let_on.add_permits(3);
    platform.wait(&tenant.id, &first);
    platform.wait(&tenant.id, &last);
    world.fleet.let_on.add_permits(1);
    let again = platform.send(&tenant, &session, "3");
    assert_eq!(platform.wait(&tenant.id, &again).message.state, State::Done);
    platform.end();
}

#[test]
fn what_cannot_be_served_is_refused() {
    let world = World::new();
    let (platform, tenant, session) = world.ready();
    let suspended = Arc::new(Tenant { status: Status::Suspended, ..(*tenant).clone() });
    assert!(matches!(platform.try_send(&suspended, &session, "Hi", None), Err(Error::Forbidden { .. })));
    let other = world.tenant(&platform, "other");
    assert!(matches!(platform.try_send(&other, &session, "Hi", None), Err(Error::NotFound { what: "session" })));
    platform.run(async |app| {
        let sessions = app.store.sessions(&tenant.id);
        let open = sessions.get(&session).await.unwrap();
        let closed = SessionEvent::Closed(astrfleet_core::session::CloseReason::Closed);
        sessions.update(&open.after(closed, app.clock.now()).unwrap()).await.unwrap();
    });
    assert!(matches!(platform.try_send(&tenant, &session, "Hi", None), Err(Error::Conflict { .. })));
    assert!(platform.said(&tenant.id, &session).is_empty());
    platform.end();
}

#[test]
fn where_a_person_answers_the_bot_is_not_asked() {
    let world = World::new();
    let (platform, tenant, session) = world.ready();
    platform.run(async |app| {
        let sessions = app.store.sessions(&tenant.id);
        let taken = sessions.get(&session).await.unwrap().after(SessionEvent::TakenOver, app.clock.now()).unwrap();
        sessions.update(&taken).await.unwrap();
    });
    let id = platform.send(&tenant, &session, "Hi");
    let exchange = platform.wait(&tenant.id, &id);
    assert_eq!((exchange.message.state, exchange.reply), (State::Done, None));
    assert_eq!(platform.stream(&tenant.id, &id, None).last().unwrap().name, "done");
    assert!(world.fleet.asked().is_empty());
    platform.end();
}

#[test]
fn a_models_failure_is_told_as_one() {
    let world = World::new();
    let (platform, tenant, session) = world.ready();
    world
        .fleet
        .script(|_, _| vec![Act::Receive, Act::Say("LLM error: 401"), Act::Usage(0), Act::Save("LLM error: 401")]);
    let id = platform.send(&tenant, &session, "Hi");
    let exchange = platform.wait(&tenant.id, &id);
    assert_eq!((exchange.message.state, exchange.reply), (State::Failed, None));
    assert_eq!(exchange.message.failure.unwrap().code, "model_failed");
    let stream = platform.stream(&tenant.id, &id, None);
    let problem: serde_json::Value = serde_json::from_str(&stream.last().unwrap().data).unwrap();
    assert_eq!(
        (stream.last().unwrap().name, &problem["status"], &problem["code"]),
        ("failed", &json!(502), &json!("model_failed"))
    );
    platform.end();
}

#[test]
fn a_stop_keeps_what_was_said() {
    let world = World::new();
    let (platform, tenant, session) = world.ready();
    world.fleet.script(|_, _| [vec![Act::Receive, Act::Say("Hel"), Act::Wait], answer()].concat());
    let (begun, waits) = (platform.send(&tenant, &session, "Hi"), platform.send(&tenant, &session, "Ho"));
    platform.until(&tenant.id, &begun, State::Streaming);
    let stop = |id| {
        platform.run(async |app| {
            let message = app.store.messages(&tenant.id).get(id).await.unwrap();
            app.message.stop(&message).await.unwrap()
        })
    };
    let stopped = stop(&waits);
    assert_eq!(stopped.message.failure.unwrap().code, "stopped");
    let stopped = stop(&begun);
    assert_eq!((stopped.message.state, stopped.reply.unwrap().text.as_str()), (State::Done, "Hel"));
    assert_eq!(stop(&begun).message.state, State::Done, "twice is the same as once");
    assert_eq!(world.fleet.asked(), ["Hi"]);
    platform.end();
}

#[test]
fn files_go_both_ways() {
    let world = World::new();
    let (platform, tenant, session) = world.ready();
    world.fleet.script(|_, _| {
        vec![Act::Receive, Act::Say("Here"), Act::File("out.txt"), Act::Complete("Here"), Act::Save("Here")]
    });
    let content = |bytes: usize| futures_util::stream::iter([Ok(bytes::Bytes::from(vec![b'x'; bytes]))]);
    let keep = |bytes| {
        platform.run(async |app| {
            use futures_util::StreamExt as _;
            app.message.keep_file(&tenant, "../in.txt", None, content(bytes).boxed()).await
        })
    };
    let file = keep(900).unwrap();
    assert_eq!((file.name.as_str(), file.media_type.as_str(), file.size), ("in.txt", "text/plain", 900));
    assert!(matches!(keep(1_001), Err(Error::TooLarge { .. } | Error::QuotaExceeded { .. })));
    assert!(matches!(keep(700), Err(Error::QuotaExceeded { .. })));
    let words = astrfleet_server::message::accept::Words { text: "See".to_owned(), attachments: vec![file.id.clone()] };
    let taken =
        platform.run(async |app| app.message.accept(Arc::clone(&tenant), session.clone(), words, None).await.unwrap());
    let id = taken.id().clone();
    let reply = platform.wait(&tenant.id, &id).reply.unwrap();
    assert_eq!(world.fleet.uploaded(), [("in.txt".to_owned(), bytes::Bytes::from(vec![b'x'; 900]))]);
    assert_eq!(world.fleet.last_request().attachments[0].id, "given in.txt");
    assert_eq!(reply.attachments.len(), 1);
    assert!(platform.stream(&tenant.id, &id, None).iter().any(|said| said.name == "attachment"));
    platform.end();
}
