//! What is counted. One struct, one place: every name that we export stands here, so that dashboards and alerts can
//! be checked against it.

use std::{fmt::Write as _, sync::atomic::AtomicU64};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

/// Labels of a finished request. `endpoint` is the route's template, never a path: their number is bounded.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct RequestLabels {
    /// `GET`
    pub method: String,
    /// `/api/v1/tenants/{tenant}`
    pub endpoint: String,
    /// `200`
    pub status: u16,
}

/// Labels of a duration.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct EndpointLabels {
    /// `GET`
    pub method: String,
    /// `/api/v1/tenants/{tenant}`
    pub endpoint: String,
}

/// Labels of a loop's run.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct LoopLabels {
    /// `role.verb`
    pub name: &'static str,
    /// `ok` or `error`
    pub result: &'static str,
}

/// One label.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct StateLabel {
    /// A state's name.
    pub state: String,
}

/// Labels of one process of a role that runs elsewhere.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct UpstreamLabels {
    /// `message`
    pub role: String,
    /// `10.0.0.7:8000`
    pub address: String,
}

/// Labels of a call of a model.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct LlmLabels {
    /// The upstream's name in the configuration.
    pub upstream: String,
    /// `complete`, `aborted`, `failed`
    pub outcome: &'static str,
}

/// One label.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct UpstreamLabel {
    /// The upstream's name in the configuration.
    pub upstream: String,
}

/// Labels of a notice of a quota.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct QuotaLabels {
    /// `messages_per_day` and so on
    pub quota: &'static str,
    /// `warning`, `burst`, `exhausted`
    pub level: &'static str,
}

/// One label.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct ResultLabel {
    /// `hit` or `miss`
    pub result: &'static str,
}

/// All metrics of this process.
pub struct Metrics {
    registry: Registry,
    /// `http_requests_total`
    pub requests: Family<RequestLabels, Counter>,
    /// `http_request_duration_seconds`: answers that are not streams.
    pub durations: Family<EndpointLabels, Histogram>,
    /// `http_stream_duration_seconds`: streams, to their end.
    pub streams: Family<EndpointLabels, Histogram>,
    /// `http_requests_in_flight`
    pub in_flight: Gauge,
    /// `upstream_ready`: 1 where a process of a remote role may be sent requests.
    pub upstream_ready: Family<UpstreamLabels, Gauge>,
    /// `upstream_circuit_open`: 1 where it is left alone because it failed.
    pub circuit_open: Family<UpstreamLabels, Gauge>,
    /// `upstream_retries_total`: requests that were tried at another process.
    pub retries: Counter,
    /// `loop_runs_total`
    pub loops: Family<LoopLabels, Counter>,
    /// `astrbot_instances`: bots by observed state.
    pub instances: Family<StateLabel, Gauge>,
    /// `astrbot_restarts_total`: exits that nobody asked for.
    pub restarts: Counter,
    /// `messages_total`: by the state in which they ended, and `accepted`.
    pub messages: Family<StateLabel, Counter>,
    /// `messages_queued`
    pub queued: Gauge,
    /// `message_first_token_seconds`: from acceptance to the first piece of the answer.
    pub first_token: Histogram,
    /// `webhook_tries_total`: by what came of them: `taken`, `refused`, `gone`, `impossible`.
    pub webhook_tries: Family<StateLabel, Counter>,
    /// `llm_requests_total`
    pub llm_requests: Family<LlmLabels, Counter>,
    /// `llm_tokens_total`
    pub llm_tokens: Counter<u64, AtomicU64>,
    /// `llm_upstream_circuit`: 0 closed, 1 half-open, 2 open.
    pub llm_circuits: Family<UpstreamLabel, Gauge>,
    /// `llm_upstream_circuit_opened_total`
    pub llm_circuits_opened: Family<UpstreamLabel, Counter>,
    /// `llm_cache_requests_total`: of those that may be answered from it.
    pub llm_cache: Family<ResultLabel, Counter>,
    /// `quota_notices_total`: times that a tenant was told of a quota.
    pub quota_notices: Family<QuotaLabels, Counter>,
}

