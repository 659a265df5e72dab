//! Live events through the real gateway: in order, resumed anywhere, cut off where the right to read ends.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::{net::SocketAddr, num::NonZeroUsize, sync::Arc, time::Duration};

use astrfleet_core::{
    api_key::Scope,
    id::{EventId, SessionId},
    policy::Role,
    ports::BusEvent,
    tenant::Tenant,
};
use astrfleet_server::{
    app::App,
    config::ServerConfig,
    events::{Heard, Seen, Tail},
    gateway::{
        self,
        listen::{Listen, bind},
    },
    role::Role as Part,
};
use astrfleet_testkit::{
    app::{Caller, TestApp},
    client::{Api, Event, Events},
    watched::{Eyes, WatchedStore},
};
use futures_util::{SinkExt, StreamExt};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{self, Message, client::IntoClientRequest},
};

/// A hang is a failure, not a wait for ever.
const PATIENCE: Duration = Duration::from_mins(1);

/// A platform that listens.
struct World {
    test: TestApp,
    address: SocketAddr,
    acme: Tenant,
    agent: Caller,
}

impl World {
    async fn new() -> Self {
        Self::configured(|_| {}).await
    }

    async fn configured(change: impl FnOnce(&mut ServerConfig)) -> Self {
        Self::of(TestApp::configured(change).await).await
    }

    /// One whose reads of events are counted.
    async fn watched() -> (Self, Eyes) {
        let eyes = Eyes::default();
        let watched = TestApp::new()
            .await
            .beside(Part::ALL, |ports, _| {
                let inner = Arc::clone(&ports.store);
                ports.store = Arc::new(WatchedStore { inner, eyes: eyes.clone() });
            })
            .await;
        (Self::of(watched).await, eyes)
    }

    async fn of(test: TestApp) -> Self {
        let address = listen(&test.app);
        test.app.manager.set_llm_base_url("http://127.0.0.1:1/llm/v1".to_owned());
        let acme = test.tenant("acme").await;
        test.app.start_loops();
        test.app.manager.wait_ready(&acme.id, PATIENCE).await.unwrap();
        let agent = test.member(&acme, Role::Agent).await;
        Self { test, address, acme, agent }
    }

    fn api(&self, caller: &Caller) -> Api {
        at(self.address, caller)
    }

    async fn session(&self) -> String {
        let made = self.test.post(&self.agent, "/tenants/acme/sessions", json!({"end_user": "ada"})).await.expect(201);
        made.json["id"].as_str().unwrap().to_owned()
    }

    /// Asks and waits for the answer.
    async fn ask(&self, session: &str, text: &str) {
        let path = format!("/tenants/acme/sessions/{session}/messages");
        self.test.post(&self.agent, &path, json!({"text": text})).await.expect(200);
    }
}

/// Puts the real gateway in front.
fn listen(app: &App) -> SocketAddr {
    let local = SocketAddr::from(([127, 0, 0, 1], 0));
    let bound = bind(&Listen { workers: NonZeroUsize::new(1), ..Listen::on(local) }).unwrap();
    let address = bound.address();
    drop(gateway::serve(app, bound).unwrap());
    address
}

fn at(address: SocketAddr, caller: &Caller) -> Api {
    Api::new(&format!("http://{address}")).as_bearer(caller.credential.as_ref().unwrap().expose_secret())
}

const TENANT: &str = "/api/v1/tenants/acme/events";

async fn some(events: &mut Events, count: usize) -> Vec<Event> {
    let mut heard = Vec::new();
    while heard.len() < count {
        heard.push(events.next().await.expect("the stream goes on"));
    }
    heard
}

fn names(events: &[Event]) -> Vec<&str> {
    events.iter().map(|event| event.event.as_str()).collect()
}

