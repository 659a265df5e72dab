//! What can be configured, by role. The values, with what each is for, stand in `config.default.toml` of the `cli`
//! crate: that file is the manual. Units are the last part of a name.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use astrfleet_core::{plan::Plan, ports::WhenAway};
use secrecy::SecretString;
use serde::Deserialize;

/// All of it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerConfig {
    /// How processes of the platform reach each other.
    pub serve: ServeConfig,
    /// Addresses and limits of every request.
    pub gateway: GatewayConfig,
    /// Logins and tokens.
    pub auth: AuthConfig,
    /// Tenants.
    pub tenant: TenantConfig,
    /// Plans by name.
    pub plans: BTreeMap<String, Plan>,
    /// Conversations.
    pub session: SessionConfig,
    /// Messages.
    pub message: MessageConfig,
    /// What happened, and who is told.
    pub events: EventsConfig,
    /// Who is told of it over the network.
    pub webhooks: WebhooksConfig,
    /// Messages of IM channels.
    pub bridge: BridgeConfig,
    /// Models.
    pub llm: LlmConfig,
    /// Bots.
    pub manager: ManagerConfig,
}

/// Section `[serve]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServeConfig {
    /// The address by which other processes of the platform reach this one: `http://host:port`. Empty: `gateway.listen`.
    pub advertise: String,
    /// How long a process that is told to end goes on taking requests after `/ready` says so, where roles are apart.
    pub drain_delay_s: u64,
}

/// Section `[gateway]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatewayConfig {
    /// Where requests come in.
    pub listen: SocketAddr,
    /// Where metrics are read; `"none"`: nowhere.
    #[serde(deserialize_with = "address_or_none")]
    pub metrics_listen: Option<SocketAddr>,
    /// Threads that take requests; 0: one for each processor.
    pub workers: usize,
    /// The address that users see, without a slash at its end; empty: derived from `listen`.
    pub public_url: String,
    /// The domain below which each bot's dashboard has its host: `<tenant>.<domain>`.
    pub dashboard_domain: String,
    /// `API_RATE_LIMIT`: requests a minute for each tenant.
    pub rate_limit_per_minute: u32,
    /// Requests a minute for each address that has not proven who it is.
    pub anonymous_rate_limit_per_minute: u32,
    /// The largest body of a JSON request.
    pub max_body_bytes: u64,
    /// The largest attachment.
    pub max_attachment_bytes: u64,
    /// The largest body that is passed to a bot.
    pub max_forwarded_body_bytes: u64,
    /// How long a request may take to arrive.
    pub request_timeout_s: u64,
    /// How long an upstream may take to begin its answer.
    pub upstream_timeout_s: u64,
    /// How long running requests may go on after a stop was asked for.
    pub drain_timeout_s: u64,
    /// Connections taken at the same time, on all threads together.
    pub max_connections: usize,
    /// Whether `X-Forwarded-*` of whoever connects is believed: only behind a proxy of one's own.
    pub trust_forwarded: bool,
    /// Where roles live that are not in this process: role -> `http://host:port`, or several.
    pub remote: BTreeMap<crate::role::Role, Addresses>,
    /// How requests are shared among the processes of a role.
    pub balance: BalanceConfig,
}

/// Addresses of one role: a list, or a text with commas between them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses(pub Vec<String>);

impl<'de> Deserialize<'de> for Addresses {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Text(String),
            List(Vec<String>),
        }
        let written = match Written::deserialize(deserializer)? {
            Written::Text(text) => text.split(',').map(str::to_owned).collect(),
            Written::List(list) => list,
        };
        let trimmed = written.iter().map(|address| address.trim()).filter(|address| !address.is_empty());
        Ok(Self(trimmed.map(str::to_owned).collect()))
    }
}

