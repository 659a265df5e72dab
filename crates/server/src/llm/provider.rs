//! Providers of models: where they are, how they are asked, and what their refusals mean. Their keys go to them and nowhere
//! else; what they say of a failure reaches a bot only where it is about the bot's own request.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use astrfleet_core::{
    Error, Result,
    circuit::{Circuit, Event, Rules},
    message::Failure,
    ports::Clock,
};
use bytes::{Bytes, BytesMut};
use http::{
    HeaderValue, Method, Request, Response, StatusCode, Uri,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER, USER_AGENT},
};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use prometheus_client::metrics::{counter::Counter, gauge::Gauge};
use rustls::ClientConfig;
use secrecy::{ExposeSecret, SecretString};
use tokio::time::timeout;

use super::{cache, call::Source, error::OpenAiError, prompt::Prompt};
use crate::{
    config::{LlmConfig, UpstreamConfig, seconds},
    metrics::{Metrics, UpstreamLabel},
    problem::chain,
};

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(5);
/// Kept connections are closed after so long without a request.
const IDLE_FOR: Duration = Duration::from_secs(55);
/// Kept connections to one provider.
const IDLE_MAX: usize = 256;
/// When a provider is left out, and for how long.
const RULES: Rules = Rules { failures: 3, open: Duration::from_secs(10), open_max: Duration::from_mins(2) };
/// More of an error's body is not read.
const ERROR_BYTES_MAX: usize = 64 << 10;

/// Asks over kept connections.
pub(super) type HttpClient = Client<HttpsConnector<HttpConnector>, Prompt>;

/// One provider.
pub(super) struct Provider {
    clock: Arc<dyn Clock>,
    pub(super) source: Arc<Source>,
    uri: Uri,
    authorization: Option<HeaderValue>,
    key: Option<SecretString>,
    models: BTreeMap<String, String>,
    pub(super) timeout: Duration,
    circuit: Mutex<Circuit>,
    /// For metrics: what the circuit is, and how often it opened.
    phase: Gauge,
    opened: Counter,
}

/// Why a provider does not answer a request.
pub(super) enum Trouble {
    /// It is about the request: the bot is told in the provider's words.
    Request(StatusCode, Bytes),
    /// The provider asks for patience.
    Busy {
        /// Its `Retry-After`.
        retry_after: Option<u64>,
    },
    /// No answer in time.
    Timeout {
        /// Whether it was given the prompt.
        given: bool,
    },
    /// It was given the prompt, and its answer is none, or not whole; the text is for the log.
    BrokeOff(String),
    /// Its answer is longer than is passed on: another one's would be, too.
    TooLong,
    /// Anything else; the text is for the log.
    Failed(String),
}

/// What the configuration says, in order; none: the built-in model answers.
///
/// # Errors
/// [`Error::Invalid`].
pub(super) fn providers(config: &LlmConfig, metrics: &Metrics, clock: &Arc<dyn Clock>) -> Result<Vec<Arc<Provider>>> {
    let upstreams = config.upstreams.iter();
    upstreams.map(|upstream| Provider::new(upstream, config, metrics, clock).map(Arc::new)).collect()
}

/// What asks them all.
///
/// # Errors
/// [`Error::Invalid`] where TLS is needed and this machine has no root certificates.
pub(super) fn client(providers: &[Arc<Provider>]) -> Result<HttpClient> {
    let mut http = HttpConnector::new();
    http.set_nodelay(true);
    http.set_connect_timeout(Some(CONNECT));
    http.enforce_http(false);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let connector = if providers.iter().any(|provider| provider.uri.scheme_str() == Some("https")) {
        HttpsConnectorBuilder::new().with_provider_and_native_roots(provider).map_err(|error| {
            Error::invalid("llm.upstreams", format!("need root certificates, install ca-certificates: {error}"))
        })?
    } else {
        // Reading the machine's certificates takes longer than the rest of the start.
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(Error::internal)?
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        HttpsConnectorBuilder::new().with_tls_config(config)
    };
    let connector = connector.https_or_http().enable_http1().wrap_connector(http);
    Ok(Client::builder(TokioExecutor::new())
        .pool_idle_timeout(IDLE_FOR)
        .pool_timer(TokioTimer::new())
        .pool_max_idle_per_host(IDLE_MAX)
        .build(connector))
}

