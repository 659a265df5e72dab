//! A small client of the platform's public API for tests: JSON in, JSON out, and streams of events as they arrive.
//! It asserts nothing about answers; tests do.

use std::{pin::Pin, time::Duration};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use reqwest::{Method, header::HeaderMap};
use serde_json::{Value, json};

/// How long an answer, or the next event of a stream, may take before the test fails.
const PATIENCE: Duration = Duration::from_mins(3);
/// The most a stream may send without ending an event.
const EVENT_BYTES_MAX: usize = 64 << 20;

/// A client of one platform, as one caller.
#[derive(Clone, Debug)]
pub struct Api {
    url: String,
    bearer: Option<String>,
    headers: HeaderMap,
    http: reqwest::Client,
}

/// What came back.
#[derive(Clone, Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body as JSON; `null` where it was none.
    pub body: Value,
    /// The body as text.
    pub text: String,
}

impl Answer {
    /// The body, of an answer that has to be a success.
    ///
    /// # Panics
    /// When it is none; the text says what came instead.
    #[must_use]
    pub fn ok(self) -> Value {
        assert!((200..300).contains(&self.status), "answered {}: {}", self.status, self.text);
        self.body
    }
}

impl Api {
    /// A client without credentials of what listens at `url`, for example `http://127.0.0.1:8000`.
    #[must_use]
    pub fn new(url: &str) -> Self {
        let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy().build().unwrap();
        Self { url: url.trim_end_matches('/').to_owned(), bearer: None, headers: HeaderMap::new(), http }
    }

    /// The same client as another caller.
    #[must_use]
    pub fn as_bearer(&self, token: &str) -> Self {
        Self { bearer: Some(token.to_owned()), ..self.clone() }
    }

    /// The same client with one more header on every request, for example `Idempotency-Key`.
    ///
    /// # Panics
    /// When it is no header.
    #[must_use]
    pub fn with_header(&self, name: &'static str, value: &str) -> Self {
        let mut client = self.clone();
        client.headers.insert(name, value.parse().unwrap());
        client
    }

    /// Logs in and gives the client of that person.
    ///
    /// # Panics
    /// When the login is refused.
    pub async fn log_in(&self, email: &str, password: &str) -> Self {
        let answer = self.post("/api/v1/auth/login", json!({"email": email, "password": password})).await.ok();
        self.as_bearer(answer["access_token"].as_str().expect("a login gives an access token"))
    }

    /// The same caller at another gateway of the same platform.
    #[must_use]
    pub fn at(&self, url: &str) -> Self {
        Self { url: url.trim_end_matches('/').to_owned(), ..self.clone() }
    }

    /// Where the platform listens.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// GET a path, for example `/api/v1/tenants`.
    pub async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, None).await
    }

    /// POST JSON.
    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.send(Method::POST, path, Some(body)).await
    }

    /// PUT JSON.
    pub async fn put(&self, path: &str, body: Value) -> Answer {
        self.send(Method::PUT, path, Some(body)).await
    }

    /// PATCH with JSON.
    pub async fn patch(&self, path: &str, body: Value) -> Answer {
        self.send(Method::PATCH, path, Some(body)).await
    }

    /// DELETE a path.
    pub async fn delete(&self, path: &str) -> Answer {
        self.send(Method::DELETE, path, None).await
    }

    /// Sends a request and reads the whole answer.
    ///
    /// # Panics
    /// When no whole answer comes: use [`Api::try_send`] where that may happen.
    pub async fn send(&self, method: Method, path: &str, body: Option<Value>) -> Answer {
        self.try_send(method, path, body).await.unwrap()
    }

    /// Sends a request and reads the whole answer.
    ///
    /// # Errors
    /// When the connection fails.
    pub async fn try_send(&self, method: Method, path: &str, body: Option<Value>) -> reqwest::Result<Answer> {
        let mut request = self.request(method, path).timeout(PATIENCE);
        if let Some(body) = body {
            request = request.json(&body);
        }
        read(request.send().await?).await
    }

    /// Opens a stream of events: POST with a body, GET without.
    ///
    /// # Panics
    /// When no stream comes; the text says what came instead.
    pub async fn sse(&self, path: &str, body: Option<Value>) -> Events {
        match self.try_sse(path, body).await {
            Ok(events) => events,
            Err(answer) => panic!("{path} gave no stream but {}: {}", answer.status, answer.text),
        }
    }

    /// Opens a stream of events, or gives the answer that came instead of one.
    ///
    /// # Errors
    /// Any answer that is not `text/event-stream`.
    ///
    /// # Panics
    /// When the connection fails.
    pub async fn try_sse(&self, path: &str, body: Option<Value>) -> Result<Events, Box<Answer>> {
        let method = if body.is_some() { Method::POST } else { Method::GET };
        let mut request = self.request(method, path).header("accept", "text/event-stream");
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = tokio::time::timeout(PATIENCE, request.send()).await.expect("a stream begins in time").unwrap();
        let media_type =
            response.headers().get("content-type").and_then(|value| value.to_str().ok()).unwrap_or_default();
        if response.status() == 200 && media_type.starts_with("text/event-stream") {
            return Ok(Events::of(response));
        }
        Err(Box::new(read(response).await.unwrap()))
    }

    /// A request with this caller's credentials and headers, for what the other methods do not do.
    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.url)).headers(self.headers.clone());
        match &self.bearer {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }
}

