//! The configuration: `config.default.toml` < a file < the environment < flags. This is the only place that reads
//! environment variables.

mod backends;
mod environment;
mod risky;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use astrfleet_core::plan::Plan;
use astrfleet_server::config::{
    AuthConfig, BridgeConfig, EventsConfig, GatewayConfig, LlmCacheConfig, LlmConfig, ManagerConfig, MessageConfig,
    ServeConfig, ServerConfig, SessionConfig, TenantConfig, UpstreamConfig, WebhooksConfig,
};
use figment::{
    Figment,
    providers::{Format, Toml},
};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

pub use backends::{BlobsConfig, RedisConfig};
pub use environment::Environment;

/// The manual: every key, its default, what it is for.
pub const DEFAULT: &str = include_str!("../config.default.toml");

/// The fewest characters of a secret that everything is derived from.
const JWT_SECRET_LENGTH_MIN: usize = 32;

/// All of it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where things are kept.
    pub data: DataConfig,
    /// The database.
    pub database: DatabaseConfig,
    /// What processes share.
    pub redis: RedisConfig,
    /// Attachments.
    pub blobs: BlobsConfig,
    /// What is written about what happens.
    pub log: LogConfig,
    /// Bots as child processes.
    pub bots: BotsConfig,
    serve: ServeConfig,
    gateway: GatewayConfig,
    auth: AuthConfig,
    tenant: TenantConfig,
    plans: BTreeMap<String, Plan>,
    session: SessionConfig,
    message: MessageConfig,
    events: EventsConfig,
    webhooks: WebhooksConfig,
    bridge: BridgeConfig,
    llm: LlmConfig,
    manager: ManagerConfig,
}

/// Section `[data]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// The data folder.
    pub dir: PathBuf,
    /// The folder of the bots' shared environment.
    pub runtime_dir: PathBuf,
}

/// Section `[database]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatabaseConfig {
    /// `DB_HOST`; empty: SQLite.
    pub host: String,
    /// `DB_PORT`
    pub port: u16,
    /// `DB_NAME`
    pub name: String,
    /// `DB_USER`
    pub user: String,
    /// `DB_PASSWORD`
    pub password: SecretString,
    /// Connections, at the most.
    pub max_connections: u32,
    /// Replicas that lists and history may be read from: `host` or `host:port`, with commas between them.
    pub read_hosts: String,
    /// How long, after a write, whoever wrote reads from the primary.
    pub fresh_after_write_s: u64,
    /// How long a free connection is waited for.
    pub acquire_timeout_s: u64,
    /// How long a statement may take.
    pub statement_timeout_s: u64,
    /// How long a statement waits for what somebody else holds.
    pub lock_timeout_s: u64,
    /// How long a transaction may stand open and do nothing.
    pub idle_in_transaction_timeout_s: u64,
}

impl DatabaseConfig {
    /// The replicas, each with its port.
    ///
    /// # Errors
    /// Where one is not `host` or `host:port`.
    pub fn replicas(&self) -> Result<Vec<(String, u16)>> {
        let hosts = self.read_hosts.split(',').map(str::trim).filter(|host| !host.is_empty());
        hosts
            .map(|host| match host.rsplit_once(':') {
                None => Ok((host.to_owned(), self.port)),
                Some((name, port)) => match port.parse() {
                    Ok(port) if !name.is_empty() => Ok((name.to_owned(), port)),
                    _ => bail!("database.read_hosts: {host:?} is not `host` or `host:port`"),
                },
            })
            .collect()
    }
}

