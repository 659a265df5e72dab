//! How the clients of a load ask: at whoever takes requests in, in turn, and with every answer looked at.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use reqwest::{RequestBuilder, Response};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::super::takers::Takers;
use crate::client::Api;

/// How long the whole answer to one request may take.
pub(super) const ANSWER_LIMIT: Duration = Duration::from_secs(20);
/// Between two tries.
pub(super) const RETRY_EVERY: Duration = Duration::from_millis(50);
/// What went wrong is kept in words, so often.
const NOTES_MAX: usize = 20;
/// With which a server says that it cannot at the moment, and that nothing is wrong with the request.
const NOT_NOW: [u16; 5] = [408, 429, 502, 503, 504];
/// What a process answers to whom it takes for late, where clocks differ.
const LATE: [u16; 2] = [401, 403];

/// What the tries of a load came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tries {
    /// A problem said that it cannot be done now, or the connection was refused.
    pub refused: usize,
    /// Nobody answered in time, or the connection broke.
    pub unanswered: usize,
    /// Answers that nobody may get: an error of ours, a refusal of what is allowed, something else than was asked for.
    pub wrong: usize,
    /// The longest time in which no message was acknowledged although some were sent.
    pub outage: Duration,
    /// Some of what was wrong, in words.
    pub notes: Vec<String>,
}

/// What all clients of a load share.
pub(super) struct Shared {
    tries: Mutex<(Tries, Instant)>,
    /// Nothing new is begun any more.
    pub(super) stop: CancellationToken,
    /// A clock is wrong: whoever goes by it may take a credential for one that ran out.
    pub(super) is_late: std::sync::atomic::AtomicBool,
}

impl Shared {
    pub(super) fn new() -> Self {
        let tries = Mutex::new((Tries::default(), Instant::now()));
        Self { tries, stop: CancellationToken::new(), is_late: std::sync::atomic::AtomicBool::new(false) }
    }

    pub(super) fn tries(&self) -> Tries {
        self.tries.lock().unwrap().0.clone()
    }

    /// A message was acknowledged.
    pub(super) fn acknowledged(&self) {
        let mut tries = self.tries.lock().unwrap();
        let since = tries.1.elapsed();
        tries.0.outage = tries.0.outage.max(since);
        tries.1 = Instant::now();
    }

    pub(super) fn wrong(&self, what: String) {
        let mut tries = self.tries.lock().unwrap();
        tries.0.wrong += 1;
        if tries.0.notes.len() < NOTES_MAX {
            tries.0.notes.push(what);
        }
    }

    fn missed(&self, error: &reqwest::Error) {
        let mut tries = self.tries.lock().unwrap();
        let count = if error.is_connect() { &mut tries.0.refused } else { &mut tries.0.unanswered };
        *count += 1;
        if tries.0.notes.len() < NOTES_MAX {
            tries.0.notes.push(format!("{:?}", error.to_string()));
        }
    }

    fn refused(&self, status: u16, is_problem: bool, target: &str, text: &str) {
        let is_late = self.is_late.load(Ordering::Relaxed) && LATE.contains(&status);
        if is_problem && (NOT_NOW.contains(&status) || is_late) {
            self.tries.lock().unwrap().0.refused += 1;
        } else {
            self.wrong(format!("{target}: {status} {text}"));
        }
    }
}

/// A caller, and who is asked.
#[derive(Clone)]
pub(super) struct Door {
    caller: Api,
    takers: Takers,
    roles: &'static [&'static str],
    turn: Arc<AtomicUsize>,
    pub(super) shared: Arc<Shared>,
}

/// A success.
pub(super) struct Got {
    pub(super) bytes: Bytes,
    pub(super) json: Value,
}

impl Door {
    pub(super) fn new(caller: Api, takers: Takers, roles: &'static [&'static str], shared: Arc<Shared>) -> Self {
        Self { caller, takers, roles, turn: Arc::default(), shared }
    }

    /// The same as another caller.
    pub(super) fn as_bearer(&self, token: &str) -> Self {
        Self { caller: self.caller.as_bearer(token), ..self.clone() }
    }

    /// The next one in turn.
    pub(super) fn next(&self) -> Api {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        self.caller.at(&self.takers.pick(self.roles, turn))
    }

    /// Asks once, and reads the answer. None for all that is no success, which is counted.
    pub(super) async fn ask(&self, make: impl Fn(&Api) -> RequestBuilder) -> Option<Got> {
        let answer = self.open(|api| make(api).timeout(ANSWER_LIMIT)).await?;
        match answer.bytes().await {
            Ok(bytes) => Some(Got { json: serde_json::from_slice(&bytes).unwrap_or_default(), bytes }),
            Err(error) => {
                self.shared.missed(&error);
                None
            }
        }
    }

    /// The same, whose answer is read by whoever asks.
    pub(super) async fn open(&self, make: impl Fn(&Api) -> RequestBuilder) -> Option<Response> {
        let request = make(&self.next());
        let answer = match tokio::time::timeout(ANSWER_LIMIT, request.send()).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                self.shared.missed(&error);
                return None;
            }
            Err(_) => {
                self.shared.tries.lock().unwrap().0.unanswered += 1;
                return None;
            }
        };
        if answer.status().is_success() {
            return Some(answer);
        }
        let (status, target) = (answer.status().as_u16(), answer.url().path().to_owned());
        let media_type = answer.headers().get("content-type").and_then(|value| value.to_str().ok()).unwrap_or_default();
        let is_problem = media_type.starts_with("application/problem+json") || target.starts_with("/llm/");
        let text = answer.text().await.unwrap_or_default();
        self.shared.refused(status, is_problem, &target, &text);
        None
    }

    /// Asks again and again, until it is a success or the load is to stop.
    pub(super) async fn insist(&self, make: impl Fn(&Api) -> RequestBuilder) -> Option<Got> {
        loop {
            if self.shared.stop.is_cancelled() {
                return None;
            }
            if let Some(got) = self.ask(&make).await {
                return Some(got);
            }
            tokio::time::sleep(RETRY_EVERY).await;
        }
    }
}