#[tokio::test]
async fn whoever_follows_hears_everything_in_order_and_goes_on_at_any_replica() {
    let world = World::new().await;
    let api = world.api(&world.agent);
    let mut live = api.sse(TENANT, None).await;
    let session = world.session().await;
    world.ask(&session, "Hi").await;
    let heard = some(&mut live, 3).await;
    assert_eq!(names(&heard), ["session.opened", "message.accepted", "reply.done"]);
    let done = &heard[2].data;
    assert_eq!((&done["type"], &done["session_id"]), (&json!("reply.done"), &json!(session)));
    assert_eq!(done["data"]["message"]["text"], "You said: Hi");
    assert_eq!(done["data"]["message_id"], heard[1].data["data"]["message"]["id"]);
    assert_eq!(done["id"], heard[2].id.as_str());

    // Another process on the same store, which hears nothing of this one's bus.
    let other = world.test.restarted().await;
    other.app.start_loops();
    let elsewhere = at(listen(&other.app), &world.agent);
    let mut all = elsewhere.sse(&format!("{TENANT}?after=0"), None).await;
    // A message is shown as it stands when it is read: the rest is the same.
    let ids = |events: &[Event]| events.iter().map(|e| (e.id.clone(), e.event.clone())).collect::<Vec<_>>();
    assert_eq!(ids(&some(&mut all, 3).await), ids(&heard), "the same with the same names");
    for cut in 0..3 {
        let resumed = elsewhere.with_header("last-event-id", &heard[cut].id);
        let mut rest = resumed.sse(&format!("{TENANT}?after=0"), None).await;
        assert_eq!(ids(&some(&mut rest, 2 - cut).await), ids(&heard[cut + 1..]));
    }
    // What happens here is heard there nevertheless.
    world.ask(&session, "Ho").await;
    let later = some(&mut all, 2).await;
    assert_eq!(names(&later), ["message.accepted", "reply.done"]);
    assert_eq!(ids(&some(&mut live, 2).await), ids(&later));
}

#[tokio::test]
async fn what_has_happened_so_far_has_an_end_that_is_said() {
    let world = World::new().await;
    let api = world.api(&world.agent);
    let past = |path: &str| format!("{path}?after=0&follow=false");
    let nothing = api.sse(&past(TENANT), None).await.rest().await;
    assert_eq!(names(&nothing), ["end"]);
    let (first, second) = (world.session().await, world.session().await);
    world.ask(&first, "Hi").await;
    let all = api.sse(&past(TENANT), None).await.rest().await;
    assert_eq!(names(&all), ["session.opened", "session.opened", "message.accepted", "reply.done", "end"]);
    assert_eq!(all[3].id, all[4].id, "it is no event of its own");
    // What comes last in the tenant is another session's.
    let path = format!("/api/v1/tenants/acme/sessions/{second}/events");
    assert_eq!(names(&api.sse(&past(&path), None).await.rest().await), ["session.opened", "end"]);
    let after = format!("{TENANT}?after={}&follow=false", all[2].id);
    assert_eq!(names(&api.sse(&after, None).await.rest().await), ["reply.done", "end"]);
    let mut socket = connect(world.address, &past(&path), &world.agent).await;
    assert_eq!(next(&mut socket).await["event"], "session.opened");
    assert_eq!(next(&mut socket).await["event"], "end");
    assert!(matches!(socket.next().await, Some(Ok(Message::Close(_)))));
    for wrong in ["follow=perhaps", "follow=", "follow=true&follow=false"] {
        world.test.get(&world.agent, &format!("/tenants/acme/events?{wrong}")).await.expect(400);
    }
}

#[tokio::test]
async fn whoever_is_cut_off_before_the_first_event_has_a_place_to_go_on_from() {
    let world = World::new().await;
    let session = world.session().await;
    let path = "/api/v1/tenants/acme/events";
    let request = axum::http::Request::get(path)
        .header("authorization", format!("Bearer {}", world.agent.credential.as_ref().unwrap().expose_secret()));
    let answer = world.test.raw(request.body(axum::body::Body::empty()).unwrap()).await;
    let first = answer.into_body().into_data_stream().next().await.unwrap().unwrap();
    let place = std::str::from_utf8(&first).unwrap().strip_prefix("id: ").unwrap().trim_end().to_owned();
    world.ask(&session, "Hi").await;
    let after = format!("{path}?after={place}&follow=false");
    let missed = world.api(&world.agent).sse(&after, None).await.rest().await;
    assert_eq!(names(&missed), ["message.accepted", "reply.done", "end"]);
}