fn request_seconds() -> Histogram {
    Histogram::new([0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0])
}

fn stream_seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.1, 2.0, 13))
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let requests = Family::default();
        let durations = Family::new_with_constructor(request_seconds as fn() -> Histogram);
        let streams = Family::new_with_constructor(stream_seconds as fn() -> Histogram);
        let (in_flight, loops, instances) = (Gauge::default(), Family::default(), Family::default());
        let (restarts, messages, queued) = (Counter::default(), Family::default(), Gauge::default());
        let first_token = stream_seconds();
        let webhook_tries = Family::default();
        let (llm_requests, llm_tokens) = (Family::default(), Counter::default());
        let (llm_circuits, llm_circuits_opened) = (Family::default(), Family::default());
        let (llm_cache, quota_notices) = (Family::default(), Family::default());
        registry.register("http_requests", "Requests answered", Family::clone(&requests));
        registry.register_with_unit(
            "http_request_duration",
            "Time to answer, without streams",
            Unit::Seconds,
            Family::clone(&durations),
        );
        registry.register_with_unit(
            "http_stream_duration",
            "Time to a stream's end",
            Unit::Seconds,
            Family::clone(&streams),
        );
        registry.register("http_requests_in_flight", "Requests being answered", Gauge::clone(&in_flight));
        let (upstream_ready, circuit_open, retries) = (Family::default(), Family::default(), Counter::default());
        registry.register(
            "upstream_ready",
            "Whether a process of a remote role is ready",
            Family::clone(&upstream_ready),
        );
        registry.register(
            "upstream_circuit_open",
            "Whether a process of a remote role is left alone because it failed",
            Family::clone(&circuit_open),
        );
        registry.register(
            "upstream_retries",
            "Requests that were tried at another process of a role",
            Counter::clone(&retries),
        );
        registry.register("loop_runs", "Runs of loops", Family::clone(&loops));
        registry.register("astrbot_instances", "Bots by observed state", Family::clone(&instances));
        registry.register("astrbot_restarts", "Exits of bots that nobody asked for", Counter::clone(&restarts));
        registry.register(
            "messages",
            "Messages accepted, and by the state in which they ended",
            Family::clone(&messages),
        );
        registry.register("messages_queued", "Messages that wait for a bot", Gauge::clone(&queued));
        registry.register_with_unit(
            "message_first_token",
            "Time from acceptance to the first piece of the answer",
            Unit::Seconds,
            Histogram::clone(&first_token),
        );
        registry.register("webhook_tries", "Tries to tell receivers of events", Family::clone(&webhook_tries));
        registry.register("llm_requests", "Calls of models", Family::clone(&llm_requests));
        registry.register("llm_tokens", "Tokens of models, prompt and completion", Counter::clone(&llm_tokens));
        registry.register(
            "llm_upstream_circuit",
            "Circuit before an upstream of models: 0 closed, 1 half-open, 2 open",
            Family::clone(&llm_circuits),
        );
        registry.register(
            "llm_upstream_circuit_opened",
            "Times that the circuit before an upstream opened",
            Family::clone(&llm_circuits_opened),
        );
        registry.register(
            "llm_cache_requests",
            "Calls of models that might be answered from the cache",
            Family::clone(&llm_cache),
        );
        registry.register("quota_notices", "Times that a tenant was told of a quota", Family::clone(&quota_notices));
        Self {
            registry,
            requests,
            durations,
            streams,
            in_flight,
            upstream_ready,
            circuit_open,
            retries,
            loops,
            instances,
            restarts,
            messages,
            queued,
            first_token,
            webhook_tries,
            llm_requests,
            llm_tokens,
            llm_circuits,
            llm_circuits_opened,
            llm_cache,
            quota_notices,
        }
    }
}

impl Metrics {
    /// In the text format of `OpenMetrics`.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::new();
        if let Err(error) = encode(&mut text, &self.registry) {
            write!(text, "# could not be written: {error}").ok();
        }
        text
    }

    /// Counts a loop's run.
    pub fn loop_ran(&self, name: &'static str, ok: bool) {
        self.loops.get_or_create(&LoopLabels { name, result: if ok { "ok" } else { "error" } }).inc();
    }
}
