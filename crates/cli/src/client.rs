//! The public API, as every command uses it: nothing here that a user's own program could not do.

use std::{net::IpAddr, sync::Arc, time::Duration};

use anyhow::{Context, Result, anyhow};
use async_trait::async_trait;
use futures_util::StreamExt;
use reqwest::{Method, RequestBuilder, Response, header, multipart};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

/// The largest event of a stream that is believed.
const MAX_EVENT_BYTES: usize = 4 * 1024 * 1024;
/// How long an answer may take. The platform itself lets a request wait for 300 s at the most.
const ANSWER_MAX: Duration = Duration::from_secs(320);
/// Of a stream in which nothing comes for so long, the other end is gone: the platform says every 15 s that it is there.
const SILENCE_MAX: Duration = Duration::from_mins(1);

/// Talks to one platform.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    url: String,
    credential: Option<Arc<dyn Credential>>,
    answer_max: Duration,
}

/// What a client proves with who it is.
#[async_trait]
pub trait Credential: Send + Sync {
    /// What is sent along.
    async fn token(&self) -> Result<SecretString>;

    /// Another one, after the platform did not take this one; `None` where there is no other.
    async fn instead_of(&self, refused: &SecretString) -> Result<Option<SecretString>>;
}

/// An API key, or a token that somebody else looks after.
#[async_trait]
impl Credential for SecretString {
    async fn token(&self) -> Result<SecretString> {
        Ok(self.clone())
    }

    async fn instead_of(&self, _: &SecretString) -> Result<Option<SecretString>> {
        Ok(None)
    }
}

/// An answer that is not a success.
#[derive(Debug, thiserror::Error)]
#[error("{detail}")]
pub struct Refused {
    /// The HTTP status.
    pub status: u16,
    /// Stable: see `docs/errors.md`.
    pub code: String,
    /// What happened, and what to do now.
    pub detail: String,
}

/// One event of a stream.
#[derive(Clone, Debug)]
pub struct SseEvent {
    /// Its name.
    pub event: String,
    /// Its id, for resuming; that of the one before where it has none.
    pub id: String,
    /// Its data.
    pub data: Value,
}

impl Client {
    /// Of the platform at `url`.
    ///
    /// # Errors
    /// Where the address is none, or TLS cannot be set up.
    pub fn new(url: &str, credential: Option<SecretString>) -> Result<Self> {
        let client = Self::anonymous(url)?;
        Ok(match credential {
            Some(credential) => client.with(Arc::new(credential)),
            None => client,
        })
    }