#[tokio::test]
async fn a_session_tells_of_itself_alone() {
    let world = World::new().await;
    let api = world.api(&world.agent);
    let (one, two) = (world.session().await, world.session().await);
    let path = |session: &str| format!("/api/v1/tenants/acme/sessions/{session}/events");
    let mut events = api.sse(&format!("{}?after=0", path(&one)), None).await;
    world.ask(&two, "Hi").await;
    world.ask(&one, "Ho").await;
    let heard = some(&mut events, 3).await;
    assert_eq!(names(&heard), ["session.opened", "message.accepted", "reply.done"]);
    assert!(heard.iter().all(|event| event.data["session_id"] == one.as_str()));
    let closed = world.test.post(&world.agent, &format!("/tenants/acme/sessions/{one}/close"), json!({})).await;
    closed.expect(200);
    assert_eq!(events.wait_for("session.closed").await.data["data"]["session"]["close_reason"], "closed");

    let nowhere = path(&format!("ses_{}", "0".repeat(32)));
    assert_eq!(api.get(&nowhere).await.status, 404);
    let theirs = world.test.tenant("globex").await;
    let foreign = EventId::of(&theirs.id, 1);
    for bad in [foreign.as_str(), "7", "", "evt_"] {
        let answer = api.get(&format!("{TENANT}?after={bad}")).await;
        assert_eq!((answer.status, &answer.body["code"]), (400, &json!("invalid")), "{bad}");
    }
}

#[tokio::test]
async fn what_is_missing_is_said_to_be() {
    let world = World::new().await;
    let session = world.session().await;
    world.ask(&session, "Hi").await;
    let (tenant, app) = (&world.acme.id, &world.test.app);
    let first = EventId::of(tenant, 1);
    let deleted = app.store.system("a test").delete_events(app.clock.now().plus(PATIENCE), 2).await.unwrap();
    assert_eq!(deleted, 2);
    let api = world.api(&world.agent);
    let mut events = api.with_header("last-event-id", first.as_str()).sse(TENANT, None).await;
    let heard = some(&mut events, 2).await;
    assert_eq!(names(&heard), ["gap", "reply.done"]);
    assert_eq!(heard[0].id, EventId::of(tenant, 2).as_str(), "it goes on after this");
    let later = EventId::of(tenant, 99);
    let mut events = api.with_header("last-event-id", later.as_str()).sse(TENANT, None).await;
    assert_eq!(names(&some(&mut events, 1).await), ["gap"], "what they have seen is not there");
    let mut events = api.sse(&format!("{TENANT}?after=0"), None).await;
    assert_eq!(names(&some(&mut events, 1).await), ["reply.done"], "whoever has seen nothing misses nothing");
}

#[tokio::test]
async fn whoever_reads_slowly_misses_nothing() {
    let world = World::new().await;
    let api = world.api(&world.agent);
    let mut slow = api.sse(TENANT, None).await;
    let session = world.session().await;
    let path = format!("/tenants/acme/sessions/{session}/messages?wait=0");
    for _ in 0..60 {
        world.test.post(&world.agent, &path, json!({"text": "x".repeat(20_000)})).await;
    }
    let mut last = 0;
    for event in some(&mut slow, 61).await {
        let seq = EventId::parse(&event.id).unwrap().seq();
        assert_eq!(seq, last + 1);
        last = seq;
    }
}

async fn next_of(tail: &mut Tail) -> EventId {
    match tokio::time::timeout(PATIENCE, tail.next()).await.expect("it goes on") {
        Heard::Event(event) => event.id.clone(),
        other => panic!("something is missing, or it ends: {other:?}"),
    }
}

#[tokio::test]
async fn what_happens_is_read_once_for_all_who_follow() {
    const EXCHANGES: i64 = 5;
    let (world, eyes) = World::watched().await;
    let (app, acme) = (&world.test.app, &world.acme.id);
    let (quiet, busy) = (world.session().await, world.session().await);
    let quiet = SessionId::parse(&quiet).unwrap();
    let of_busy = SessionId::parse(&busy).unwrap();
    let (mut all, mut some, mut none) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..100 {
        all.push(app.events.follow(acme, None, None).await.unwrap());
        some.push(app.events.follow(acme, Some(of_busy.clone()), None).await.unwrap());
        none.push(app.events.follow(acme, Some(quiet.clone()), None).await.unwrap());
    }
    let waiting: Vec<_> = none.into_iter().map(|mut tail| tokio::spawn(async move { tail.next().await })).collect();
    let before = eyes.calls("events.after");
    let newest = app.store.events(acme).bounds().await.unwrap().1;
    for exchange in 0..EXCHANGES {
        world.ask(&busy, "Hi").await;
        for tail in all.iter_mut().chain(&mut some) {
            for number in 1..=2 {
                assert_eq!(next_of(tail).await, EventId::of(acme, newest + exchange * 2 + number));
            }
        }
    }
    let read = eyes.calls("events.after") - before;
    // A message and its answer, each told of by the bus, and a look every two seconds.
    assert!(read <= 60, "{read} reads for {EXCHANGES} exchanges and 300 who follow");
    assert!(waiting.iter().all(|task| !task.is_finished()), "nothing happened there");
    for task in waiting {
        task.abort();
    }
}

