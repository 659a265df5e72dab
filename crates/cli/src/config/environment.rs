//! The environment's part of the configuration: `ASTRFLEET__SECTION__KEY`, and the names that deployments use already.

use std::{collections::BTreeMap, path::PathBuf};

use anyhow::{Result, bail};
use figment::{
    Metadata, Profile, Provider,
    value::{Dict, Map, Value},
};

use super::DEFAULT;

/// What our own names begin with.
const PREFIX: &str = "ASTRFLEET__";

/// Names that deployments use already, and the keys that they stand for.
const KNOWN: &[(&str, &str)] = &[
    ("DB_HOST", "database.host"),
    ("DB_PORT", "database.port"),
    ("DB_NAME", "database.name"),
    ("DB_USER", "database.user"),
    ("DB_PASSWORD", "database.password"),
    ("REDIS_HOST", "redis.host"),
    ("REDIS_PORT", "redis.port"),
    ("REDIS_PASSWORD", "redis.password"),
    ("MINIO_ACCESS_KEY", "blobs.access_key"),
    ("MINIO_SECRET_KEY", "blobs.secret_key"),
    ("API_RATE_LIMIT", "gateway.rate_limit_per_minute"),
    ("SESSION_TIMEOUT", "session.idle_timeout_s"),
    ("MAX_ASTRBOT_INSTANCES", "manager.max_instances"),
    ("LOG_LEVEL", "log.level"),
    ("JWT_SECRET", "auth.jwt_secret"),
    ("LLM_API_KEY", "llm.api_key"),
];

/// Names that need another setting, which is empty: accepted, with a word about it.
const NEEDING: &[(&str, &str)] = &[
    ("REDIS_PORT", "redis.host"),
    ("REDIS_PASSWORD", "redis.host"),
    ("MINIO_ACCESS_KEY", "blobs.endpoint"),
    ("MINIO_SECRET_KEY", "blobs.endpoint"),
];

/// Names that this process has no use for: accepted, with a word about it.
const UNUSED: &[&str] = &["TRACE_SAMPLING_RATE"];

/// How Kubernetes describes a service named `redis` or `db` to every pod beside it, under names that are ours.
const SERVICE_LINK: &str = "tcp://";

/// Keys without a default, which are texts all the same.
const TEXTS: &[&str] = &["llm.api_key", "auth.previous_jwt_secret"];

/// The environment variables of this process, taken once.
#[derive(Clone)]
pub struct Environment {
    variables: BTreeMap<String, String>,
    root: bool,
}

impl Environment {
    /// These ones.
    pub fn new(variables: impl IntoIterator<Item = (String, String)>, root: bool) -> Self {
        Self { variables: variables.into_iter().collect(), root }
    }

    /// Those of this process.
    pub fn of_this_process() -> Self {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Self::new(std::env::vars_os().filter_map(text), rustix::process::geteuid().is_root())
    }

    /// One variable; an empty one counts as not set.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Where programs are looked for.
    pub fn path(&self) -> &str {
        self.get("PATH").unwrap_or("/usr/local/bin:/usr/bin:/bin")
    }

    /// The home folder.
    pub fn home(&self) -> PathBuf {
        self.get("HOME").map_or_else(|| PathBuf::from("/"), PathBuf::from)
    }

    /// Where things are kept unless somebody says otherwise.
    pub fn default_data_dir(&self) -> PathBuf {
        if self.root {
            return PathBuf::from("/var/lib/astrfleet");
        }
        let data = self.get("XDG_DATA_HOME").map_or_else(|| self.home().join(".local/share"), PathBuf::from);
        data.join("astrfleet")
    }