/// Section `[gateway.balance]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BalanceConfig {
    /// How often each process of a remote role is asked whether it is ready.
    pub probe_period_ms: u64,
    /// How long it may take to say so.
    pub probe_timeout_ms: u64,
    /// Unanswered questions in a row before it counts as away. Who says that it is not ready counts so at once.
    pub unhealthy_after: u32,
    /// How often names are looked up anew.
    pub resolve_period_s: u64,
    /// Addresses of one role; more are not used.
    pub max_addresses: usize,
    /// Requests under way to one address, streams among them; beyond that the others take them.
    pub max_requests: u32,
    /// Further addresses that a request may be tried at.
    pub retries: u32,
    /// Requests of a hundred that may be tried again, over time.
    pub retry_percent: u32,
    /// The largest body with an `Idempotency-Key` that is kept until an answer begins, to be sent again.
    pub retry_body_bytes_max: u64,
    /// Failures in a row that open an address's circuit.
    pub circuit_failures: u32,
    /// For how long; it doubles.
    pub circuit_open_ms: u64,
    /// At the most.
    pub circuit_open_max_ms: u64,
}

/// Section `[auth]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthConfig {
    /// `JWT_SECRET`: what all keys and tokens are derived from, at least 32 characters.
    pub jwt_secret: SecretString,
    /// The secret before this one, while tokens signed with it still run.
    pub previous_jwt_secret: Option<SecretString>,
    /// How long an access token is good for.
    pub access_token_ttl_s: u64,
    /// How long a login lasts without being used.
    pub refresh_token_ttl_s: u64,
    /// How long an invitation is good for.
    pub invitation_ttl_s: u64,
    /// Failed logins of one address, or from one address, before it has to wait.
    pub login_attempts: u32,
    /// In this time.
    pub login_window_s: u64,
    /// How long a verified token or key is believed without looking again; revocations come at once over the bus.
    pub cache_ttl_s: u64,
}

/// Section `[tenant]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenantConfig {
    /// The plan of a tenant that names none.
    pub default_plan: String,
    /// The time between a tenant's end and its erasure.
    pub deletion_grace_s: u64,
    /// How long an export is kept.
    pub export_ttl_s: u64,
}

/// Section `[session]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionConfig {
    /// `SESSION_TIMEOUT`: a session in which nobody wrote for so long is closed.
    pub idle_timeout_s: u64,
}

/// Section `[message]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MessageConfig {
    /// Chats that one bot answers at the same moment, at the most; a plan may say less.
    pub concurrent_chats: u32,
    /// Messages that wait before one bot; more are refused.
    pub queue_length: usize,
    /// How long a bot may take for an answer.
    pub answer_timeout_s: u64,
    /// How long a message may wait for a bot that is not ready before it fails.
    pub wait_for_bot_s: u64,
    /// How long a finished stream can be resumed from memory; later it comes from the store.
    pub stream_memory_s: u64,
    /// Deliveries of one message before it fails.
    pub max_attempts: u32,
    /// How long a process has the queue before a bot without renewing that, at least 100: as long as messages wait when it
    /// is killed. It is renewed three times in this time.
    pub lease_life_ms: u64,
    /// How long an answer under an `Idempotency-Key` is kept.
    pub idempotency_ttl_s: u64,
    /// Files that come in at the same moment, in each process; more are refused for now.
    pub concurrent_uploads: u32,
    /// The same of one tenant.
    pub concurrent_uploads_per_tenant: u32,
}

/// Section `[events]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventsConfig {
    /// How long what happened is kept for those who come late.
    pub retention_s: u64,
    /// Streams of events that one tenant may have open at this process.
    pub streams_per_tenant: usize,
}

/// Section `[webhooks]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhooksConfig {
    /// How long a receiver may take for its answer.
    pub timeout_s: u64,
    /// Whether receivers may be in private networks.
    pub allow_private: bool,
    /// Whether receivers may be reached without TLS.
    pub allow_http: bool,
    /// Webhooks of one tenant.
    pub max_per_tenant: u32,
    /// Deliveries that wait for one webhook; the events after them wait in the outbox.
    pub pending_max: u32,
    /// Deliveries that are tried at the same moment by this process.
    pub concurrency: usize,
    /// The same for one webhook.
    pub concurrency_per_webhook: usize,
    /// How long the secret before the new one signs too.
    pub secret_overlap_s: u64,
    /// How long a webhook may take nothing before it is switched off.
    pub disable_after_s: u64,
    /// How long deliveries are kept that have come to their end.
    pub retention_s: u64,
}

/// Section `[bridge]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BridgeConfig {
    /// Where bots ask, with `/bridge/v1` at its end; empty: beside their model gateway.
    pub url: String,
    /// What bots do with messages of IM channels while the platform does not answer them.
    pub when_away: WhenAway,
    /// Calls of one bot's bridge a minute; each message takes three. Beyond that, messages wait, and after a minute they are stored unanswered.
    pub calls_per_minute: u32,
}