impl Provider {
    fn new(config: &UpstreamConfig, llm: &LlmConfig, metrics: &Metrics, clock: &Arc<dyn Clock>) -> Result<Self> {
        let invalid = |what: &str| Error::invalid("llm.upstreams", format!("{what} of `{}`", config.name));
        if config.name == cache::SOURCE {
            return Err(Error::invalid(
                "llm.upstreams",
                "an upstream may not be named `cache`: the ledger would not tell it apart",
            ));
        }
        let base = config.base_url.trim_end_matches('/');
        let uri: Uri = format!("{base}/chat/completions").parse().map_err(|_| invalid("cannot read base_url"))?;
        let plain = uri.authority().is_some_and(|authority| !authority.as_str().contains('@'));
        if !matches!(uri.scheme_str(), Some("http" | "https")) || !plain || uri.query().is_some() {
            return Err(invalid("expected an address such as https://api.example.com/v1 as base_url"));
        }
        let key = config.api_key.clone().or_else(|| llm.api_key.clone());
        let key = key.filter(|key| !key.expose_secret().is_empty());
        let authorization = key.as_ref().map(|key| HeaderValue::try_from(format!("Bearer {}", key.expose_secret())));
        let mut authorization = authorization.transpose().map_err(|_| invalid("cannot send the api_key"))?;
        if let Some(value) = &mut authorization {
            value.set_sensitive(true);
        }
        let label = UpstreamLabel { upstream: config.name.clone() };
        Ok(Self {
            clock: Arc::clone(clock),
            source: Arc::new(Source::new(&config.name, metrics)),
            uri,
            authorization,
            key,
            models: config.models.clone(),
            timeout: seconds(config.timeout_s.max(1)),
            circuit: Mutex::default(),
            phase: Gauge::clone(&metrics.llm_circuits.get_or_create(&label)),
            opened: Counter::clone(&metrics.llm_circuits_opened.get_or_create(&label)),
        })
    }

    /// Its name for a model.
    pub(super) fn model<'a>(&'a self, asked: &'a str) -> &'a str {
        self.models.get(asked).map_or(asked, String::as_str)
    }

    /// The models that it has a name for.
    pub(super) fn known_models(&self) -> impl Iterator<Item = &str> {
        self.models.keys().map(String::as_str)
    }

    /// Begins a call, if it may begin: not where it failed so often, so lately, that others are asked before it.
    pub(super) fn begin(&self) -> bool {
        let (mut circuit, now) = (self.circuit(), self.now_ms());
        let admits = circuit.admits(now);
        if admits {
            *circuit = circuit.next(Event::Called, now, RULES);
            self.show(*circuit);
        }
        admits
    }

    /// What was asked of it is answered, to the end.
    pub(super) fn worked(&self) {
        let mut circuit = self.circuit();
        if !circuit.is_calm() {
            *circuit = circuit.next(Event::Answered, self.now_ms(), RULES);
            self.show(*circuit);
        }
    }

