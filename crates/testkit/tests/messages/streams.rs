//! Reading an answer: from wherever one was, at whatever pace, before and after a restart.

use astrfleet_core::message::State;

use crate::{
    bots::{Act, answer},
    world::{Platform, World},
};
use astrfleet_core::id::{MessageId, TenantId};
use astrfleet_server::message::live::Said;

fn text(said: &[Said]) -> String {
    let of = |said: &Said| {
        serde_json::from_str::<serde_json::Value>(&said.data).unwrap()["text"].as_str().unwrap().to_owned()
    };
    said.iter().filter(|said| said.name == "delta").map(of).collect()
}

fn resumes_everywhere(platform: &Platform, tenant: &TenantId, message: &MessageId, stream: &[Said]) {
    for cut in 1..=stream.len() {
        let (seen, id) = (&stream[..cut], &stream[cut - 1].id);
        let rest = platform.stream(tenant, message, Some(id));
        assert_eq!(text(seen) + &text(&rest), "Hello you", "after {id}");
        assert_eq!(rest.last().unwrap().name, "done");
        assert!(rest.iter().all(|said| said.name != "accepted"), "{rest:?}");
        assert!(rest.iter().filter(|said| said.name == "state").count() < 3, "those of before are no news: {rest:?}");
    }
}

#[test]
fn a_stream_goes_on_after_every_one_of_its_events() {
    let world = World::new();
    let (platform, tenant, session) = world.ready();
    world.fleet.script(|_, _| {
        let slow = |act: Act| [act, Act::Wait];
        [vec![Act::Receive], answer()[1..4].iter().cloned().flat_map(slow).collect(), answer()[4..].to_vec()].concat()
    });
    let id = platform.send(&tenant, &session, "Hi");
    // One event at a time, read as they come.
    let stream = platform.run(async |app| {
        use futures_util::StreamExt as _;
        let mut stream = Box::pin(app.message.stream(&tenant.id, &id, "0-0".parse().unwrap()).await.unwrap());
        let mut said = Vec::new();
        while let Some(event) = stream.next().await {
            if event.name == "delta" {
                world.fleet.let_on.add_permits(1);
            }
            said.push(event);
        }
        said
    });
    assert_eq!(stream.iter().filter(|said| said.name == "delta").count(), 3);
    resumes_everywhere(&platform, &tenant.id, &id, &stream);
    platform.end();
    let platform = world.start();
    resumes_everywhere(&platform, &tenant.id, &id, &stream);
    platform.end();
}

/// Also to whoever has seen other states on the way than those that can be told.
#[test]
fn files_are_told_from_the_store_too() {
    let world = World::new();
    let (platform, tenant, session) = world.ready();
    world.fleet.script(|_, _| {
        let files = vec![Act::File("1.txt"), Act::File("2.txt"), Act::Complete("Hello you"), Act::Save("Hello you")];
        [vec![Act::Receive, Act::Say("Hello you")], files].concat()
    });
    let id = platform.send(&tenant, &session, "Hi");
    let stream = platform.stream(&tenant.id, &id, None);
    let told = |said: &[Said]| {
        let of = |said: &Said| said.name != "delta" && said.name != "state";
        said.iter().filter(|said| of(said)).map(|said| (said.name, said.data.clone())).collect::<Vec<_>>()
    };
    let whole = told(&stream);
    let names: Vec<_> = whole.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["accepted", "attachment", "attachment", "done"]);
    platform.end();
    let platform = world.start();
    assert_eq!(told(&platform.stream(&tenant.id, &id, None)), whole);
    for cut in 1..stream.len() {
        let rest = platform.stream(&tenant.id, &id, Some(&stream[cut - 1].id));
        let both = [&stream[..cut], &rest[..]].concat();
        assert_eq!((text(&both).as_str(), told(&both)), ("Hello you", whole.clone()), "after {}", stream[cut - 1].id);
    }
    platform.end();
}

#[test]
fn nobody_who_reads_slowly_or_goes_holds_an_answer_up() {
    let world = World::new();
    let (platform, tenant, session) = world.ready();
    let id = platform.send(&tenant, &session, "Hi");
    let said = platform.run(async |app| {
        use futures_util::StreamExt as _;
        let mut slow = Box::pin(app.message.stream(&tenant.id, &id, "0-0".parse().unwrap()).await.unwrap());
        slow.next().await.unwrap();
        let gone = app.message.stream(&tenant.id, &id, "0-0".parse().unwrap()).await.unwrap();
        drop(gone);
        assert_eq!(
            app.message.wait(&tenant.id, &id, std::time::Duration::from_mins(1)).await.unwrap().message.state,
            State::Done
        );
        slow.collect::<Vec<_>>().await
    });
    assert_eq!(text(&said), "Hello you", "and the slow one misses nothing");
    platform.end();
}