/// Section `[log]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogConfig {
    /// `LOG_LEVEL`
    pub level: String,
    /// How lines are written.
    pub format: LogFormat,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Section `[bots]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BotsConfig {
    /// An interpreter; empty: the newest that is found.
    pub python: PathBuf,
    /// Ports of bots: the first.
    pub port_first: u16,
    /// And the last.
    pub port_last: u16,
    /// How long a bot may take to end.
    pub stop_timeout_s: u64,
    /// Every bot under a user id of its own.
    pub own_user: bool,
    /// The size at which a bot's log is rotated.
    pub log_max_bytes: u64,
    /// Rotated logs that are kept.
    pub log_files: u32,
}

/// What flags say: whatever is given overrides everything else.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `--config`
    pub file: Option<PathBuf>,
    /// `--data-dir`
    pub data_dir: Option<PathBuf>,
    /// `--runtime-dir`
    pub runtime_dir: Option<PathBuf>,
    /// `--listen`
    pub listen: Option<String>,
    /// `--python`
    pub python: Option<PathBuf>,
}

impl Config {
    /// Puts the layers together.
    ///
    /// # Errors
    /// Where a layer cannot be read or says something unknown: the text names the key and where it came from.
    pub fn load(overrides: &Overrides, environment: &Environment) -> Result<Self> {
        let mut figment = Figment::from(Toml::string(DEFAULT));
        if let Some(file) = &overrides.file {
            let text = std::fs::read_to_string(file)
                .with_context(|| format!("the configuration file {} cannot be read", file.display()))?;
            // Read for its syntax first: that error says which line.
            text.parse::<toml::Table>()
                .with_context(|| format!("the configuration file {} is not TOML", file.display()))?;
            figment = figment.merge(Toml::string(&text));
        }
        figment = figment.merge(environment.settings()?);
        if let Some(listen) = &overrides.listen {
            figment = figment.merge(("gateway.listen", listen));
        }
        for (key, value) in [
            ("data.dir", &overrides.data_dir),
            ("data.runtime_dir", &overrides.runtime_dir),
            ("bots.python", &overrides.python),
        ] {
            if let Some(value) = value {
                figment = figment.merge((key, value));
            }
        }
        let mut config: Self = figment.extract().map_err(|error| anyhow::anyhow!(explain(&error, overrides)))?;
        config.fill_in(environment);
        config.check()?;
        Ok(config)
    }

    /// Which answers of models are kept, and how much of them.
    pub fn answers_kept(&self) -> &LlmCacheConfig {
        &self.llm.cache
    }

    /// What the roles are configured with, `jwt_secret` being the one of `up` where none was given.
    ///
    /// # Errors
    /// Where the secret is too short to derive others from.
    pub fn server(&self, jwt_secret: Option<SecretString>) -> Result<ServerConfig> {
        let mut auth = self.auth.clone();
        if let Some(secret) = jwt_secret {
            auth.jwt_secret = secret;
        }
        if auth.jwt_secret.expose_secret().len() < JWT_SECRET_LENGTH_MIN {
            bail!(
                "JWT_SECRET (auth.jwt_secret) needs at least {JWT_SECRET_LENGTH_MIN} characters: make one with \
                 `openssl rand -hex 32`, and give every replica the same one"
            );
        }
        Ok(ServerConfig {
            serve: self.serve.clone(),
            gateway: self.gateway.clone(),
            auth,
            tenant: self.tenant.clone(),
            plans: self.plans.clone(),
            session: self.session.clone(),
            message: self.message.clone(),
            events: self.events.clone(),
            webhooks: self.webhooks.clone(),
            bridge: self.bridge.clone(),
            llm: self.llm.clone(),
            manager: self.manager.clone(),
        })
    }

    /// Whether a secret was given.
    pub fn has_jwt_secret(&self) -> bool {
        !self.auth.jwt_secret.expose_secret().is_empty()
    }

    /// Where requests come in.
    pub fn gateway(&self) -> &GatewayConfig {
        &self.gateway
    }

    /// Whether bots get answers from a real model.
    pub fn has_model(&self) -> bool {
        !self.llm.upstreams.is_empty()
    }

    /// Whether a setting on which others depend is empty.
    pub fn is_empty(&self, key: &str) -> bool {
        match key {
            "redis.host" => self.redis.host.is_empty(),
            "blobs.endpoint" => self.blobs.endpoint.is_empty(),
            _ => false,
        }
    }

    fn fill_in(&mut self, environment: &Environment) {
        if self.data.dir.as_os_str().is_empty() {
            self.data.dir = environment.default_data_dir();
        }
        if let Ok(absolute) = std::path::absolute(&self.data.dir) {
            self.data.dir = absolute;
        }
        if self.data.runtime_dir.as_os_str().is_empty() {
            self.data.runtime_dir = self.data.dir.join("runtime");
        }
        let key = self.llm.api_key.as_ref().filter(|key| !key.expose_secret().is_empty());
        if let (Some(key), true) = (key, self.llm.upstreams.is_empty()) {
            self.llm.upstreams.push(UpstreamConfig {
                name: "default".to_owned(),
                base_url: self.llm.base_url.clone(),
                api_key: Some(key.clone()),
                models: BTreeMap::new(),
                timeout_s: 60,
            });
        }
    }

    fn check(&self) -> Result<()> {
        if !self.plans.contains_key(&self.tenant.default_plan) {
            let known: Vec<&str> = self.plans.keys().map(String::as_str).collect();
            bail!(
                "tenant.default_plan is {:?}, which is none of the plans: {}",
                self.tenant.default_plan,
                known.join(", ")
            );
        }
        self.database.replicas()?;
        if self.bots.port_first > self.bots.port_last {
            bail!("bots.port_first is larger than bots.port_last: there would be no port for any bot");
        }
        self.redis.settings()?;
        self.blobs.settings()?;
        Ok(())
    }
}

/// The error of the layers, in words for people.
fn explain(error: &figment::Error, overrides: &Overrides) -> String {
    let file = overrides.file.as_deref().map_or_else(String::new, |file: &Path| format!(" (in {})", file.display()));
    let causes: Vec<String> = error
        .clone()
        .into_iter()
        .map(|one| {
            let path = one.path.join(".");
            let from = one.metadata.as_ref().map_or_else(String::new, |metadata| match metadata.name.as_ref() {
                "TOML source string" => file.clone(),
                other => format!(" ({other})"),
            });
            format!("{path}: {}{from}", one.kind)
        })
        .collect();
    format!(
        "the configuration cannot be used: {}\nevery key with its default: `astrfleet config default`",
        causes.join("; ")
    )
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::{Config, Environment, Overrides};

    fn load(variables: &[(&str, &str)], file: Option<&str>) -> anyhow::Result<Config> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("astrfleet.toml");
        let overrides = file.map_or_else(Overrides::default, |text| {
            std::fs::write(&path, text).unwrap();
            Overrides { file: Some(path.clone()), ..Overrides::default() }
        });
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Config::load(
            &overrides,
            &Environment::new(variables.chain([("HOME".to_owned(), "/home/ada".to_owned())]), false),
        )
    }

    #[test]
    fn the_defaults_are_complete() {
        let config = load(&[], None).unwrap();
        assert_eq!(config.data.dir, std::path::Path::new("/home/ada/.local/share/astrfleet"));
        assert_eq!(config.gateway.listen.to_string(), "127.0.0.1:8000");
    }

    #[test]
    fn the_names_of_the_requirement_work_as_they_stand() {
        let config = load(
            &[
                ("API_RATE_LIMIT", "77"),
                ("SESSION_TIMEOUT", "60"),
                ("MAX_ASTRBOT_INSTANCES", "3"),
                ("METRICS_ENABLED", "false"),
                ("LOG_LEVEL", "DEBUG"),
                ("DB_HOST", "db"),
                ("DB_PASSWORD", "12345"),
                ("REDIS_HOST", "redis-cluster"),
                ("REDIS_PORT", "6380"),
                ("REDIS_PASSWORD", "67890"),
                ("MINIO_ACCESS_KEY", "astrfleet"),
                ("MINIO_SECRET_KEY", "34567"),
                ("JWT_SECRET", "0123456789abcdef0123456789abcdef"),
                ("LLM_API_KEY", "sk-1"),
            ],
            None,
        )
        .unwrap();
        assert_eq!((config.gateway.rate_limit_per_minute, config.session.idle_timeout_s), (77, 60));
        assert_eq!((config.manager.max_instances, config.gateway.metrics_listen), (3, None));
        assert_eq!(config.llm.upstreams.len(), 1, "a key alone asks the default provider");
        assert!(config.has_jwt_secret());
        let redis = config.redis.settings().unwrap().unwrap();
        assert_eq!((redis.nodes[0].host.as_str(), redis.nodes[0].port), ("redis-cluster", 6380));
        assert_eq!(redis.password.expose_secret(), "67890");
        assert_eq!((config.database.host.as_str(), config.database.password.expose_secret()), ("db", "12345"));
        let blobs = &config.blobs;
        assert_eq!((blobs.access_key.expose_secret(), blobs.secret_key.expose_secret()), ("astrfleet", "34567"));
        assert_eq!(config.log.level, "debug");
        let printed = format!("{config:?}");
        assert!(["12345", "67890", "34567"].iter().all(|secret| !printed.contains(secret)), "secrets do not print");
    }

    #[test]
    fn what_kubernetes_says_of_a_service_beside_us_is_not_meant() {
        let config = load(&[("REDIS_PORT", "tcp://10.0.0.7:6379"), ("REDIS_HOST", "redis")], None).unwrap();
        assert_eq!(config.redis.settings().unwrap().unwrap().nodes[0].port, 6379);
    }

    #[test]
    fn what_needs_another_setting_is_warned_of() {
        let variables = [("REDIS_PASSWORD", "67890"), ("MINIO_SECRET_KEY", "34567"), ("TRACE_SAMPLING_RATE", "1")];
        let environment = Environment::new(variables.map(|(name, value)| (name.to_owned(), value.to_owned())), false);
        let config = load(&variables, None).unwrap();
        let unused = environment.unused(|key| config.is_empty(key));
        assert_eq!(unused, ["TRACE_SAMPLING_RATE", "REDIS_PASSWORD", "MINIO_SECRET_KEY"]);
        let config = load(
            &[("REDIS_HOST", "redis")],
            Some("[blobs]\nendpoint = \"http://s3\"\naccess_key = \"a\"\nsecret_key = \"b\"\n"),
        )
        .unwrap();
        assert_eq!(environment.unused(|key| config.is_empty(key)), ["TRACE_SAMPLING_RATE"]);
    }

    #[test]
    fn the_environment_overrides_the_file() {
        let file = Some("[message]\nqueue_length = 7\n[session]\nidle_timeout_s = 5\n");
        let config = load(&[("ASTRFLEET__MESSAGE__QUEUE_LENGTH", "9")], file).unwrap();
        assert_eq!((config.message.queue_length, config.session.idle_timeout_s), (9, 5));
    }

    #[test]
    fn replicas_are_hosts_with_or_without_a_port() {
        let config = load(&[("DB_PORT", "5433"), ("ASTRFLEET__DATABASE__READ_HOSTS", "db-ro, db-r:6000,")], None);
        let replicas = config.unwrap().database.replicas().unwrap();
        assert_eq!(replicas, [("db-ro".to_owned(), 5433), ("db-r".to_owned(), 6000)]);
        assert!(load(&[("ASTRFLEET__DATABASE__READ_HOSTS", "db:many")], None).is_err());
    }

    #[test]
    fn what_cannot_be_says_where() {
        for (variables, file, expected) in [
            (&[("ASTRFLEET__MESSAGE__QUEUE", "9")][..], None, "ASTRFLEET__MESSAGE__QUEUE"),
            (&[("API_RATE_LIMIT", "many")][..], None, "API_RATE_LIMIT"),
            (&[][..], Some("[message]\nqueue = 1\n"), "message.queue"),
            (&[][..], Some("[message\n"), "not TOML"),
            (&[("REDIS_HOST", "redis://a")][..], None, "redis.host"),
            (&[("REDIS_HOST", "a"), ("ASTRFLEET__REDIS__MODE", "many")][..], None, "redis.mode"),
            (&[("REDIS_HOST", "a"), ("ASTRFLEET__REDIS__CA_FILE", "/no/such.pem")][..], None, "/no/such.pem"),
            (&[("ASTRFLEET__BLOBS__ENDPOINT", "http://s3")][..], None, "MINIO_ACCESS_KEY"),
            (&[("ASTRFLEET__BLOBS__ENDPOINT", "s3:9000")][..], None, "blobs.endpoint"),
            (&[][..], Some("[tenant]\ndefault_plan = \"gold\"\n"), "gold"),
        ] {
            let error = format!("{:#}", load(variables, file).unwrap_err());
            assert!(error.contains(expected), "{error}");
        }
    }
}
