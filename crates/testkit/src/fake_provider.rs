//! A model provider that speaks `OpenAI`'s chat completions and does what a test tells it to: slow, silent, dying,
//! wrong. It must stay true to the documented protocol wherever it is not told to break it, and it never calls out.
//!
//! A request is answered by, in this order: the next behaviour in the queue ([`FakeProvider::next`]), or the default
//! one ([`FakeProvider::always`]); then changed by the directives in the last user message ([`Behaviour`]).

mod answer;
mod behaviour;

use std::{
    collections::VecDeque,
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Json, Router,
    body::Body,
    extract::{DefaultBodyLimit, State},
    http::{HeaderMap, StatusCode, Uri},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use bytes::Bytes;
use futures_util::stream;
use serde_json::{Value, json};
use tokio::sync::watch;

use self::answer::{Asked, Step, error_body, steps};
pub use self::behaviour::{Behaviour, HeadersOnly, is_title_request, last_user_text};
use crate::background::Background;

/// Requests kept for assertions; older ones are forgotten.
const RECORDED_MAX: usize = 10_000;
/// As large as a request with a few pictures in it.
const BODY_BYTES_MAX: usize = 64 << 20;
/// How long a wait may last before the test fails.
const PATIENCE: Duration = Duration::from_mins(1);
/// The models it lists.
const MODELS: &[&str] = &["fake-fast", "fake-smart"];

/// One request as it arrived.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// Path and query.
    pub path: String,
    /// All headers.
    pub headers: HeaderMap,
    /// The body; `null` where there was none.
    pub body: Value,
}

impl Recorded {
    /// The bearer token it came with.
    #[must_use]
    pub fn bearer(&self) -> Option<&str> {
        self.header("authorization")?.strip_prefix("Bearer ")
    }

    /// One header as text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// What the user said last, without what `AstrBot` adds.
    #[must_use]
    pub fn user_text(&self) -> String {
        last_user_text(&self.body)
    }

    /// Whether it asked for the title of a conversation, which `AstrBot` does beside the first real request.
    #[must_use]
    pub fn is_title(&self) -> bool {
        is_title_request(&self.body)
    }
}

/// What has happened so far. Requests for titles count like all others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests for a completion that arrived.
    pub requests: usize,
    /// Of these, being answered now.
    pub in_flight: usize,
    /// The most that were ever answered at the same time.
    pub in_flight_max: usize,
    /// Answered to the end, errors included.
    pub finished: usize,
    /// Silent now, waiting for [`FakeProvider::release`].
    pub stalled: usize,
    /// Cut off because the client went away.
    pub cancelled: usize,
    /// Cut off by us, because a behaviour said so.
    pub died: usize,
}

struct Shared {
    counts: watch::Sender<Counts>,
    released: watch::Sender<u64>,
    recorded: Mutex<VecDeque<Recorded>>,
    scripted: Mutex<Scripted>,
}

#[derive(Default)]
struct Scripted {
    always: Behaviour,
    next: VecDeque<Behaviour>,
    key: Option<String>,
    recording_off: bool,
}

/// The running provider; stopped when dropped.
pub struct FakeProvider {
    shared: Arc<Shared>,
    server: Background,
}