    /// Variables that are set and of no use here, to be warned of. `is_empty` says so of a setting.
    pub fn unused(&self, is_empty: impl Fn(&str) -> bool) -> Vec<&'static str> {
        let needing = NEEDING.iter().filter(|(_, needed)| is_empty(needed)).map(|(name, _)| *name);
        let is_set = |name: &&str| self.get(name).is_some_and(|value| !value.starts_with(SERVICE_LINK));
        UNUSED.iter().copied().chain(needing).filter(is_set).collect()
    }

    /// The settings in here.
    ///
    /// # Errors
    /// Where a name is none of ours, or a value is not of its key's type.
    pub fn settings(&self) -> Result<Settings> {
        let defaults: toml::Table = DEFAULT.parse()?;
        let mut dict = Dict::new();
        for (name, key) in KNOWN {
            let is_meant = |value: &&str| !(key.rsplit('.').next() == Some("port") && value.starts_with(SERVICE_LINK));
            if let Some(value) = self.get(name).filter(is_meant) {
                // The requirement writes INFO where our directives say info.
                let lowered = value.to_lowercase();
                let value = if *key == "log.level" { lowered.as_str() } else { value };
                insert(&mut dict, key, typed(&defaults, name, key, value)?);
            }
        }
        match self.get("METRICS_ENABLED") {
            None | Some("true" | "1") => {}
            Some("false" | "0") => insert(&mut dict, "gateway.metrics_listen", Value::from("none")),
            Some(other) => bail!("METRICS_ENABLED is {other:?}: use true or false"),
        }
        for (name, value) in &self.variables {
            let Some(path) = name.strip_prefix(PREFIX) else { continue };
            let key = path.to_lowercase().replace("__", ".");
            let is_open = key.starts_with("plans.") || key.starts_with("gateway.remote.");
            if lookup(&defaults, &key).is_none() && !TEXTS.contains(&key.as_str()) && !is_open {
                bail!("{name} is no setting of ours: `astrfleet config default` shows all of them");
            }
            insert(&mut dict, &key, typed(&defaults, name, &key, value)?);
        }
        Ok(Settings(dict))
    }
}

/// Settings for the other layers to be merged with.
pub struct Settings(Dict);

impl Provider for Settings {
    fn metadata(&self) -> Metadata {
        Metadata::named("environment variables")
    }

    fn data(&self) -> figment::Result<Map<Profile, Dict>> {
        Ok(Map::from([(Profile::Default, self.0.clone())]))
    }
}

fn lookup<'a>(table: &'a toml::Table, key: &str) -> Option<&'a toml::Value> {
    let (first, rest) = match key.split_once('.') {
        Some((first, rest)) => (first, Some(rest)),
        None => (key, None),
    };
    match (table.get(first)?, rest) {
        (value, None) => Some(value),
        (toml::Value::Table(inner), Some(rest)) => lookup(inner, rest),
        _ => None,
    }
}

/// The value as its key's default is: a password of digits stays a text.
fn typed(defaults: &toml::Table, name: &str, key: &str, value: &str) -> Result<Value> {
    let refused = |expected: &str| anyhow::anyhow!("{name} is {value:?}: expected {expected}");
    Ok(match lookup(defaults, key) {
        Some(toml::Value::Integer(_)) => Value::from(value.parse::<i64>().map_err(|_| refused("a whole number"))?),
        Some(toml::Value::Boolean(_)) => Value::from(value.parse::<bool>().map_err(|_| refused("true or false"))?),
        Some(toml::Value::Array(_)) => bail!("{name}: lists can only be given in a configuration file"),
        None if key.starts_with("plans.") => Value::from(value.parse::<i64>().map_err(|_| refused("a whole number"))?),
        _ => Value::from(value),
    })
}

fn insert(dict: &mut Dict, key: &str, value: Value) {
    match key.split_once('.') {
        None => {
            dict.insert(key.to_owned(), value);
        }
        Some((first, rest)) => {
            let mut inner = match dict.remove(first) {
                Some(Value::Dict(_, inner)) => inner,
                _ => Dict::new(),
            };
            insert(&mut inner, rest, value);
            dict.insert(first.to_owned(), Value::from(inner));
        }
    }
}
