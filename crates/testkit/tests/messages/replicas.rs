//! Several processes on one database: whatever is killed, stopped for a while or not told, each message is answered once,
//! in its order, and every process can tell how.

use std::{cell::RefCell, sync::Arc, time::Duration};

use astrfleet_core::{
    Error,
    api_key::Scope,
    id::{MessageId, SessionId},
    message::{Author, State},
    ports::{Lease, queue_lease},
    tenant::Tenant,
};
use astrfleet_server::{
    auth::NewApiKey,
    message::{accept::Words, live::Said},
};
use futures_util::{FutureExt, StreamExt, poll};
use proptest::prelude::*;
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use tokio::sync::watch;

use crate::{
    bots::{Act, FILES, answer},
    world::{Frozen, Platform, World, until},
};

/// Shorter than what tests are told to wait, longer than a busy machine sleeps.
const LIFE_MS: u64 = 2_000;

fn world() -> World {
    World::new().set("/message/lease_life_ms", json!(LIFE_MS))
}

/// How the lease on the queue of a tenant stands.
fn lease(platform: &Platform, tenant: &Tenant) -> Option<Lease> {
    platform.run(async |app| app.store.leases().get(&queue_lease(&tenant.id)).await.unwrap())
}

fn is_owner(platform: &Platform, tenant: &Tenant) -> bool {
    let me = platform.app.me.id.to_string();
    lease(platform, tenant).is_some_and(|lease| !lease.is_free() && lease.owner.starts_with(&me))
}

/// Two processes; the first has the queue of the tenant.
pub fn two(world: &World) -> (Platform, Platform, Arc<Tenant>, SessionId) {
    let (first, tenant, session) = world.ready();
    let second = world.start_beside();
    second.run(async |app| app.manager.wait_ready(&tenant.id, Duration::from_mins(1)).await.unwrap());
    let id = first.send(&tenant, &session, "first of all");
    assert_eq!(first.wait(&tenant.id, &id).message.state, State::Done);
    assert!(is_owner(&first, &tenant));
    (first, second, tenant, session)
}

fn text(said: &[Said]) -> String {
    let of = |said: &Said| {
        serde_json::from_str::<serde_json::Value>(&said.data).unwrap()["text"].as_str().unwrap().to_owned()
    };
    said.iter().filter(|said| said.name == "delta").map(of).collect()
}

fn asked(world: &World) -> Vec<String> {
    world.fleet.asked().into_iter().filter(|text| text != "first of all").collect()
}

/// A key of the tenant.
fn key(platform: &Platform, tenant: &Tenant) -> SecretString {
    platform.run(async |app| {
        let new = NewApiKey { name: "reader".to_owned(), scopes: vec![Scope::Chat], expires_at: None };
        app.auth.create_api_key(&tenant.id, &app.ids.user(), new).await.unwrap().1
    })
}

/// A stream as the whole world reads it, over HTTP.
fn read_over_http(
    platform: &Platform,
    tenant: &Tenant,
    session: &SessionId,
    message: &MessageId,
    key: &SecretString,
    after: Option<&str>,
) -> impl Future<Output = reqwest::Response> + Send + use<> {
    let url = format!("{}/api/v1/tenants/{}/sessions/{session}/messages/{message}", platform.app.me.url, tenant.id);
    let (key, after) = (key.clone(), after.map(str::to_owned));
    async move {
        let mut request =
            reqwest::Client::new().get(url).bearer_auth(key.expose_secret()).header("accept", "text/event-stream");
        if let Some(after) = after {
            request = request.header("last-event-id", after);
        }
        request.send().await.unwrap().error_for_status().unwrap()
    }
}

/// What is said in one process is answered by the other, with or without a bus, in the order in which it was taken in.
fn brought_by_its_owner(world: &World) {
    let (owner, other, tenant, session) = two(world);
    let mut sent = Vec::new();
    for number in 0..6 {
        let platform = if number % 2 == 0 { &other } else { &owner };
        sent.push(platform.send(&tenant, &session, &number.to_string()));
    }
    assert!(sent.is_sorted(), "whichever took them in");
    for id in &sent {
        assert_eq!(other.wait(&tenant.id, id).reply.unwrap().text, "Hello you");
        assert_eq!(text(&owner.stream(&tenant.id, id, None)), "Hello you");
        assert_eq!(text(&other.stream(&tenant.id, id, None)), "Hello you");
    }
    assert_eq!(asked(world), ["0", "1", "2", "3", "4", "5"]);
    assert!(is_owner(&owner, &tenant));
    other.end();
    owner.end();
}