impl FakeProvider {
    /// Starts on a free port of the loopback address.
    #[must_use]
    pub fn start() -> Self {
        Self::start_on(SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    /// Starts on an address.
    #[must_use]
    pub fn start_on(address: SocketAddr) -> Self {
        let shared = Arc::new(Shared {
            counts: watch::Sender::default(),
            released: watch::Sender::default(),
            recorded: Mutex::default(),
            scripted: Mutex::default(),
        });
        let router = Router::new()
            .route("/v1/chat/completions", post(chat_completions))
            .route("/v1/models", get(models))
            .fallback(unknown)
            .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
            .with_state(Arc::clone(&shared));
        Self { shared, server: Background::start(address, router) }
    }

    /// The base URL for clients, with `/v1`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/v1", self.server.address())
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// From now on, every request that the queue does not answer is answered so.
    pub fn always(&self, behaviour: Behaviour) {
        self.shared.scripted.lock().unwrap().always = behaviour;
    }

    /// The next request, and no other, is answered so; several calls queue up. Requests for titles take none.
    pub fn next(&self, behaviour: Behaviour) {
        self.shared.scripted.lock().unwrap().next.push_back(behaviour);
    }

    /// From now on, requests without this key are refused with 401.
    pub fn require_key(&self, key: &str) {
        self.shared.scripted.lock().unwrap().key = Some(key.to_owned());
    }

    /// Keeps no requests from now on: for measuring.
    pub fn stop_recording(&self) {
        self.shared.scripted.lock().unwrap().recording_off = true;
    }

    /// Lets every stalled answer go on.
    pub fn release(&self) {
        self.shared.released.send_modify(|times| *times += 1);
    }

    /// Stops listening and cuts every connection, as an outage would.
    pub fn go_down(&mut self) {
        self.server.stop();
    }

    /// Listens again, at the same address.
    pub fn come_back(&mut self) {
        self.server.resume();
    }

    /// Every request for a completion that arrived, oldest first, those for titles included.
    #[must_use]
    pub fn requests(&self) -> Vec<Recorded> {
        self.shared.recorded.lock().unwrap().iter().cloned().collect()
    }

    /// The same without those for titles: what people asked.
    #[must_use]
    pub fn chats(&self) -> Vec<Recorded> {
        self.requests().into_iter().filter(|request| !request.is_title()).collect()
    }

    /// What has happened so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        *self.shared.counts.borrow()
    }

    /// Waits until the counts are as wanted.
    ///
    /// # Panics
    /// When that takes longer than a minute.
    pub async fn wait_until(&self, wanted: impl FnMut(&Counts) -> bool) -> Counts {
        let mut counts = self.shared.counts.subscribe();
        let reached = tokio::time::timeout(PATIENCE, counts.wait_for(wanted)).await.map(|counts| *counts.unwrap());
        reached.unwrap_or_else(|_| panic!("the fake provider never got there: {:?}", self.counts()))
    }
}

/// Counts one answer for as long as it lasts: a client that goes away drops it unfinished.
struct InFlight {
    shared: Arc<Shared>,
    stalled: bool,
    over: bool,
}

impl InFlight {
    fn begin(shared: &Arc<Shared>) -> (Self, u64) {
        let mut number = 0;
        shared.counts.send_modify(|counts| {
            counts.requests += 1;
            counts.in_flight += 1;
            counts.in_flight_max = counts.in_flight_max.max(counts.in_flight);
            number = counts.requests as u64;
        });
        (Self { shared: Arc::clone(shared), stalled: false, over: false }, number)
    }

    async fn stall(&mut self) {
        let mut released = self.shared.released.subscribe();
        released.mark_unchanged();
        self.stalled = true;
        self.shared.counts.send_modify(|counts| counts.stalled += 1);
        // The sender lives in what we hold ourselves, so this cannot fail.
        released.changed().await.ok();
        self.stalled = false;
        self.shared.counts.send_modify(|counts| counts.stalled -= 1);
    }

    fn finish(&mut self) {
        self.over = true;
        self.shared.counts.send_modify(|counts| counts.finished += 1);
    }