async fn read(response: reqwest::Response) -> reqwest::Result<Answer> {
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let text = response.text().await?;
    let body = serde_json::from_str(&text).unwrap_or_default();
    Ok(Answer { status, headers, body, text })
}

/// One event of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its id, or nothing.
    pub id: String,
    /// Its name, or nothing.
    pub event: String,
    /// Its data as JSON; as a JSON text where it is none.
    pub data: Value,
}

/// An open stream of events. Dropping it closes the connection.
pub struct Events {
    body: Pin<Box<dyn Stream<Item = reqwest::Result<Bytes>> + Send>>,
    buffer: Vec<u8>,
    broken: bool,
}

impl Events {
    /// What an answer streams.
    #[must_use]
    pub fn of(response: reqwest::Response) -> Self {
        Self { body: Box::pin(response.bytes_stream()), buffer: Vec::new(), broken: false }
    }

    /// The next event; `None` when the stream has ended. Comments are skipped.
    ///
    /// # Panics
    /// When nothing comes for three minutes.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            while let Some(block) = self.take_block() {
                if let Some(event) = parse(&block) {
                    return Some(event);
                }
            }
            match tokio::time::timeout(PATIENCE, self.body.next()).await.expect("the stream went silent") {
                Some(Ok(bytes)) => self.buffer.extend_from_slice(&bytes),
                Some(Err(_)) => {
                    self.broken = true;
                    return None;
                }
                None => return None,
            }
            assert!(self.buffer.len() <= EVENT_BYTES_MAX, "an event without an end");
        }
    }

    /// Whether the stream ended by a cut connection.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// The next event of a name; those before it are dropped.
    ///
    /// # Panics
    /// When the stream ends without it; the text lists what came.
    pub async fn wait_for(&mut self, name: &str) -> Event {
        let mut seen = Vec::new();
        while let Some(event) = self.next().await {
            if event.event == name {
                return event;
            }
            seen.push(event);
        }
        panic!("the stream ended without `{name}`: {seen:?}");
    }

    /// Everything up to the end of the stream.
    pub async fn rest(mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await {
            events.push(event);
        }
        events
    }

    /// Takes the bytes up to the next empty line.
    fn take_block(&mut self) -> Option<String> {
        let end = self.buffer.windows(2).position(|pair| pair == b"\n\n")?;
        let block = self.buffer.drain(..end + 2).collect::<Vec<_>>();
        Some(String::from_utf8_lossy(&block).into_owned())
    }
}

/// One block of lines; `None` when it holds no event.
fn parse(block: &str) -> Option<Event> {
    let (mut id, mut name, mut data) = (String::new(), String::new(), Vec::new());
    for line in block.lines().filter(|line| !line.is_empty() && !line.starts_with(':')) {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" => value.clone_into(&mut id),
            "event" => value.clone_into(&mut name),
            "data" => data.push(value),
            _ => {}
        }
    }
    // An id alone tells a place and no event.
    if name.is_empty() && data.is_empty() {
        return None;
    }
    let text = data.join("\n");
    Some(Event { id, event: name, data: serde_json::from_str(&text).unwrap_or(Value::String(text)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(pieces: &[&'static str]) -> Events {
        let pieces: Vec<_> = pieces.iter().map(|piece| Ok(Bytes::from_static(piece.as_bytes()))).collect();
        Events { body: Box::pin(futures_util::stream::iter(pieces)), buffer: Vec::new(), broken: false }
    }

    #[tokio::test]
    async fn events_are_read_however_the_bytes_are_cut() {
        let pieces = [
            "id: 1\nevent: del",
            "ta\ndata: {\"text\":\"a\"}\n",
            "\n: still here\n\ndata:one\ndata: two\n\n",
            "data: lost",
        ];
        let read = events(&pieces).rest().await;
        assert_eq!(
            read,
            [
                Event { id: "1".into(), event: "delta".into(), data: json!({"text": "a"}) },
                Event { id: String::new(), event: String::new(), data: json!("one\ntwo") },
            ]
        );
    }

    #[tokio::test]
    async fn waiting_for_a_name_skips_what_comes_before() {
        let mut events = events(&["event: a\ndata: 1\n\nevent: b\ndata: 2\n\n"]);
        assert_eq!(events.wait_for("b").await.data, 2);
        assert_eq!(events.next().await, None);
    }

    #[tokio::test]
    async fn answers_streams_and_refusals_are_told_apart() {
        use axum::{Json, Router, http::HeaderMap, routing};
        let echo = async |headers: HeaderMap, Json(body): Json<Value>| {
            Json(json!({"body": body, "bearer": headers["authorization"].to_str().unwrap()}))
        };
        let stream = async || ([("content-type", "text/event-stream")], "event: done\ndata: {}\n\n");
        let router = Router::new().route("/echo", routing::post(echo)).route("/stream", routing::get(stream));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let api = Api::new(&format!("http://{}/", listener.local_addr().unwrap())).as_bearer("t");
        tokio::spawn(axum::serve(listener, router).into_future());

        assert_eq!(api.post("/echo", json!(1)).await.ok(), json!({"body": 1, "bearer": "Bearer t"}));
        assert_eq!(api.sse("/stream", None).await.rest().await.len(), 1);
        let Err(refused) = api.try_sse("/nothing", None).await else { panic!("a stream of nothing") };
        assert_eq!(refused.status, 404);
    }
}