#[test]
fn a_message_is_brought_by_the_owner_of_the_queue_wherever_it_was_taken_in() {
    brought_by_its_owner(&world().with_bus());
}

#[test]
fn an_event_that_is_lost_costs_a_delay_alone() {
    brought_by_its_owner(&world());
}

#[test]
fn postgres_has_one_owner_too() {
    brought_by_its_owner(&world().on_postgres().with_bus());
}

/// Says when the process holds its breath in the middle of an answer.
fn half_an_answer() -> Vec<Act> {
    vec![
        Act::Receive,
        Act::Say("Hel"),
        Act::Wait,
        Act::Say("lo you"),
        Act::Complete("Hello you"),
        Act::Save("Hello you"),
    ]
}

#[test]
fn a_stream_is_read_at_another_process_and_goes_on_at_a_third_when_its_owner_dies() {
    let world = world().with_bus();
    let (owner, other, tenant, session) = two(&world);
    world.fleet.script(|_, _| half_an_answer());
    let id = owner.send(&tenant, &session, "Hi");
    owner.until(&tenant.id, &id, State::Streaming);
    let reader = {
        let (service, tenant, id) = (Arc::clone(&other.app.message), tenant.id.clone(), id.clone());
        other.spawn(async move {
            let stream = service.stream(&tenant, &id, "0-0".parse().unwrap()).await.unwrap();
            stream.collect::<Vec<_>>().await
        })
    };
    assert_eq!(text(&other.stream_until(&tenant.id, &id, "delta")), "Hel", "from the owner, as far as it is");
    let key = key(&owner, &tenant);
    let (public, shown) =
        (read_over_http(&other, &tenant, &session, &id, &key, None), watch::Sender::new(String::new()));
    let mut seen = shown.subscribe();
    let public = other.spawn(async move {
        let (mut body, mut whole) = (public.await.bytes_stream(), String::new());
        while let Some(Ok(piece)) = body.next().await {
            whole.push_str(&String::from_utf8_lossy(&piece));
            shown.send_replace(whole.clone());
        }
        whole
    });
    other.run(async |_| drop(seen.wait_for(|text| text.contains("Hel")).await.unwrap()));
    owner.kill();
    let said = other.run(async |_| reader.await.unwrap());
    assert_eq!((said.last().unwrap().name, text(&said).as_str()), ("interrupted", "Hel"));
    let public = other.run(async |_| public.await.unwrap());
    let last = &said.last().unwrap().id;
    assert!(public.contains("event: interrupted") && public.contains(&format!("id: {last}")), "{public}");
    let third = world.start_beside();
    world.fleet.let_on.add_permits(1);
    let rest = third.stream(&tenant.id, &id, Some(last));
    assert_eq!((rest.last().unwrap().name, text(&rest).as_str()), ("done", "lo you"), "{rest:?}");
    let rest = read_over_http(&third, &tenant, &session, &id, &key, Some(last));
    let rest = third.run(async |_| rest.await.text().await.unwrap());
    assert!(rest.contains("event: done") && rest.contains("{\"text\":\"lo you\"}"), "{rest}");
    assert_eq!(other.until(&tenant.id, &id, State::Done).reply.unwrap().text, "Hello you");
    assert_eq!(asked(&world), ["Hi"]);
    third.end();
    other.end();
}

#[test]
fn an_answer_is_stopped_from_another_process() {
    let world = world().with_bus();
    let (owner, other, tenant, session) = two(&world);
    world.fleet.script(|_, _| half_an_answer());
    let (begun, waits) = (owner.send(&tenant, &session, "Hi"), other.send(&tenant, &session, "Ho"));
    owner.until(&tenant.id, &begun, State::Streaming);
    let stop = |id: &MessageId| {
        other.run(async |app| {
            let message = app.store.messages(&tenant.id).get(id).await.unwrap();
            app.message.stop(&message).await.unwrap()
        })
    };
    assert_eq!(stop(&waits).message.failure.unwrap().code, "stopped");
    let stopped = stop(&begun);
    assert_eq!((stopped.message.state, stopped.reply.unwrap().text.as_str()), (State::Done, "Hel"));
    assert_eq!(asked(&world), ["Hi"]);
    other.end();
    owner.end();
}