    fn die(&mut self) {
        self.over = true;
        self.shared.counts.send_modify(|counts| counts.died += 1);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.shared.counts.send_modify(|counts| {
            counts.in_flight -= 1;
            counts.stalled -= usize::from(self.stalled);
            counts.cancelled += usize::from(!self.over);
        });
    }
}

async fn chat_completions(State(shared): State<Arc<Shared>>, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let (mut in_flight, number) = InFlight::begin(&shared);
    let Ok(body) = serde_json::from_slice::<Value>(&body) else {
        in_flight.finish();
        return refusal(400, "We could not parse the JSON body of your request.");
    };
    let refused = refusal_for_key(&shared, &headers);
    let asked = Asked::read(&body);
    record(&shared, Recorded { path: uri.to_string(), headers, body });
    let asked = match (refused, asked) {
        (Some(refusal), _) => {
            in_flight.finish();
            return refusal;
        }
        (None, Err(message)) => {
            in_flight.finish();
            return refusal(400, message);
        }
        (None, Ok(asked)) => asked,
    };
    let behaviour = asked.behaviour(scripted(&shared, &asked));
    if behaviour.wait_ms > 0 {
        tokio::time::sleep(Duration::from_millis(behaviour.wait_ms)).await;
    }
    if behaviour.stall_after == Some(0) {
        in_flight.stall().await;
    }
    if let Some(status) = behaviour.error {
        in_flight.finish();
        return refusal(status, &format!("the fake provider was told to answer {status}"));
    }
    let media_type = if asked.stream { "text/event-stream; charset=utf-8" } else { "application/json" };
    let body = play(in_flight, steps(&asked, &behaviour, number));
    ([("content-type", media_type), ("x-request-id", &format!("req_fake{number:08}"))], body).into_response()
}

/// The steps as a body. Each chunk is a write of its own, as a real provider's are.
fn play(in_flight: InFlight, steps: Vec<Step>) -> Body {
    if let [Step::Send(whole)] = &steps[..] {
        let mut in_flight = in_flight;
        in_flight.finish();
        return Body::from(whole.clone());
    }
    Body::from_stream(stream::unfold((in_flight, steps.into_iter()), async |(mut in_flight, mut steps)| {
        loop {
            match steps.next() {
                Some(Step::Send(bytes)) => {
                    tokio::task::yield_now().await;
                    return Some((Ok(bytes), (in_flight, steps)));
                }
                Some(Step::WaitMs(wait_ms)) => tokio::time::sleep(Duration::from_millis(wait_ms)).await,
                Some(Step::Stall) => in_flight.stall().await,
                Some(Step::Die) => {
                    // What was sent so far reaches the client first.
                    tokio::task::yield_now().await;
                    in_flight.die();
                    return Some((Err(std::io::Error::other("told to die")), (in_flight, steps)));
                }
                None => {
                    in_flight.finish();
                    return None;
                }
            }
        }
    }))
}

fn scripted(shared: &Shared, asked: &Asked) -> Behaviour {
    let mut scripted = shared.scripted.lock().unwrap();
    let queued = if asked.is_title() { None } else { scripted.next.pop_front() };
    queued.unwrap_or_else(|| scripted.always.clone())
}

fn record(shared: &Shared, request: Recorded) {
    if shared.scripted.lock().unwrap().recording_off {
        return;
    }
    let mut recorded = shared.recorded.lock().unwrap();
    if recorded.len() == RECORDED_MAX {
        recorded.pop_front();
    }
    recorded.push_back(request);
}

fn refusal_for_key(shared: &Shared, headers: &HeaderMap) -> Option<Response> {
    let wanted = shared.scripted.lock().unwrap().key.clone()?;
    let given = headers.get("authorization").and_then(|value| value.to_str().ok());
    if given == Some(&format!("Bearer {wanted}")) {
        return None;
    }
    Some(refusal(401, "Incorrect API key provided."))
}

fn refusal(status: u16, message: &str) -> Response {
    let body = Json(error_body(status, message));
    let code = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if status == 429 {
        return (code, [("retry-after", "1")], body).into_response();
    }
    (code, body).into_response()
}

async fn models(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    if let Some(refusal) = refusal_for_key(&shared, &headers) {
        return refusal;
    }
    let data: Vec<Value> = MODELS
        .iter()
        .map(|id| json!({"id": id, "object": "model", "created": 1_795_000_000, "owned_by": "fake"}))
        .collect();
    Json(json!({"object": "list", "data": data})).into_response()
}

async fn unknown(uri: Uri) -> Result<Response, Infallible> {
    Ok(refusal(404, &format!("Unknown request URL: {uri}.")))
}

#[cfg(test)]
mod tests;