#[tokio::test]
async fn whoever_is_late_is_told_what_is_not_kept_in_memory_any_more() {
    let (world, eyes) = World::watched().await;
    let (app, acme) = (&world.test.app, &world.acme.id);
    let (one, other) = (world.session().await, world.session().await);
    let of_one = SessionId::parse(&one).unwrap();
    let mut late = app.events.follow(acme, None, Some(Seen::Nothing)).await.unwrap();
    let mut late_of_one = app.events.follow(acme, Some(of_one.clone()), None).await.unwrap();
    let path = |session: &str| format!("/tenants/acme/sessions/{session}/messages?wait=0");
    // Many more than a room keeps, in one session; and then one in the other.
    for _ in 0..100 {
        world.test.post(&world.agent, &path(&other), json!({"text": "Hi"})).await;
    }
    world.test.post(&world.agent, &path(&one), json!({"text": "Ho"})).await;
    let told = app.store.events(acme).after(0, Some(&of_one), 99).await.unwrap();
    assert_eq!(next_of(&mut late_of_one).await, told[1].id, "the one after the session was opened");
    for seq in 1..=103 {
        assert_eq!(next_of(&mut late).await, EventId::of(acme, seq));
    }
    assert!(eyes.calls("events.after") >= 103 / 32);
}

#[tokio::test]
async fn too_many_streams_are_refused() {
    let world = World::configured(|config| config.events.streams_per_tenant = 2).await;
    let api = world.api(&world.agent);
    let (one, _two) = (api.sse(TENANT, None).await, api.sse(TENANT, None).await);
    assert_eq!(api.get(TENANT).await.status, 429);
    drop(one);
    let again = async {
        while api.try_sse(TENANT, None).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, again).await.expect("there is room again");
}

