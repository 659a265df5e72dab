//! The public API, as every command uses it: nothing here that a user's own program could not do.

use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use futures_util::StreamExt;
use reqwest::{Method, RequestBuilder, Response, header};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

/// The largest event of a stream that is believed.
const MAX_EVENT_BYTES: usize = 4 * 1024 * 1024;

/// Talks to one platform.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    url: String,
    credential: Option<SecretString>,
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
    /// Its id, for resuming.
    pub id: String,
    /// Its data.
    pub data: Value,
}

impl Client {
    /// Of the platform at `url`.
    ///
    /// # Errors
    /// Where TLS cannot be set up.
    pub fn new(url: &str, credential: Option<SecretString>) -> Result<Self> {
        let http = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(10))
            .user_agent(concat!("astrfleet/", env!("CARGO_PKG_VERSION")))
            // A platform on this machine must not be looked for behind a proxy.
            .no_proxy()
            .build()?;
        Ok(Self { http, url: url.trim_end_matches('/').to_owned(), credential })
    }

    /// Where it is.
    pub fn url(&self) -> &str {
        &self.url
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.url));
        match &self.credential {
            Some(credential) => request.bearer_auth(credential.expose_secret()),
            None => request,
        }
    }

    /// Sends a request; `body` as JSON. `Null` where the answer has none.
    ///
    /// # Errors
    /// [`Refused`] for an answer that is not a success.
    pub async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
        let request = self.request(method, path).timeout(Duration::from_secs(320));
        let request = match body {
            Some(body) => request.json(body),
            None => request,
        };
        let response = self.send(request).await?;
        let text = response.text().await.context("the answer broke off")?;
        if text.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(&text).with_context(|| format!("the answer of {path} is not JSON"))
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
        let response = self.send(request).await?;
        Ok(EventStream { body: Box::pin(response.bytes_stream()), buffer: Vec::new() })
    }

    /// Reads an answer of any length, a piece at a time.
    ///
    /// # Errors
    /// See [`Client::call`]; where the answer breaks off; what `write` says.
    pub async fn download(&self, path: &str, mut write: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut pieces = self.send(self.request(Method::GET, path)).await?.bytes_stream();
        while let Some(piece) = pieces.next().await {
            write(&piece.context("the answer broke off: what was written is not all of it")?)?;
        }
        Ok(())
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response> {
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

/// Events as they come.
pub struct EventStream {
    body: std::pin::Pin<Box<dyn futures_util::Stream<Item = reqwest::Result<bytes::Bytes>> + Send>>,
    buffer: Vec<u8>,
}

impl EventStream {
    /// The next one; `None` at the end.
    ///
    /// # Errors
    /// Where the stream breaks or makes no sense.
    pub async fn next(&mut self) -> Result<Option<SseEvent>> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\n\n") {
                let block: Vec<u8> = self.buffer.drain(..end + 2).collect();
                if let Some(event) = read_event(&String::from_utf8_lossy(&block))? {
                    return Ok(Some(event));
                }
                continue;
            }
            if self.buffer.len() > MAX_EVENT_BYTES {
                return Err(anyhow!("the stream sent an event larger than {MAX_EVENT_BYTES} bytes"));
            }
            match self.body.next().await {
                Some(piece) => self.buffer.extend_from_slice(&piece.context("the stream broke off")?),
                None => return Ok(None),
            }
        }
    }
}

/// One block of a stream; `None` for a comment.
fn read_event(block: &str) -> Result<Option<SseEvent>> {
    let mut event = SseEvent { event: "message".to_owned(), id: String::new(), data: Value::Null };
    let mut data = String::new();
    for line in block.lines() {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut event.event),
            "id" => value.clone_into(&mut event.id),
            "data" => data.push_str(value),
            _ => {}
        }
    }
    if data.is_empty() {
        return Ok(None);
    }
    event.data = serde_json::from_str(&data).context("an event of the stream is not JSON")?;
    Ok(Some(event))
}