#[test]
fn a_process_that_ends_in_order_hands_its_queues_over_at_once() {
    // Nobody waits for an hour.
    let world = World::new().set("/message/lease_life_ms", json!(3_600_000)).with_bus();
    let (owner, other, tenant, session) = two(&world);
    world.fleet.script(|_, _| half_an_answer());
    let begun = owner.send(&tenant, &session, "Hi");
    owner.until(&tenant.id, &begun, State::Streaming);
    let waits = other.send(&tenant, &session, "Ho");
    owner.end();
    world.fleet.let_on.add_permits(2);
    for id in [&begun, &waits] {
        assert_eq!(other.until(&tenant.id, id, State::Done).reply.unwrap().text, "Hello you");
    }
    assert!(is_owner(&other, &tenant));
    assert_eq!(asked(&world), ["Hi", "Ho"]);
    other.end();
}

/// The queue is lost where somebody waits, and the answer comes where it is then.
#[test]
fn who_waits_for_an_answer_waits_on_when_its_queue_is_lost() {
    let world = world().with_bus();
    let (owner, other, tenant, session) = two(&world);
    world.fleet.script(|_, _| half_an_answer());
    let id = owner.send(&tenant, &session, "Hi");
    owner.until(&tenant.id, &id, State::Streaming);
    let (service, of, message) = (Arc::clone(&owner.app.message), tenant.id.clone(), id.clone());
    let mut wait = async move { service.wait(&of, &message, Duration::from_mins(1)).await.unwrap() }.boxed();
    owner.run(async |_| assert!(poll!(&mut wait).is_pending()));
    let stream = owner.run(async |app| app.message.stream(&tenant.id, &id, "0-0".parse().unwrap()).await.unwrap());
    let mut stream = stream.collect::<Vec<_>>().boxed();
    owner.run(async |_| assert!(poll!(&mut stream).is_pending()));
    let frozen = owner.freeze();
    until(|| is_owner(&other, &tenant));
    frozen.thaw();
    // Only when the stream here has ended does the answer come.
    assert_eq!(owner.run(async |_| stream.await).last().unwrap().name, "interrupted");
    world.fleet.let_on.add_permits(1);
    let exchange = owner.run(async |_| wait.await);
    assert_eq!((exchange.message.state, exchange.reply.unwrap().text.as_str()), (State::Done, "Hello you"));
    other.end();
    owner.end();
}

/// What a process does that was stopped in the middle of an answer, for longer than its lease.
fn thawed_too_late(world: &World) {
    let (owner, other, tenant, session) = two(world);
    world.fleet.script(|text, _| if text == "Hi" { half_an_answer() } else { answer() });
    let (begun, waits) = (owner.send(&tenant, &session, "Hi"), owner.send(&tenant, &session, "Ho"));
    owner.until(&tenant.id, &begun, State::Streaming);
    let epoch = lease(&other, &tenant).unwrap().epoch;
    let frozen = owner.freeze();
    until(|| is_owner(&other, &tenant));
    assert!(lease(&other, &tenant).unwrap().epoch > epoch);
    world.fleet.let_on.add_permits(1);
    let mut found = Vec::new();
    for id in [&begun, &waits] {
        found.push(other.until(&tenant.id, id, State::Done));
    }
    let before = other.said(&tenant.id, &session);
    frozen.thaw();
    // It notices, and takes part again.
    let later = owner.send(&tenant, &session, "later");
    assert_eq!(owner.wait(&tenant.id, &later).reply.unwrap().text, "Hello you");
    assert_eq!(other.said(&tenant.id, &session)[..before.len()], before, "nothing that was there was changed");
    assert_eq!(asked(world), ["Hi", "Ho", "later"]);
    assert!(is_owner(&other, &tenant), "and nothing was taken back");
    other.end();
    owner.end();
}

#[test]
fn a_process_that_slept_through_the_end_of_its_lease_changes_nothing() {
    thawed_too_late(&world().with_bus());
}

