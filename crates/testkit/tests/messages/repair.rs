//! Whatever dies, and whenever: each message is answered once, or says that it is not. Never twice, never lost.

use std::time::Duration;

use astrfleet_core::message::{Author, State};
use proptest::prelude::*;

use crate::{
    bots::{Act, answer},
    world::{World, until},
};

#[test]
fn a_bot_that_dies_before_it_has_the_message_gets_it_again() {
    let world = World::new();
    let (platform, tenant, session) = world.ready();
    world.fleet.script(|_, before| if before == 0 { vec![Act::Die] } else { answer() });
    let id = platform.send(&tenant, &session, "Hi");
    let exchange = platform.wait(&tenant.id, &id);
    assert_eq!((exchange.message.state, exchange.reply.unwrap().text.as_str()), (State::Done, "Hello you"));
    assert_eq!(world.fleet.asked().len(), 2);
    platform.end();
}

#[test]
fn a_bot_that_dies_in_the_middle_is_not_asked_again() {
    let world = World::new();
    let (platform, tenant, session) = world.ready();
    world.fleet.script(|_, _| vec![Act::Receive, Act::Say("Hel"), Act::Die]);
    let id = platform.send(&tenant, &session, "Hi");
    let exchange = platform.wait(&tenant.id, &id);
    assert_eq!(exchange.message.state, State::Interrupted);
    assert_eq!(exchange.reply.unwrap().text, "Hel");
    assert_eq!(platform.stream(&tenant.id, &id, None).last().unwrap().name, "interrupted");
    world.fleet.script(|_, _| answer());
    let next = platform.send(&tenant, &session, "Ho");
    assert_eq!(platform.wait(&tenant.id, &next).message.state, State::Done);
    assert_eq!(world.fleet.asked(), ["Hi", "Ho"]);
    platform.end();
}

#[test]
fn an_answer_that_was_cut_off_is_found_in_the_bots_memory() {
    let world = World::new();
    let (platform, tenant, session) = world.ready();
    world
        .fleet
        .script(|_, _| vec![Act::Receive, Act::Say("Hel"), Act::Break, Act::Wait, Act::SaveSilently("Hello you")]);
    let id = platform.send(&tenant, &session, "Hi");
    platform.until(&tenant.id, &id, State::Interrupted);
    world.fleet.let_on.add_permits(1);
    let exchange = platform.until(&tenant.id, &id, State::Done);
    assert_eq!(exchange.reply.unwrap().text, "Hello you");
    assert_eq!(platform.said(&tenant.id, &session).len(), 2, "the partial answer was replaced");
    assert_eq!(platform.stream(&tenant.id, &id, None).last().unwrap().name, "done");
    assert_eq!(world.fleet.asked().len(), 1);
    platform.end();
}

#[test]
fn a_clock_that_is_behind_makes_no_other_bot_of_the_one_that_runs() {
    let world = World::new();
    let (platform, tenant, session) = world.ready_on(world.start_behind(Duration::from_hours(1)));
    world
        .fleet
        .script(|_, _| vec![Act::Receive, Act::Say("Hel"), Act::Break, Act::Wait, Act::SaveSilently("Hello you")]);
    let id = platform.send(&tenant, &session, "Hi");
    platform.until(&tenant.id, &id, State::Interrupted);
    // By the bot's start and the message's time, it was brought to another process: nothing more would be expected.
    let before = world.fleet.looked_into();
    until(|| world.fleet.looked_into() >= before + 2);
    world.fleet.let_on.add_permits(1);
    assert_eq!(platform.until(&tenant.id, &id, State::Done).reply.unwrap().text, "Hello you");
    assert_eq!(world.fleet.asked(), ["Hi"]);
    platform.end();
}

#[test]
fn a_break_after_the_bot_silently_took_the_message_is_no_second_delivery() {
    let world = World::new();
    let (platform, tenant, session) = world.ready();
    world.fleet.script(|_, _| vec![Act::ReceiveSilently, Act::Break, Act::SaveSilently("Hello you")]);
    let id = platform.send(&tenant, &session, "Hi");
    assert_eq!(platform.until(&tenant.id, &id, State::Done).reply.unwrap().text, "Hello you");
    assert_eq!(world.fleet.asked().len(), 1);
    platform.end();
}

#[test]
fn an_end_that_came_too_early_is_noticed() {
    let world = World::new();
    let (platform, tenant, session) = world.ready();
    world.fleet.script(|text, _| match text {
        "late" => vec![Act::Receive, Act::Say("Hel"), Act::Hush, Act::SaveSilently("Hello you")],
        "silent" => vec![Act::Receive, Act::Hush, Act::SaveSilently("Hello you")],
        _ => vec![Act::Receive],
    });
    for text in ["late", "silent"] {
        let id = platform.send(&tenant, &session, text);
        assert_eq!(platform.wait(&tenant.id, &id).reply.unwrap().text, "Hello you", "{text}");
    }
    let id = platform.send(&tenant, &session, "nothing");
    assert_eq!(platform.wait(&tenant.id, &id).message.failure.unwrap().code, "no_answer");
    assert_eq!(world.fleet.asked().len(), 3);
    platform.end();
}