    fn anonymous(url: &str) -> Result<Self> {
        let parsed = url.parse::<reqwest::Url>().ok().filter(|url| ["http", "https"].contains(&url.scheme()));
        let parsed = parsed.with_context(|| format!("{url:?} is no address of a platform: it begins with https://"))?;
        let builder = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(10))
            .user_agent(concat!("astrfleet/", env!("CARGO_PKG_VERSION")));
        // A platform on this machine must not be looked for behind a proxy; one elsewhere may be reached through it alone.
        let http = if is_this_machine(&parsed) { builder.no_proxy() } else { builder }.build()?;
        Ok(Self { http, url: url.trim_end_matches('/').to_owned(), credential: None, answer_max: ANSWER_MAX })
    }

    /// The same, which proves who it is.
    pub fn with(self, credential: Arc<dyn Credential>) -> Self {
        Self { credential: Some(credential), ..self }
    }

    /// The same, which waits no longer than this for an answer.
    pub fn waiting_at_most(self, answer_max: Duration) -> Self {
        Self { answer_max, ..self }
    }

    /// Where it is.
    pub fn url(&self) -> &str {
        &self.url
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url))
    }

    /// Sends a request; `body` as JSON. `Null` where the answer has none.
    ///
    /// # Errors
    /// [`Refused`] for an answer that is not a success.
    pub async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
        let request = self.request(method, path).timeout(self.answer_max);
        let request = match body {
            Some(body) => request.json(body),
            None => request,
        };
        let response = self.send(request).await?;
        read_json(response, path).await
    }

    /// Sends a form with one file.
    ///
    /// # Errors
    /// See [`Client::call`].
    pub async fn upload(&self, path: &str, name: String, content: Vec<u8>) -> Result<Value> {
        let file = multipart::Part::bytes(content).file_name(name);
        let request = self.request(Method::POST, path).timeout(self.answer_max);
        let response = self.send(request.multipart(multipart::Form::new().part("file", file))).await?;
        read_json(response, path).await
    }

    /// Reads.
    ///
    /// # Errors
    /// See [`Client::call`].
    pub async fn get(&self, path: &str) -> Result<Value> {
        self.call(Method::GET, path, None).await
    }

    /// Creates or acts.
    ///
    /// # Errors
    /// See [`Client::call`].
    pub async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        self.call(Method::POST, path, Some(body)).await
    }

    /// Opens a stream of events.
    ///
    /// # Errors
    /// See [`Client::call`].
    pub async fn stream(&self, method: Method, path: &str, body: Option<&Value>) -> Result<EventStream> {
        let request = self.request(method, path).header(header::ACCEPT, "text/event-stream");
        let request = match body {
            Some(body) => request.json(body),
            None => request,
        };
        // It begins at once, and is silent for no longer than its heartbeat.
        let began = tokio::time::timeout(SILENCE_MAX, self.send(request)).await;
        let response = began.map_err(|_| anyhow!("{} does not answer", self.url))??;
        Ok(EventStream { body: Box::pin(response.bytes_stream()), buffer: Vec::new(), place: None })
    }

    /// Reads an answer of any length, a piece at a time.
    ///
    /// # Errors
    /// See [`Client::call`]; where the answer breaks off; what `write` says.
    pub async fn download(&self, path: &str, mut write: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let began = tokio::time::timeout(self.answer_max, self.send(self.request(Method::GET, path))).await;
        let mut pieces = began.map_err(|_| anyhow!("{} does not answer", self.url))??.bytes_stream();
        loop {
            let next = tokio::time::timeout(SILENCE_MAX, pieces.next()).await;
            match next.context("the answer went silent: what came is not all of it")? {
                Some(piece) => write(&piece.context("the answer broke off: what came is not all of it")?)?,
                None => return Ok(()),
            }
        }
    }

    /// Sends it with what proves who we are; once more with another proof where the platform does not take this one.
    async fn send(&self, request: RequestBuilder) -> Result<Response> {
        let Some(credential) = &self.credential else { return self.answer_to(request).await };
        let token = credential.token().await?;
        let again = request.try_clone();
        let refused = match self.answer_to(request.bearer_auth(token.expose_secret())).await {
            Err(error) if Refused::status_of(&error) == Some(401) => error,
            answer => return answer,
        };
        match (again, credential.instead_of(&token).await?) {
            (Some(again), Some(token)) => self.answer_to(again.bearer_auth(token.expose_secret())).await,
            _ => Err(refused),
        }
    }

    async fn answer_to(&self, request: RequestBuilder) -> Result<Response> {
        let response = request.send().await.map_err(|error| {
            if error.is_connect() {
                anyhow!("nothing answers at {}: start it with `astrfleet up`, or name another with --url", self.url)
            } else {
                anyhow::Error::new(error).context(format!("the request to {} failed", self.url))
            }
        })?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status().as_u16();
        let text = response.text().await.unwrap_or_default();
        let problem: Value = serde_json::from_str(&text).unwrap_or_default();
        let field = |name: &str| problem[name].as_str().map(str::to_owned);
        Err(Refused {
            status,
            code: field("code").unwrap_or_else(|| "unknown".to_owned()),
            detail: field("detail").unwrap_or_else(|| format!("the answer was {status}")),
        }
        .into())
    }
}

