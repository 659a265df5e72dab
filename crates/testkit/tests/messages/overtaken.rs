//! A person takes over, or a session is closed, while the bot has a message of it: nothing of its answer comes after that,
//! wherever the bot, the platform and the news of it are at that moment.

use std::sync::Arc;

use astrfleet_core::{
    id::{SessionId, TenantId},
    message::{Exchange, State},
    ports::BusEvent,
    session::{CloseReason, Event},
    tenant::Tenant,
};
use astrfleet_server::message::live::{Position, Said};
use futures_util::StreamExt;

use crate::{
    bots::{Act, answer},
    replicas::two,
    world::{Platform, World, until},
};

/// Whether anybody hears of what happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum News {
    Told,
    Lost,
}

fn happens(platform: &Platform, tenant: &TenantId, session: &SessionId, event: Event, news: News) {
    platform.run(async |app| {
        let sessions = app.store.sessions(tenant);
        let changed = sessions.get(session).await.unwrap().after(event, app.clock.now()).unwrap();
        sessions.update(&changed).await.unwrap();
        if news == News::Told {
            app.bus.publish(BusEvent::SessionChanged(tenant.clone(), session.clone()));
        }
    });
}

/// Half an answer, and the rest when it is let on.
fn slow_answer() -> Vec<Act> {
    vec![Act::Receive, Act::Say("Hello you"), Act::Wait, Act::Complete("Hello you"), Act::Save("Hello you")]
}

fn is_the_persons(exchange: &Exchange) {
    assert_eq!((exchange.message.state, &exchange.reply, &exchange.message.failure), (State::Done, &None, &None));
}

/// What is said after a hand-back is the bot's again.
fn handed_back(world: &World, platform: &Platform, tenant: &Arc<Tenant>, session: &SessionId) {
    happens(platform, &tenant.id, session, Event::HandedBack, News::Told);
    world.fleet.script(|_, _| answer());
    let next = platform.send(tenant, session, "and now?");
    assert_eq!(platform.wait(&tenant.id, &next).reply.unwrap().text, "Hello you");
    let said = platform.said(&tenant.id, session);
    let answers = said.iter().filter(|message| message.reply_to.is_some()).count();
    assert_eq!((said.len(), answers), (3, 1), "{said:?}");
}

fn while_waking(world: &World, news: News) {
    world.fleet.set_ready(false);
    let platform = world.start();
    let tenant = world.tenant(&platform, "acme");
    let session = world.session(&platform, &tenant.id);
    let id = platform.send(&tenant, &session, "Hi");
    let reader = {
        let (service, tenant, id) = (Arc::clone(&platform.app.message), tenant.id.clone(), id.clone());
        platform.spawn(async move {
            let stream = service.stream(&tenant, &id, Position::default()).await.unwrap();
            stream.collect::<Vec<Said>>().await
        })
    };
    platform.run(async |app| {
        let mut stream = Box::pin(app.message.stream(&tenant.id, &id, Position::default()).await.unwrap());
        while !stream.next().await.unwrap().data.contains("waking") {}
    });
    happens(&platform, &tenant.id, &session, Event::TakenOver, news);
    if news == News::Lost {
        world.fleet.set_ready(true);
    }
    let read = platform.run(async |_| reader.await.unwrap());
    assert_eq!(read.last().unwrap().name, "done", "{read:?}");
    is_the_persons(&platform.wait(&tenant.id, &id));
    world.fleet.set_ready(true);
    platform.run(async |app| app.manager.wait_ready(&tenant.id, std::time::Duration::from_mins(1)).await.unwrap());
    handed_back(world, &platform, &tenant, &session);
    assert_eq!(world.fleet.asked(), ["and now?"], "the bot was never asked the other one");
    platform.end();
}

#[test]
fn a_message_that_waits_for_its_bot_is_taken_from_it() {
    while_waking(&World::new(), News::Told);
}

#[test]
fn a_bot_that_has_become_ready_is_not_asked_what_a_person_answers() {
    while_waking(&World::new(), News::Lost);
    while_waking(&World::new().on_postgres(), News::Lost);
}

/// The bot is stopped, and who reads is told, although the bot itself would wait for ever.
fn while_streaming(world: &World) {
    let (platform, tenant, session) = world.ready();
    world.fleet.script(|_, _| slow_answer());
    let id = platform.send(&tenant, &session, "Hi");
    platform.until(&tenant.id, &id, State::Streaming);
    happens(&platform, &tenant.id, &session, Event::TakenOver, News::Told);
    let read = platform.stream(&tenant.id, &id, None);
    assert_eq!(read.last().unwrap().name, "done", "{read:?}");
    is_the_persons(&platform.wait(&tenant.id, &id));
    handed_back(world, &platform, &tenant, &session);
    is_the_persons(&platform.wait(&tenant.id, &id));
    platform.end();
}

#[test]
fn an_answer_is_stopped_where_a_person_takes_over() {
    while_streaming(&World::new());
}

#[test]
fn an_answer_is_stopped_on_postgres_too() {
    while_streaming(&World::new().on_postgres());
}