#[test]
fn the_end_of_the_process_is_told_and_the_next_one_finds_the_answer() {
    let world = World::new();
    let (platform, tenant, session) = world.ready();
    world.fleet.script(|_, _| vec![Act::Receive, Act::Say("Hel"), Act::Wait, Act::SaveSilently("Hello you")]);
    let id = platform.send(&tenant, &session, "Hi");
    platform.until(&tenant.id, &id, State::Streaming);
    let (said, waiting) = platform.run(async |app| {
        use futures_util::StreamExt as _;
        let stream = app.message.stream(&tenant.id, &id, "0-0".parse().unwrap()).await.unwrap();
        let reader = tokio::spawn(stream.collect::<Vec<_>>());
        app.message.drain().await;
        let said = reader.await.unwrap();
        (said, app.store.messages(&tenant.id).get(&id).await.unwrap().state)
    });
    assert_eq!((said.last().unwrap().name, waiting), ("interrupted", State::Streaming));
    platform.kill();
    let platform = world.start();
    world.fleet.let_on.add_permits(1);
    assert_eq!(platform.until(&tenant.id, &id, State::Done).reply.unwrap().text, "Hello you");
    let rest = platform.stream(&tenant.id, &id, Some(&said[said.len() - 2].id));
    assert_eq!(rest.iter().map(|said| said.name).collect::<Vec<_>>(), ["delta", "done"]);
    assert!(rest[0].data.contains("lo you") && !rest[0].data.contains("Hel"), "{rest:?}");
    platform.end();
}

/// Where the platform, or the bot, dies: in front of one of the bot's acts.
fn crash(at: usize, platform_dies: bool, bot_dies: bool, silent: bool) {
    let world = World::new();
    let (platform, tenant, session) = world.ready();
    let whole = if silent {
        vec![Act::ReceiveSilently, Act::Say("Hel"), Act::Say("lo you"), Act::SaveSilently("Hello you")]
    } else {
        answer()
    };
    let at = at.min(whole.len());
    world.fleet.script(move |text, before| {
        let mut acts = whole.clone();
        if text == "1" && before == 0 {
            acts.insert(at, Act::Wait);
        }
        acts
    });
    let before = *world.fleet.did.borrow();
    let sent: Vec<_> = ["1", "2", "3"].iter().map(|text| platform.send(&tenant, &session, text)).collect();
    until(|| *world.fleet.did.borrow() > before + at);
    if bot_dies {
        world.fleet.kill_all();
    }
    let platform = if platform_dies {
        platform.kill();
        world.start()
    } else {
        platform
    };
    world.fleet.let_on.add_permits(10);
    for id in &sent[1..] {
        platform.until(&tenant.id, id, State::Done);
    }
    // The first may have been cut off for good where the bot died while it had it.
    let first = platform.wait(&tenant.id, &sent[0]);
    let first = if bot_dies { first } else { platform.until(&tenant.id, &sent[0], State::Done) };
    assert!(matches!(first.message.state, State::Done | State::Interrupted), "{first:?}");
    if first.message.state == State::Done {
        assert_eq!(first.reply.unwrap().text, "Hello you");
    }
    let said = platform.said(&tenant.id, &session);
    for id in &sent {
        let replies = said.iter().filter(|reply| reply.reply_to.as_ref() == Some(id)).count();
        assert!(replies <= 1, "{said:?}");
    }
    assert_eq!(said.iter().filter(|message| message.author == Author::User).count(), 3);
    let asked = world.fleet.asked();
    let taken = usize::from(!silent || at > 0) * at;
    assert!(asked.iter().filter(|text| *text == "1").count() <= if taken == 0 { 2 } else { 1 }, "{asked:?}");
    assert_eq!(asked.iter().filter(|text| *text == "2").count(), 1);
    platform.end();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 8, ..ProptestConfig::default() })]

    #[test]
    fn whatever_dies_each_message_is_answered_at_most_once_and_none_is_lost(
        at in 0_usize..8, (platform_dies, bot_dies) in prop_oneof![Just((true, false)), Just((false, true)), Just((true, true))],
        silent in any::<bool>(),
    ) {
        crash(at, platform_dies, bot_dies, silent);
    }
}

#[test]
fn a_restart_in_every_state_ends_well() {
    let world = World::new();
    let (platform, tenant, session) = world.ready();
    world.fleet.script(|_, _| [vec![Act::Wait], answer()].concat());
    // Held at the bot's door: the others wait behind it.
    let first = platform.send(&tenant, &session, "1");
    let others: Vec<_> = ["2", "3"].iter().map(|text| platform.send(&tenant, &session, text)).collect();
    platform.until(&tenant.id, &first, State::Delivering);
    platform.kill();
    // The bot dies too: it never had the first one.
    world.fleet.kill_all();
    world.fleet.script(|_, _| answer());
    let platform = world.start();
    for id in [&first, &others[0], &others[1]] {
        assert_eq!(platform.until(&tenant.id, id, State::Done).reply.unwrap().text, "Hello you");
    }
    assert_eq!(world.fleet.asked(), ["1", "1", "2", "3"], "in order, although the first came back");
    platform.end();
}