/// Section `[llm]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LlmConfig {
    /// `LLM_API_KEY`: for upstreams that have no key of their own.
    pub api_key: Option<SecretString>,
    /// The provider that `LLM_API_KEY` is for, where no upstreams are given.
    pub base_url: String,
    /// The model that bots ask for.
    pub model: String,
    /// Asked in order until one answers. None: the built-in model `demo`.
    pub upstreams: Vec<UpstreamConfig>,
    /// The largest request of a bot.
    pub max_request_bytes: u64,
    /// The largest answer that is not streamed.
    pub max_answer_bytes: u64,
    /// Calls of one tenant's bots at the same moment, in each process.
    pub concurrent_calls: u32,
    /// Answers that are given again.
    pub cache: LlmCacheConfig,
}

/// Section `[llm.cache]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LlmCacheConfig {
    /// Memory for answers in each process, where Redis does not keep them; 0: none are kept anywhere.
    pub max_bytes: u64,
    /// The largest answer that is kept.
    pub max_answer_bytes: u64,
    /// How long an answer is kept.
    pub ttl_s: u64,
    /// Which are kept.
    pub answers: CachedAnswers,
}

impl LlmCacheConfig {
    /// The largest answer that is kept, in bytes.
    #[must_use]
    pub fn answer_bytes_max(&self) -> usize {
        usize::try_from(self.max_answer_bytes).unwrap_or(usize::MAX)
    }
}

/// Which answers of models are given again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CachedAnswers {
    /// Those whose request asks for the same one each time: with temperature 0, or with a seed.
    Repeatable,
    /// All.
    All,
}

/// One provider of models, in `[[llm.upstreams]]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpstreamConfig {
    /// For people and for the ledger.
    pub name: String,
    /// OpenAI-compatible: what stands before `/chat/completions`.
    pub base_url: String,
    /// Its key; none: `llm.api_key`.
    pub api_key: Option<SecretString>,
    /// Model asked for -> model of this provider. A model without a line is passed on as it is.
    #[serde(default)]
    pub models: BTreeMap<String, String>,
    /// How long it may take to begin its answer.
    #[serde(default = "default_upstream_timeout_s")]
    pub timeout_s: u64,
}

fn default_upstream_timeout_s() -> u64 {
    60
}

/// Section `[manager]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManagerConfig {
    /// `MAX_ASTRBOT_INSTANCES`: bots that run at the same time.
    pub max_instances: u32,
    /// Bots that start at the same time: each takes some 10 CPU-seconds.
    pub concurrent_starts: usize,
    /// How long a bot may take until it is ready.
    pub start_timeout_s: u64,
    /// How often a bot is asked whether it answers.
    pub liveness_period_s: u64,
    /// Unanswered questions in a row before a bot counts as degraded.
    pub liveness_failures: u32,
    /// Unanswered questions in a row before a bot is restarted.
    pub restart_after_failures: u32,
    /// The wait before the first restart; it doubles.
    pub restart_backoff_s: u64,
    /// And its end.
    pub restart_backoff_max_s: u64,
    /// Exits in a row before a bot is given up.
    pub max_restarts: u32,
    /// After so long without an exit they are forgotten.
    pub restarts_forgotten_after_s: u64,
    /// Where bots find the model gateway, with `/v1` at its end; empty: at this process's own address.
    pub llm_url: String,
    /// How long a process keeps the bots without renewing that, where several could: as long as nobody does when it is
    /// killed.
    pub lease_life_ms: u64,
    /// Bots run on when this process is told to end, for another one to take over.
    pub leave_bots: bool,
}

fn address_or_none<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<SocketAddr>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text == "none" {
        return Ok(None);
    }
    text.parse()
        .map(Some)
        .map_err(|_| serde::de::Error::custom("expected an address such as 127.0.0.1:9464, or \"none\""))
}

/// Milliseconds as a duration.
#[must_use]
pub fn millis(amount: u64) -> Duration {
    Duration::from_millis(amount)
}

/// Seconds as a duration.
#[must_use]
pub fn seconds(amount: u64) -> Duration {
    Duration::from_secs(amount)
}