    /// It does not answer, or not to the end.
    pub(super) fn failed(&self) {
        let mut circuit = self.circuit();
        let was_open = matches!(*circuit, Circuit::Open { .. });
        *circuit = circuit.next(Event::Failed, self.now_ms(), RULES);
        if !was_open && matches!(*circuit, Circuit::Open { .. }) {
            self.opened.inc();
            tracing::warn!(upstream = self.source.name, "a provider fails again and again: others are asked before it");
        }
        self.show(*circuit);
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.clock.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn show(&self, circuit: Circuit) {
        self.phase.set(match circuit {
            Circuit::Closed { .. } => 0,
            Circuit::Trial { .. } => 1,
            Circuit::Open { .. } => 2,
        });
    }

    fn circuit(&self) -> MutexGuard<'_, Circuit> {
        self.circuit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks once. Gives the answer as soon as it has begun; whether it worked is for whoever reads it to say.
    pub(super) async fn ask(
        &self,
        client: &HttpClient,
        body: Bytes,
        stream: bool,
    ) -> Result<Response<Incoming>, Trouble> {
        let (prompt, given) = Prompt::new(body);
        match timeout(self.timeout, client.request(self.request(prompt, stream))).await {
            Ok(Ok(response)) if response.status().is_success() => Ok(response),
            Ok(Ok(response)) => Err(self.refusal(response).await),
            Ok(Err(error)) if given.is_given() => Err(Trouble::BrokeOff(chain(&error))),
            Ok(Err(error)) => Err(Trouble::Failed(chain(&error))),
            Err(_) => Err(Trouble::Timeout { given: given.is_given() }),
        }
    }

    /// Reads an answer, and what is wrong with it where it does not come to its end.
    pub(super) async fn read_whole(&self, mut body: Incoming, bytes_max: u64) -> (Bytes, Result<(), Trouble>) {
        let bytes_max = usize::try_from(bytes_max).unwrap_or(usize::MAX);
        let mut read = BytesMut::new();
        let reading = async {
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|error| Trouble::BrokeOff(format!("its answer broke off: {error}")))?;
                let Ok(data) = frame.into_data() else { continue };
                if data.len() > bytes_max - read.len() {
                    return Err(Trouble::TooLong);
                }
                read.extend_from_slice(&data);
            }
            Ok(())
        };
        let ended = timeout(self.timeout, reading).await.unwrap_or(Err(Trouble::Timeout { given: true }));
        (read.freeze(), ended)
    }

    /// Notes why it did not answer.
    pub(super) fn remember(&self, trouble: &Trouble) {
        let name = &self.source.name;
        match trouble {
            // It works, and is right.
            Trouble::Request(..) => return self.worked(),
            Trouble::TooLong => {
                tracing::warn!(upstream = name, "a provider's answer is longer than llm.max_answer_bytes");
                return self.worked();
            }
            Trouble::Busy { .. } => {
                tracing::warn!(upstream = name, error_code = "busy", "a provider refuses calls for now");
            }
            Trouble::Timeout { .. } => {
                tracing::warn!(upstream = name, error_code = "timeout", "a provider did not answer in time");
            }
            Trouble::BrokeOff(error) | Trouble::Failed(error) => {
                tracing::warn!(upstream = name, error_code = "model_failed", error, "a provider failed");
            }
        }
        self.failed();
    }

    fn request(&self, prompt: Prompt, stream: bool) -> Request<Prompt> {
        let mut request = Request::new(prompt);
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let accepted = if stream { "text/event-stream" } else { "application/json" };
        headers.insert(ACCEPT, HeaderValue::from_static(accepted));
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("astrfleet/", env!("CARGO_PKG_VERSION"))));
        if let Some(authorization) = &self.authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        request
    }

    /// What an answer means that is no success.
    async fn refusal(&self, response: Response<Incoming>) -> Trouble {
        let status = response.status();
        let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let reading = Limited::new(response.into_body(), ERROR_BYTES_MAX).collect();
        let body = match timeout(CONNECT, reading).await {
            Ok(Ok(body)) => body.to_bytes(),
            _ => Bytes::new(),
        };
        match status.as_u16() {
            // The platform's key is not accepted, or has no money: nothing that a bot could mend.
            code @ (401..=403) => Trouble::Failed(format!("it refuses our key (HTTP {code}): look at its api_key")),
            429 if memchr::memmem::find(&body, b"insufficient_quota").is_some() => {
                Trouble::Failed("our account there is used up (HTTP 429, insufficient_quota)".to_owned())
            }
            429 => Trouble::Busy { retry_after },
            408 | 409 | 425 | 500.. => Trouble::Failed(format!("it answered HTTP {status}")),
            400..=499 => Trouble::Request(status, self.without_key(body)),
            _ => Trouble::Failed(format!("it answered HTTP {status}: is its base_url right?")),
        }
    }

    /// An error's body as the bot may see it: an object with an `error`, in which our key does not stand.
    fn without_key(&self, body: Bytes) -> Bytes {
        let has_key =
            self.key.as_ref().is_some_and(|key| memchr::memmem::find(&body, key.expose_secret().as_bytes()).is_some());
        let is_error = serde_json::from_slice::<serde_json::Value>(&body).is_ok_and(|body| body["error"].is_object());
        if is_error && !has_key {
            return body;
        }
        OpenAiError::new(400, "invalid_request", "the model's provider refused this request").body()
    }
}

impl Trouble {
    /// Whether the provider was given the prompt and did not refuse it.
    pub(super) fn was_given(&self) -> bool {
        match self {
            Self::Timeout { given } => *given,
            Self::BrokeOff(_) | Self::TooLong => true,
            Self::Request(..) | Self::Busy { .. } | Self::Failed(_) => false,
        }
    }