#[test]
fn a_process_that_slept_through_the_end_of_its_lease_changes_nothing_on_postgres() {
    thawed_too_late(&world().on_postgres().with_bus());
}

#[test]
fn a_process_that_was_stopped_between_the_claim_and_the_bot_does_not_ask_it() {
    // Only one writes at a time there: that makes the moment.
    let world = world().on_sqlite().with_bus();
    let (owner, other, tenant, session) = two(&world);
    let content = futures_util::stream::iter([Ok(bytes::Bytes::from_static(b"x"))]).boxed();
    let file = owner.run(async |app| app.message.keep_file(&tenant, "in.txt", None, content).await.unwrap());
    world.fleet.files.forget_permits(FILES);
    let words = Words { text: "Hi".to_owned(), attachments: vec![file.id] };
    let taken =
        owner.run(async |app| app.message.accept(Arc::clone(&tenant), session.clone(), words, None).await.unwrap());
    let id = taken.id().clone();
    until(|| world.fleet.uploaded().len() == 1);
    // After the file comes the claim, which waits for whoever writes at the moment.
    let writer = world.hold_the_writer();
    world.fleet.files.add_permits(1);
    std::thread::sleep(Duration::from_millis(300));
    let frozen = owner.freeze();
    world.release_the_writer(writer);
    let claimed = std::time::Instant::now();
    let state = || other.run(async |app| app.store.messages(&tenant.id).get(&id).await.unwrap().state);
    while state() == State::Accepted && claimed.elapsed() < Duration::from_millis(500) {
        std::thread::sleep(Duration::from_millis(5));
    }
    world.fleet.files.add_permits(FILES);
    let exchange = other.until(&tenant.id, &id, State::Done);
    assert_eq!(exchange.reply.unwrap().text, "Hello you");
    frozen.thaw();
    let later = owner.send(&tenant, &session, "later");
    assert_eq!(owner.wait(&tenant.id, &later).message.state, State::Done);
    assert_eq!(asked(&world), ["Hi", "later"], "once, whoever had claimed it");
    other.end();
    owner.end();
}

#[test]
fn quotas_and_bounds_are_those_of_all_processes_together() {
    let world = world()
        .with_bus()
        .set("/message/queue_length", json!(3))
        .set("/plans/free/concurrent_chats", json!(1))
        .set("/plans/free/messages_per_day", json!(8));
    let (owner, other, tenant, session) = two(&world);
    world.fleet.script(|_, _| [vec![Act::Wait], answer()].concat());
    owner.send(&tenant, &session, "0");
    until(|| asked(&world).len() == 1);
    let waiting: Vec<_> = (1..=3).map(|number| owner.send(&tenant, &session, &number.to_string())).collect();
    assert!(matches!(owner.try_send(&tenant, &session, "4", None), Err(Error::TooMany { .. })));
    assert!(matches!(other.try_send(&tenant, &session, "4", None), Err(Error::TooMany { .. })), "also elsewhere");
    world.fleet.let_on.add_permits(100);
    for id in &waiting {
        assert_eq!(other.wait(&tenant.id, id).message.state, State::Done);
    }
    // Five are used up. What one process has of the rest, the other gets when it is not used.
    let patiently = |platform: &Platform, text: &str, key| {
        let last = RefCell::new(None);
        until(|| {
            let outcome = platform.try_send(&tenant, &session, text, key);
            let is_settled = !matches!(outcome, Err(Error::TooMany { .. }));
            last.replace(Some(outcome));
            is_settled
        });
        last.into_inner().unwrap()
    };
    // What a key has is the same everywhere.
    let sixth = patiently(&other, "6", Some("k")).unwrap();
    assert_eq!(patiently(&owner, "6", Some("k")).unwrap(), sixth);
    patiently(&owner, "7", None).unwrap();
    patiently(&other, "8", None).unwrap();
    for platform in [&owner, &other] {
        assert!(matches!(patiently(platform, "9", None), Err(Error::QuotaExceeded { .. })));
    }
    other.end();
    owner.end();
}

