//! How one talks to bots: the connection, its limits, and what their envelope means. A bot answers HTTP 200 with
//! `{"status": "error"}` for what it refuses, so a status alone says nothing. What it says is never logged.

use std::{
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::Duration,
};

use astrfleet_core::{
    error::{Error, Result},
    ports::{BotAccess, BotClient, Bots, Clock, Rng},
};
use reqwest::{Method, RequestBuilder, Response};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use tokio::sync::{Mutex, MutexGuard};

use super::{connection::Connection, jwt, masking};

/// The name under which the platform itself speaks to a bot.
const PLATFORM_PERSON: &str = "platform";
/// What the caller reads where a bot does not answer.
pub(super) const WHAT: &str = "the bot";
/// Letters of a bot's own words that are passed on.
const WORDS_MAX: usize = 500;
const LOCKS: usize = 64;

/// What a bot may take.
#[derive(Clone, Debug)]
pub struct ClientLimits {
    /// Until a connection stands.
    pub connect: Duration,
    /// Until an answer is there, except for a chat and for files.
    pub answer: Duration,
    /// Between two signs of life in a chat, where the bot gives one every second; and between two pieces of a file.
    pub silence: Duration,
    /// Until a file has come or gone.
    pub file: Duration,
    /// Until a chat ends.
    pub chat: Duration,
    /// For an error of a channel that is tried: one that reports none for so long is taken to work.
    pub channel_watch: Duration,
    /// Of an answer that is not a file.
    pub answer_bytes_max: usize,
    /// Of the text of one chat's answer.
    pub text_bytes_max: usize,
}

impl Default for ClientLimits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            answer: Duration::from_secs(30),
            silence: Duration::from_mins(1),
            file: Duration::from_mins(5),
            chat: Duration::from_mins(30),
            channel_watch: Duration::from_secs(5),
            answer_bytes_max: 16 << 20,
            text_bytes_max: 1 << 20,
        }
    }
}

/// Talks to `AstrBot`s.
pub struct AstrBots {
    shared: Arc<Shared>,
}

/// What all connections have in common.
pub(super) struct Shared {
    http: reqwest::Client,
    clock: Arc<dyn Clock>,
    pub rng: Arc<dyn Rng>,
    pub limits: ClientLimits,
    pub failure_text: String,
    hasher: RandomState,
    /// One change of a bot's configuration at a time: it is read, changed and written whole.
    locks: [Mutex<()>; LOCKS],
}

impl AstrBots {
    /// `failure_text` is what bots say where their model fails, as in [`astrfleet_core::ports::BotSpec`].
    ///
    /// # Errors
    /// [`Error::Internal`] where the machine has no TLS or resolver.
    pub fn new(
        clock: Arc<dyn Clock>,
        rng: Arc<dyn Rng>,
        failure_text: impl Into<String>,
        limits: ClientLimits,
    ) -> Result<Self> {
        let http = reqwest::Client::builder()
            .connect_timeout(limits.connect)
            .read_timeout(limits.silence)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()
            .map_err(Error::internal)?;
        let failure_text = failure_text.into();
        let hasher = RandomState::new();
        let locks = std::array::from_fn(|_| Mutex::new(()));
        Ok(Self { shared: Arc::new(Shared { http, clock, rng, limits, failure_text, hasher, locks }) })
    }
}

impl Bots for AstrBots {
    fn client(&self, access: &BotAccess) -> Box<dyn BotClient> {
        Box::new(Connection::new(Arc::clone(&self.shared), access.clone()))
    }

    fn token(&self, access: &BotAccess, person: &str) -> Result<SecretString> {
        jwt::mint(&access.jwt_secret, person, self.shared.clock.now())
    }

    fn holds_platform_values(&self, path: &str) -> bool {
        masking::holds_platform_values(path)
    }

    fn mask_dashboard_answer(&self, path: &str, body: Value) -> Value {
        masking::mask_answer(path, body)
    }
}

