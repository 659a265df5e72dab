//! A receiver of webhooks: notes what it gets, checks signatures as the standard says, and behaves as a test tells it to:
//! it takes, refuses, stalls, redirects, or answers without an end.

use std::{
    collections::VecDeque,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aws_lc_rs::hmac;
use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use futures_util::stream;
use serde_json::Value;
use tokio::sync::{Notify, watch};

/// How long anything may take: only a test that hangs waits so long.
const PATIENCE: Duration = Duration::from_mins(1);

/// How one request is answered.
#[derive(Clone, Debug)]
pub enum Answer {
    /// With this status and body.
    Status(u16, String),
    /// With this status and `Retry-After`.
    Later(u16, u64),
    /// With a redirect to this address.
    Redirect(String),
    /// Not at all, as long as the test runs.
    Stall,
    /// With a success whose body never ends.
    Endless,
    /// With this status, once [`Receiver::let_on`] was called.
    Held(u16),
    /// With a closed connection.
    Hangup,
}

/// One request as it came.
#[derive(Clone, Debug)]
pub struct Got {
    /// `webhook-id`.
    pub id: String,
    /// `webhook-timestamp`.
    pub timestamp: String,
    /// `webhook-signature`, taken apart.
    pub signatures: Vec<String>,
    /// The path and query.
    pub path: String,
    /// The host that was asked for.
    pub host: String,
    /// The body, byte for byte.
    pub body: Bytes,
    /// The same, read.
    pub json: Value,
    /// How many were being answered when it came, itself included.
    pub at_once: usize,
}

impl Got {
    /// Whether one of the signatures is that of `secret` (`whsec_…`).
    ///
    /// # Panics
    /// Where that is no secret.
    #[must_use]
    pub fn is_signed_with(&self, secret: &str) -> bool {
        let key = STANDARD.decode(secret.strip_prefix("whsec_").unwrap()).unwrap();
        let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
        let signed = [self.id.as_bytes(), b".", self.timestamp.as_bytes(), b".", &self.body].concat();
        self.signatures.iter().any(|signature| {
            let tag = signature.strip_prefix("v1,").and_then(|tag| STANDARD.decode(tag).ok());
            tag.is_some_and(|tag| hmac::verify(&key, &signed, &tag).is_ok())
        })
    }
}

struct Inner {
    got: watch::Sender<Vec<Got>>,
    script: Mutex<VecDeque<Answer>>,
    always: Mutex<Answer>,
    open: Mutex<usize>,
    hold: Notify,
}

/// The receiver.
#[derive(Clone)]
pub struct Receiver {
    inner: Arc<Inner>,
    address: SocketAddr,
}

impl Receiver {
    /// One that takes everything, on a port of its own.
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let inner = Arc::new(Inner {
            got: watch::Sender::new(Vec::new()),
            script: Mutex::default(),
            always: Mutex::new(Answer::Status(204, String::new())),
            open: Mutex::default(),
            hold: Notify::new(),
        });
        let router = Router::new().fallback(take).with_state(Arc::clone(&inner));
        tokio::spawn(axum::serve(listener, router).into_future());
        Self { inner, address }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// An address to be sent to.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    /// The next requests are answered like this, and those after them as before.
    pub fn next(&self, answers: impl IntoIterator<Item = Answer>) {
        self.inner.script.lock().unwrap_or_else(PoisonError::into_inner).extend(answers);
    }

    /// Every request is answered like this from now on.
    pub fn always(&self, answer: Answer) {
        *self.inner.always.lock().unwrap_or_else(PoisonError::into_inner) = answer;
    }

    /// Lets one that is held go on.
    pub fn let_on(&self) {
        self.inner.hold.notify_one();
    }

    /// All that came so far.
    #[must_use]
    pub fn got(&self) -> Vec<Got> {
        self.inner.got.borrow().clone()
    }

    /// Waits until so many have come. Returns them all.
    ///
    /// # Panics
    /// Where they do not.
    pub async fn wait_for(&self, count: usize) -> Vec<Got> {
        let mut got = self.inner.got.subscribe();
        let waited = tokio::time::timeout(PATIENCE, got.wait_for(|got| got.len() >= count)).await;
        assert!(waited.is_ok(), "only {} of {count} came", self.got().len());
        self.got()
    }
}

/// Counts as open until it is dropped.
struct Open(Arc<Inner>);

impl Drop for Open {
    fn drop(&mut self) {
        *self.0.open.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
    }
}

async fn take(State(inner): State<Arc<Inner>>, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let at_once = {
        let mut open = inner.open.lock().unwrap_or_else(PoisonError::into_inner);
        *open += 1;
        *open
    };
    let _open = Open(Arc::clone(&inner));
    let got = Got {
        id: text("webhook-id"),
        timestamp: text("webhook-timestamp"),
        signatures: text("webhook-signature").split(' ').map(str::to_owned).collect(),
        path: uri.to_string(),
        host: text("host"),
        json: serde_json::from_slice(&body).unwrap_or_default(),
        body,
        at_once,
    };
    let scripted = inner.script.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let answer = scripted.unwrap_or_else(|| inner.always.lock().unwrap_or_else(PoisonError::into_inner).clone());
    inner.got.send_modify(|all| all.push(got));
    let status = |status: u16| StatusCode::from_u16(status).unwrap();
    match answer {
        Answer::Status(code, body) => (status(code), body).into_response(),
        Answer::Later(code, seconds) => (status(code), [(header::RETRY_AFTER, seconds.to_string())]).into_response(),
        Answer::Redirect(to) => (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, to)]).into_response(),
        Answer::Stall => std::future::pending().await,
        Answer::Endless => {
            let more = stream::repeat_with(|| Ok::<_, std::convert::Infallible>(Bytes::from_static(&[b'x'; 4096])));
            Body::from_stream(more).into_response()
        }
        Answer::Held(code) => {
            inner.hold.notified().await;
            status(code).into_response()
        }
        Answer::Hangup => {
            let broken = stream::once(async { Err::<Bytes, _>(std::io::Error::other("hung up")) });
            ([(header::CONTENT_LENGTH, "10")], Body::from_stream(broken)).into_response()
        }
    }
}