impl Refused {
    /// The HTTP status, where this is an answer of the platform.
    pub fn status_of(error: &anyhow::Error) -> Option<u16> {
        error.downcast_ref::<Self>().map(|refused| refused.status)
    }
}

async fn read_json(response: Response, path: &str) -> Result<Value> {
    let text = response.text().await.context("the answer broke off")?;
    if text.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_str(&text).with_context(|| format!("the answer of {path} is not JSON"))
}

fn is_this_machine(url: &reqwest::Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    address.map_or_else(|_| host == "localhost" || host.ends_with(".localhost"), |address| address.is_loopback())
}

/// Events as they come.
pub struct EventStream {
    body: std::pin::Pin<Box<dyn futures_util::Stream<Item = reqwest::Result<bytes::Bytes>> + Send>>,
    buffer: Vec<u8>,
    place: Option<String>,
}

impl EventStream {
    /// The last id that came, with an event or without one.
    pub fn place(&self) -> Option<&str> {
        self.place.as_deref()
    }

    /// The next one; `None` at the end.
    ///
    /// # Errors
    /// Where the stream breaks, goes silent or makes no sense.
    pub async fn next(&mut self) -> Result<Option<SseEvent>> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\n\n") {
                let block: Vec<u8> = self.buffer.drain(..end + 2).collect();
                if let Some(event) = read_event(&String::from_utf8_lossy(&block), &mut self.place)? {
                    return Ok(Some(event));
                }
                continue;
            }
            if self.buffer.len() > MAX_EVENT_BYTES {
                return Err(anyhow!("the stream sent an event larger than {MAX_EVENT_BYTES} bytes"));
            }
            let next = tokio::time::timeout(SILENCE_MAX, self.body.next()).await;
            match next.context("the stream went silent")? {
                Some(piece) => self.buffer.extend_from_slice(&piece.context("the stream broke off")?),
                None => return Ok(None),
            }
        }
    }
}

/// One block of a stream; `None` for a comment, or an id alone. Notes the place where that is said.
fn read_event(block: &str, place: &mut Option<String>) -> Result<Option<SseEvent>> {
    let mut event = SseEvent { event: "message".to_owned(), id: String::new(), data: Value::Null };
    let mut data = String::new();
    for line in block.lines() {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut event.event),
            "id" => *place = Some(value.to_owned()),
            "data" => data.push_str(value),
            _ => {}
        }
    }
    if data.is_empty() {
        return Ok(None);
    }
    event.id = place.clone().unwrap_or_default();
    event.data = serde_json::from_str(&data).context("an event of the stream is not JSON")?;
    Ok(Some(event))
}

#[cfg(test)]
mod tests {
    use super::{is_this_machine, read_event};

    #[test]
    fn an_id_alone_is_a_place_and_no_event() {
        let mut place = None;
        assert!(read_event("id: evt_1\n\n", &mut place).unwrap().is_none());
        assert!(read_event(":still here\n\n", &mut place).unwrap().is_none());
        assert_eq!(place.as_deref(), Some("evt_1"));
        let event = read_event("id: evt_2\nevent: done\ndata: {\"a\": 1}\n\n", &mut place).unwrap().unwrap();
        assert_eq!((event.event.as_str(), event.id.as_str()), ("done", "evt_2"));
        assert_eq!(place.as_deref(), Some("evt_2"));
    }

    #[test]
    fn only_this_machine_is_never_behind_a_proxy() {
        for here in ["http://127.0.0.1:8000", "http://[::1]:8000", "http://localhost:1", "http://acme.localhost"] {
            assert!(is_this_machine(&here.parse().unwrap()), "{here}");
        }
        for elsewhere in ["https://bots.example.com", "http://10.0.0.7:8000", "http://localhost.example.com"] {
            assert!(!is_this_machine(&elsewhere.parse().unwrap()), "{elsewhere}");
        }
    }
}