    /// Whether another provider may do better.
    pub(super) fn try_another(&self) -> bool {
        match self {
            // Another one may have the model.
            Self::Request(status, _) => *status == StatusCode::NOT_FOUND,
            Self::TooLong => false,
            Self::Busy { .. } | Self::Timeout { .. } | Self::BrokeOff(_) | Self::Failed(_) => true,
        }
    }

    /// What a bot's user is told.
    pub(super) fn failure(&self) -> Failure {
        let detail = match self {
            Self::Request(status, _) => {
                format!("the model refused this request (HTTP {}): try a shorter or another one", status.as_u16())
            }
            Self::Busy { .. } => "the model's provider is at its limit: try again in a moment".to_owned(),
            Self::Timeout { .. } => "the model did not answer in time: try again".to_owned(),
            Self::BrokeOff(_) => return broke_off(),
            Self::TooLong => "the model's answer is longer than is passed on: ask for a shorter one".to_owned(),
            Self::Failed(_) => {
                "the model cannot be reached: try again, and tell the platform's administrator if it lasts".to_owned()
            }
        };
        Failure { code: "model_failed".to_owned(), detail }
    }

    /// What the bot is answered. Its client asks again after 5xx and 429, for a quarter of a minute, as after no answer at
    /// all; a provider's failure has a status after which it does not, for all that can be asked were asked.
    pub(super) fn answer(self) -> OpenAiError {
        let detail = self.failure().detail;
        match self {
            Self::Request(status, body) => OpenAiError::from_provider(status, body),
            Self::Busy { retry_after } => OpenAiError::coded("too_many", detail).retry_after(retry_after.unwrap_or(1)),
            Self::Timeout { .. } | Self::BrokeOff(_) | Self::TooLong | Self::Failed(_) => {
                OpenAiError::new(StatusCode::FAILED_DEPENDENCY.as_u16(), "model_failed", detail)
            }
        }
    }
}

/// What a bot's user is told when an answer broke off.
pub(super) fn broke_off() -> Failure {
    Failure { code: "model_failed".to_owned(), detail: "the model's answer broke off: try again".to_owned() }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use astrfleet_core::ports::{Clock, testing::FixedClock};
    use bytes::Bytes;

    use super::Provider;
    use crate::{
        config::{CachedAnswers, LlmCacheConfig, LlmConfig, UpstreamConfig},
        metrics::Metrics,
    };

    fn provider(base_url: &str) -> astrfleet_core::Result<Provider> {
        let llm = LlmConfig {
            api_key: Some("sk-of-all".into()),
            base_url: String::new(),
            model: "m".to_owned(),
            upstreams: Vec::new(),
            max_request_bytes: 1,
            max_answer_bytes: 1,
            concurrent_calls: 1,
            cache: LlmCacheConfig { max_bytes: 0, max_answer_bytes: 0, ttl_s: 0, answers: CachedAnswers::Repeatable },
        };
        let config = UpstreamConfig {
            name: "first".to_owned(),
            base_url: base_url.to_owned(),
            api_key: None,
            models: BTreeMap::new(),
            timeout_s: 1,
        };
        let clock: Arc<dyn Clock> = Arc::new(FixedClock::at(0));
        Provider::new(&config, &llm, &Metrics::default(), &clock)
    }

    #[test]
    fn an_address_that_cannot_be_asked_is_refused_at_the_start() {
        for good in ["http://127.0.0.1:1/v1", "https://api.example.com/v1/", "https://example.com"] {
            assert!(provider(good).is_ok(), "{good}");
        }
        for bad in
            ["", "api.example.com", "ftp://example.com", "https://", "https://me:pw@example.com", "https://a.b/?x"]
        {
            assert!(provider(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_refusal_in_which_our_key_stands_is_not_passed_on() {
        let provider = provider("http://127.0.0.1:1/v1").unwrap();
        let fine = Bytes::from_static(br#"{"error":{"message":"too long"}}"#);
        assert_eq!(provider.without_key(fine.clone()), fine);
        for bad in [r#"{"error":{"message":"who is sk-of-all?"}}"#, "<html>", r#"{"detail":"x"}"#, ""] {
            let shown = String::from_utf8(provider.without_key(Bytes::from(bad)).to_vec()).unwrap();
            assert!(shown.contains("refused this request") && !shown.contains("sk-of-all"), "{shown}");
        }
    }
}