/// What ends the right to read.
async fn take_it_away(world: &World, how: &str, key: &str) {
    let admin = world.test.admin().await;
    match how {
        "the role is taken" => {
            let user = world.agent.id();
            world.test.delete(&admin, &format!("/tenants/acme/members/{user}")).await.expect(204);
        }
        "the key is revoked" => {
            world.test.delete(&admin, &format!("/tenants/acme/api-keys/{key}")).await.expect(204);
        }
        "the tenant is suspended" => {
            world.test.post(&admin, "/tenants/acme/suspend", json!({})).await.expect(200);
        }
        "the login is ended" => {
            let login = world.agent.user.clone().unwrap();
            for login in
                world.test.app.store.refresh_tokens().revoke_user(&login.id, world.test.app.clock.now()).await.unwrap()
            {
                world.test.app.auth.publish(BusEvent::LoginEnded(login));
            }
        }
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn whoever_may_not_read_any_more_is_cut_off() {
    for (how, code) in [
        ("the role is taken", "not_found"),
        ("the key is revoked", "unauthenticated"),
        ("the tenant is suspended", "forbidden"),
        ("the login is ended", "unauthenticated"),
    ] {
        let world = World::new().await;
        let by_key = world.test.api_key(&world.acme, &[Scope::Chat]).await;
        let admin = world.test.admin().await;
        let keys = world.test.get(&admin, "/tenants/acme/api-keys").await.expect(200);
        let key = keys.json["items"][0]["id"].as_str().unwrap().to_owned();
        let reader = if how == "the key is revoked" { &by_key } else { &world.agent };
        let mut events = world.api(reader).sse(TENANT, None).await;
        let mut socket = connect(world.address, TENANT, reader).await;
        take_it_away(&world, how, &key).await;
        let last = events.wait_for("refused").await;
        assert_eq!(last.data["code"], code, "{how}: {}", last.data);
        assert_eq!(events.next().await, None, "{how}");
        let closed = tokio::time::timeout(PATIENCE, socket.next()).await.unwrap().unwrap().unwrap();
        let Message::Close(Some(frame)) = closed else { panic!("{how}: {closed:?}") };
        assert_eq!(u16::from(frame.code), 1_008, "{how}");
    }
}

type Socket = WebSocketStream<MaybeTlsStream<tokio::net::TcpStream>>;

async fn try_connect(address: SocketAddr, path: &str, caller: &Caller) -> Result<Socket, tungstenite::Error> {
    let mut request = format!("ws://{address}{path}").into_client_request().unwrap();
    if let Some(credential) = &caller.credential {
        let bearer = format!("Bearer {}", credential.expose_secret());
        request.headers_mut().insert("authorization", bearer.parse().unwrap());
    }
    Ok(tokio::time::timeout(PATIENCE, connect_async(request)).await.unwrap()?.0)
}

async fn connect(address: SocketAddr, path: &str, caller: &Caller) -> Socket {
    try_connect(address, path, caller).await.unwrap()
}

async fn next(socket: &mut Socket) -> Value {
    loop {
        let message = tokio::time::timeout(PATIENCE, socket.next()).await.expect("in time").unwrap().unwrap();
        if let Message::Text(text) = message {
            return serde_json::from_str(&text).unwrap();
        }
    }
}

#[tokio::test]
async fn the_same_as_a_websocket() {
    let world = World::new().await;
    let session = world.session().await;
    let mut socket = connect(world.address, &format!("{TENANT}?after=0"), &world.agent).await;
    let opened = next(&mut socket).await;
    assert_eq!((&opened["event"], &opened["data"]["session_id"]), (&json!("session.opened"), &json!(session)));
    socket.send(Message::Text("nobody listens".into())).await.unwrap();
    world.ask(&session, "Hi").await;
    let (accepted, done) = (next(&mut socket).await, next(&mut socket).await);
    assert_eq!((&accepted["event"], &done["event"]), (&json!("message.accepted"), &json!("reply.done")));
    assert_eq!(done["data"]["data"]["message"]["text"], "You said: Hi");
    let after = format!("/api/v1/tenants/acme/sessions/{session}/events?after={}", accepted["id"].as_str().unwrap());
    let mut resumed = connect(world.address, &after, &world.agent).await;
    assert_eq!(next(&mut resumed).await, done);

    for (caller, status) in [(Caller::nobody(), 401), (world.test.stranger("eve@example.com").await, 404)] {
        match try_connect(world.address, TENANT, &caller).await {
            Err(tungstenite::Error::Http(response)) => assert_eq!(response.status(), status),
            other => panic!("{:?}", other.map(|_| "a socket")),
        }
    }
    // More than anybody may say: the socket ends.
    socket.send(Message::Text("x".repeat(100_000).into())).await.ok();
    let ended = async { while let Some(Ok(_)) = socket.next().await {} };
    tokio::time::timeout(PATIENCE, ended).await.expect("it ends");
    world.test.app.stop.cancel();
    let ended = async {
        loop {
            match resumed.next().await {
                Some(Ok(Message::Close(Some(frame)))) => return u16::from(frame.code),
                Some(Ok(_)) => {}
                other => panic!("{other:?}"),
            }
        }
    };
    assert_eq!(tokio::time::timeout(PATIENCE, ended).await.unwrap(), 1_001, "another process goes on");
}

#[tokio::test]
async fn what_is_said_to_a_websocket_costs_no_reads_and_is_bounded() {
    let (world, eyes) = World::watched().await;
    let session = world.session().await;
    let mut socket = connect(world.address, &format!("{TENANT}?after=0"), &world.agent).await;
    assert_eq!(next(&mut socket).await["event"], "session.opened");
    let before = eyes.calls("events.after");
    for _ in 0..50 {
        socket.send(Message::Text("nobody listens".into())).await.unwrap();
        socket.send(Message::Ping("one".into())).await.ok();
    }
    let closed = async {
        loop {
            match socket.next().await {
                Some(Ok(Message::Close(Some(frame)))) => return u16::from(frame.code),
                Some(Ok(_)) => {}
                other => panic!("{other:?}"),
            }
        }
    };
    assert_eq!(tokio::time::timeout(PATIENCE, closed).await.unwrap(), 1_008, "too much was said");
    let read = eyes.calls("events.after") - before;
    assert!(read <= 10, "{read} reads for 64 that were said");
    world.ask(&session, "Hi").await;
}