/// Why a call failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// It did not answer, or not in a way that can be understood.
    Away(String),
    /// It answered that it will not, in its own words.
    Refused(String),
    /// A defect, or something that is settled already.
    Other(Error),
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Away(reason) => Self::unavailable(WHAT, reason),
            Failure::Refused(words) => Self::invalid("body", format!("the bot refused it: {words}")),
            Failure::Other(error) => error,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

impl From<reqwest::Error> for Failure {
    fn from(error: reqwest::Error) -> Self {
        // Its address is in the log already, and may hold a name.
        Self::Away(chain(&error.without_url()))
    }
}

/// An error with its causes: the first one alone says no more than "error sending request".
fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(error.source(), |error| error.source())
        .fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

impl Connection {
    /// A request in the name of `person`.
    pub(super) fn request_as(&self, person: &str, method: Method, path: &str) -> Result<RequestBuilder> {
        let token = jwt::mint(&self.access.jwt_secret, person, self.shared.clock.now())?;
        let url = format!("{}/api/v1/{path}", self.access.base_url.trim_end_matches('/'));
        Ok(self.shared.http.request(method, url).bearer_auth(token.expose_secret()))
    }

    /// Calls in the platform's own name. Returns the `data` of the answer.
    pub(super) async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Failure> {
        self.call_as(PLATFORM_PERSON, method, path, body).await
    }

    /// Calls in the name of `person`. Returns the `data` of the answer.
    pub(super) async fn call_as(
        &self,
        person: &str,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, Failure> {
        let mut request = self.request_as(person, method, path)?.timeout(self.shared.limits.answer);
        if let Some(body) = body {
            request = request.json(body);
        }
        self.data(request.send().await?).await
    }

    /// The `data` of an answer that is not a stream.
    pub(super) async fn data(&self, answer: Response) -> Result<Value, Failure> {
        let status = answer.status();
        let body = self.whole(answer).await?;
        let mut body: Value =
            serde_json::from_slice(&body).map_err(|_| Failure::Away(format!("its answer ({status}) is not JSON")))?;
        if status.is_success() && body["status"] == "ok" {
            return Ok(body["data"].take());
        }
        let words = body["message"].as_str().map_or_else(|| body["detail"].to_string(), str::to_owned);
        let words: String = words.chars().take(WORDS_MAX).collect();
        // It refuses our token only where its secret is not the one we know: no caller can do anything about that.
        if status.is_server_error() || matches!(status.as_u16(), 401 | 403) {
            return Err(Failure::Away(format!("{status}: {words}")));
        }
        Err(Failure::Refused(words))
    }

    async fn whole(&self, mut answer: Response) -> Result<Vec<u8>, Failure> {
        let mut body = Vec::new();
        while let Some(piece) = answer.chunk().await? {
            if body.len() + piece.len() > self.shared.limits.answer_bytes_max {
                return Err(Failure::Away(format!(
                    "its answer is larger than {} bytes",
                    self.shared.limits.answer_bytes_max
                )));
            }
            body.extend_from_slice(&piece);
        }
        Ok(body)
    }

    /// Whether it answers the question that it answers without a token.
    pub(super) async fn answers(&self) -> bool {
        let url = format!("{}/api/stat/start-time", self.access.base_url.trim_end_matches('/'));
        match self.shared.http.get(url).timeout(self.shared.limits.answer).send().await {
            Ok(answer) => self.data(answer).await.is_ok(),
            Err(_) => false,
        }
    }

    /// Until this is dropped, nobody else in this process changes this bot's configuration.
    pub(super) async fn alone(&self) -> MutexGuard<'_, ()> {
        let slot = self.shared.hasher.hash_one(self.access.instance.as_str()) % LOCKS as u64;
        self.shared.locks[usize::try_from(slot).unwrap_or(0)].lock().await
    }
}

/// `text` as one part of a path or a query.
pub(super) fn escaped(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}