/// Nobody is told: then the end of the answer is refused, also where it has been handed back meanwhile.
fn while_its_end_comes(world: &World, back_at_once: bool) {
    let (platform, tenant, session) = world.ready();
    world.fleet.script(|_, _| slow_answer());
    let id = platform.send(&tenant, &session, "Hi");
    platform.until(&tenant.id, &id, State::Streaming);
    happens(&platform, &tenant.id, &session, Event::TakenOver, News::Lost);
    if back_at_once {
        happens(&platform, &tenant.id, &session, Event::HandedBack, News::Lost);
        happens(&platform, &tenant.id, &session, Event::TakenOver, News::Lost);
    }
    world.fleet.let_on.add_permits(1);
    let read = platform.stream(&tenant.id, &id, None);
    assert_eq!(read.last().unwrap().name, "done", "{read:?}");
    is_the_persons(&platform.wait(&tenant.id, &id));
    handed_back(world, &platform, &tenant, &session);
    platform.end();
}

#[test]
fn the_end_of_an_answer_that_comes_after_a_person_is_refused() {
    while_its_end_comes(&World::new(), false);
    while_its_end_comes(&World::new(), true);
}

#[test]
fn the_end_of_an_answer_is_refused_on_postgres_too() {
    while_its_end_comes(&World::new().on_postgres(), true);
}

/// Who takes over is at another process than the one that has the bot's queue.
fn at_another_replica(world: &World) {
    let (owner, other, tenant, session) = two(world);
    world.fleet.script(|_, _| slow_answer());
    let id = owner.send(&tenant, &session, "Hi");
    owner.until(&tenant.id, &id, State::Streaming);
    let waits = other.send(&tenant, &session, "Ho");
    let reader = {
        let (service, tenant, id) = (Arc::clone(&other.app.message), tenant.id.clone(), id.clone());
        other.spawn(async move {
            let stream = service.stream(&tenant, &id, Position::default()).await.unwrap();
            stream.collect::<Vec<Said>>().await
        })
    };
    assert_eq!(other.stream_until(&tenant.id, &id, "delta").last().unwrap().name, "delta");
    happens(&other, &tenant.id, &session, Event::TakenOver, News::Told);
    let read = other.run(async |_| reader.await.unwrap());
    assert_eq!(read.last().unwrap().name, "done", "{read:?}");
    for id in [&id, &waits] {
        is_the_persons(&other.wait(&tenant.id, id));
        is_the_persons(&owner.wait(&tenant.id, id));
    }
    happens(&owner, &tenant.id, &session, Event::HandedBack, News::Told);
    world.fleet.script(|_, _| answer());
    let next = other.send(&tenant, &session, "and now?");
    assert_eq!(other.wait(&tenant.id, &next).reply.unwrap().text, "Hello you");
    assert_eq!(world.fleet.asked(), ["first of all", "Hi", "and now?"]);
    other.end();
    owner.end();
}

#[test]
fn a_person_takes_over_at_another_process() {
    at_another_replica(&World::new().with_bus());
}

#[test]
fn a_person_takes_over_at_another_process_on_postgres() {
    at_another_replica(&World::new().on_postgres().with_bus());
}

#[test]
fn a_session_that_is_closed_gets_no_answer() {
    for news in [News::Told, News::Lost] {
        let world = World::new();
        let (platform, tenant, session) = world.ready();
        world.fleet.script(|_, _| slow_answer());
        let id = platform.send(&tenant, &session, "Hi");
        platform.until(&tenant.id, &id, State::Streaming);
        happens(&platform, &tenant.id, &session, Event::Closed(CloseReason::Closed), news);
        if news == News::Lost {
            world.fleet.let_on.add_permits(1);
        }
        let read = platform.stream(&tenant.id, &id, None);
        assert_eq!(read.last().unwrap().name, "failed", "{news:?}, {read:?}");
        let exchange = platform.wait(&tenant.id, &id);
        assert_eq!((exchange.message.state, exchange.reply), (State::Failed, None));
        assert_eq!(exchange.message.failure.unwrap().code, "stopped");
        platform.end();
    }
}

/// Nobody has the message while a person answers: what the bot remembers of it is not looked up afterwards.
#[test]
fn an_answer_in_the_bots_memory_comes_too_late_as_well() {
    let world = World::new();
    let (platform, tenant, session) = world.ready();
    world.fleet.script(|_, _| slow_answer());
    let id = platform.send(&tenant, &session, "Hi");
    platform.until(&tenant.id, &id, State::Streaming);
    let before = *world.fleet.did.borrow();
    happens(&platform, &tenant.id, &session, Event::TakenOver, News::Lost);
    happens(&platform, &tenant.id, &session, Event::HandedBack, News::Lost);
    platform.kill();
    world.fleet.let_on.add_permits(1);
    until(|| *world.fleet.did.borrow() >= before + 4);
    let platform = world.start();
    platform.run(async |app| app.manager.wait_ready(&tenant.id, std::time::Duration::from_mins(1)).await.unwrap());
    world.fleet.script(|_, _| answer());
    let next = platform.send(&tenant, &session, "and now?");
    assert_eq!(platform.wait(&tenant.id, &next).reply.unwrap().text, "Hello you");
    is_the_persons(&platform.wait(&tenant.id, &id));
    platform.end();
}