/// What happens to the processes.
#[derive(Clone, Debug)]
enum Step {
    Send(usize, usize),
    Freeze(usize),
    Thaw(usize),
    Kill(usize),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let which = || 0..3_usize;
    prop_oneof![
        6 => (which(), 0..2_usize).prop_map(|(at, session)| Step::Send(at, session)),
        2 => which().prop_map(Step::Freeze),
        1 => which().prop_map(Step::Thaw),
        1 => which().prop_map(Step::Kill),
        3 => (0..400_u64).prop_map(Step::Pass),
        // Longer than a lease.
        1 => Just(Step::Pass(LIFE_MS * 3 / 2)),
    ]
}

/// A process, and what keeps it from going on.
struct Replica {
    // Dropped first: nothing that stands still can be ended.
    frozen: Option<Frozen>,
    platform: Platform,
}

impl Replica {
    fn start(world: &World) -> Self {
        Self { frozen: None, platform: world.start_beside() }
    }
}

fn whatever_happens(world: &World, steps: &[Step]) {
    let (first, tenant, session) = world.ready();
    let sessions = [session, world.session(&first, &tenant.id)];
    let mut replicas = vec![Replica { frozen: None, platform: first }, Replica::start(world), Replica::start(world)];
    world.fleet.script(|text, _| {
        let mut acts = answer();
        // Where it takes a while depends on the message.
        let at = text.bytes().map(usize::from).sum::<usize>() % acts.len();
        acts.insert(at, Act::Wait);
        acts
    });
    let mut sent: Vec<(usize, String, MessageId)> = Vec::new();
    for step in steps {
        match *step {
            Step::Send(at, to) if replicas[at].frozen.is_none() => {
                let text = format!("{to}/{}", sent.len());
                let id = replicas[at].platform.send(&tenant, &sessions[to], &text);
                sent.push((to, text, id));
            }
            // Somebody is left to ask.
            Step::Freeze(at) if replicas.iter().enumerate().any(|(i, other)| i != at && other.frozen.is_none()) => {
                if replicas[at].frozen.is_none() {
                    replicas[at].frozen = Some(replicas[at].platform.freeze());
                }
            }
            Step::Thaw(at) => replicas[at].frozen = None,
            Step::Kill(at) => {
                let Replica { frozen, platform } = std::mem::replace(&mut replicas[at], Replica::start(world));
                drop(frozen);
                platform.kill();
            }
            Step::Pass(millis) => std::thread::sleep(Duration::from_millis(millis)),
            Step::Send(..) | Step::Freeze(_) => {}
        }
        world.fleet.let_on.add_permits(1);
    }
    world.fleet.let_on.add_permits(10_000);
    let awake = replicas.iter().find(|replica| replica.frozen.is_none()).unwrap();
    for (_, text, id) in &sent {
        let exchange = awake.platform.until(&tenant.id, id, State::Done);
        assert_eq!(exchange.reply.unwrap().text, "Hello you", "{text}");
    }
    for replica in &mut replicas {
        replica.frozen = None;
    }
    // Whoever slept has a moment to do harm.
    std::thread::sleep(Duration::from_millis(300));
    let asked = world.fleet.asked();
    for (number, session) in sessions.iter().enumerate() {
        let expected: Vec<_> = sent.iter().filter(|(to, ..)| *to == number).map(|(_, text, _)| text).collect();
        let of_session: Vec<_> = asked.iter().filter(|text| text.starts_with(&format!("{number}/"))).collect();
        assert_eq!(of_session, expected, "each once, and in order");
        let said = replicas[0].platform.said(&tenant.id, session);
        assert_eq!(said.iter().filter(|message| message.author == Author::Bot).count(), expected.len().min(said.len()));
    }
    for replica in replicas {
        replica.platform.kill();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, max_shrink_iters: 12, ..ProptestConfig::default() })]

    #[test]
    fn whoever_is_killed_or_stopped_each_message_is_answered_once_and_in_order(
        steps in prop::collection::vec(step(), 4..20), bus in any::<bool>(),
    ) {
        whatever_happens(&if bus { world().with_bus() } else { world() }, &steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3, max_shrink_iters: 4, ..ProptestConfig::default() })]

    #[test]
    fn whoever_is_killed_or_stopped_each_message_is_answered_once_and_in_order_on_postgres(
        steps in prop::collection::vec(step(), 4..16),
    ) {
        whatever_happens(&world().on_postgres().with_bus(), &steps);
    }
}
