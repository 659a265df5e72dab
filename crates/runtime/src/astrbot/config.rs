//! A bot's configuration file, written while the bot is stopped: what is the platform's in it is set at every start,
//! what is the tenant's stays as it is. While a bot runs its API is the only way: it overwrites the file.
//!
//! The folder may belong to the bot's own user: no link in it is ever followed, and nothing is written in place.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use astrfleet_core::{
    error::{Error, Result},
    ports::{BotSpec, Rng},
};
use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, fstat, fsync, mkdirat, open, openat, renameat, statat, unlinkat},
    io::Errno,
};
use secrecy::ExposeSecret;
use serde_json::{Map, Value, json};

/// The platform's entry among `provider_sources`; its models are `provider` entries `platform/<model>`.
pub const PLATFORM_PROVIDER_ID: &str = "platform";

/// The persona that carries [`BotSpec::failure_text`]. Personas live in the bot's database: the file only points to
/// it, and whoever talks to the bot creates it through the API once it is ready. Until then the bot uses its own.
pub const PLATFORM_PERSONA_ID: &str = "platform";

/// What else is the platform's, as dotted paths: set at every start, never the tenant's to read or change. Among it is
/// where files are written and cleaned up, which may be anywhere on the machine, and what is reached without a proxy:
/// through one of the tenant's, the key of our model gateway would be read.
pub const OWNED_PATHS: &[&str] = &[
    "admins_id",
    "dashboard",
    "disable_metrics",
    "log_file_enable",
    "log_file_path",
    "log_level",
    "no_proxy",
    "pip_install_arg",
    "platform_settings.no_permission_reply",
    "provider_settings.computer_use_runtime",
    "pypi_index_url",
    "t2i_endpoint",
    "trace_db_path",
];

/// No configuration of a person is that large: what is, is broken.
const CONFIG_BYTES_MAX: u64 = 8 << 20;

/// Copies of broken files that are kept.
const BROKEN_MAX: u32 = 20;

const FOLDER: &str = "data";
const FILE: &str = "cmd_config.json";
const FRESH: &str = ".cmd_config.json.new";
const MARKER: &str = ".astrbot";

/// Whether an entry of `provider_sources` is the platform's.
#[must_use]
pub fn is_platform_source(source: &Value) -> bool {
    id(source) == Some(PLATFORM_PROVIDER_ID)
}

/// Whether an entry of `provider` is the platform's, or says so: what uses the platform's source has its key, and may
/// send it to another address.
#[must_use]
pub fn is_platform_provider(provider: &Value) -> bool {
    let named = id(provider).and_then(|id| id.strip_prefix(PLATFORM_PROVIDER_ID));
    let source = provider.get("provider_source_id").and_then(Value::as_str);
    named.is_some_and(|rest| rest.starts_with('/')) || source == Some(PLATFORM_PROVIDER_ID)
}

/// Makes `root` a folder that `astrbot run` accepts, with the configuration for `spec`. Blocks: it waits for the disk.
///
/// # Errors
/// [`Error::Unavailable`] where the folder cannot be written.
pub fn write(root: &Path, spec: &BotSpec, rng: &dyn Rng) -> Result<()> {
    write_files(root, spec, rng).map_err(|error| {
        let path = root.display();
        Error::unavailable("the bot's folder", format!("{path}: {error}: see to its owner, its mode and free space"))
    })
}

fn write_files(root: &Path, spec: &BotSpec, rng: &dyn Rng) -> io::Result<()> {
    let folder_flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
    let root = open(root, folder_flags, Mode::empty())?;
    // Reopening it where it is changes nothing in it.
    openat(&root, MARKER, OFlags::CREATE | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, private())?;
    match mkdirat(&root, FOLDER, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let folder = openat(&root, FOLDER, folder_flags, Mode::empty())?;
    let tenants = read(&folder)?;
    let config = merged(tenants, spec, rng);
    replace(&folder, &serde_json::to_vec_pretty(&config)?)?;
    fsync(&root)?;
    Ok(())
}

/// `existing` with the platform's part set for `spec`.
#[must_use]
pub fn merged(existing: Map<String, Value>, spec: &BotSpec, rng: &dyn Rng) -> Value {
    let mut config = existing;
    config.insert("dashboard".to_owned(), dashboard(spec, rng));
    config.insert("admins_id".to_owned(), json!([]));
    config.insert("disable_metrics".to_owned(), json!(true));
    config.insert("log_file_enable".to_owned(), json!(false));
    config.insert("log_file_path".to_owned(), json!("logs/astrbot.log"));
    config.insert("log_level".to_owned(), json!("WARNING"));
    config.insert("no_proxy".to_owned(), json!(["localhost", "127.0.0.1", "::1", host(&spec.llm_base_url)]));
    config.insert("pip_install_arg".to_owned(), json!(""));
    config.insert("pypi_index_url".to_owned(), json!(""));
    config.insert("trace_db_path".to_owned(), json!("logs/traces.db"));
    // Any address but its default keeps it from asking a public service for endpoints.
    config.insert("t2i_endpoint".to_owned(), json!("http://127.0.0.1:9/text2img"));
    object(&mut config, "provider_settings").insert("computer_use_runtime".to_owned(), json!("none"));

    config.entry("config_version").or_insert(json!(5));
    config.entry("platform").or_insert(json!([]));
    config.entry("timezone").or_insert(json!("UTC"));
    // Its own default makes the thirty-first message of a minute wait without a word: the gateway limits.
    let rate_limit = json!({"time": 60, "count": 100_000, "strategy": "stall"});
    let settings = object(&mut config, "platform_settings");
    settings.entry("rate_limit").or_insert(rate_limit);
    // Nobody is an administrator in a channel. Who is refused a command is told so before our bridge is asked.
    settings.insert("no_permission_reply".to_owned(), json!(false));

    let sources = list(&mut config, "provider_sources");
    sources.retain(|source| !is_platform_source(source));
    sources.insert(0, source(spec));
    let models = list(&mut config, "provider");
    models.retain(|provider| !is_platform_provider(provider));
    let platform_model = format!("{PLATFORM_PROVIDER_ID}/{}", spec.model);
    models.insert(0, provider(spec, &platform_model));
    let known: Vec<String> = models.iter().filter_map(id).map(str::to_owned).collect();
    choose_model(&mut config, &known, &platform_model);
    Value::Object(config)
}

/// The tenant's choice of a model and of a persona stays, unless the model is gone.
fn choose_model(config: &mut Map<String, Value>, known: &[String], platform_model: &str) {
    let runner = object(config, "agent_runner");
    if runner.entry("runner_type").or_insert(json!("local")) != "local" {
        return;
    }
    let settings = object(runner, "config");
    let model = object(settings, "model");
    let chosen = model.get("provider_id").and_then(Value::as_str).unwrap_or_default();
    if !known.iter().any(|id| id == chosen) {
        model.insert("provider_id".to_owned(), json!(platform_model));
    }
    // A bot's own five attempts last 15 s: so long may no process of the model gateway be reached. What that says of a
    // provider is not asked again.
    model.entry("request_max_retries").or_insert(json!(5));
    object(settings, "persona").entry("persona_id").or_insert(json!(PLATFORM_PERSONA_ID));
}

/// Nobody knows a password of it: both hashes are random. Its tokens are minted with the secret.
fn dashboard(spec: &BotSpec, rng: &dyn Rng) -> Value {
    json!({
        "enable": true,
        "username": "platform",
        "pbkdf2_password": format!("pbkdf2_sha256$600000${}${}", hex::<16>(rng), hex::<32>(rng)),
        "password": hex::<16>(rng),
        "password_storage_upgraded": true,
        "password_change_required": false,
        "jwt_secret": spec.jwt_secret.expose_secret(),
        "host": "127.0.0.1",
        "port": spec.port,
    })
}

fn source(spec: &BotSpec) -> Value {
    json!({
        "id": PLATFORM_PROVIDER_ID,
        "provider": "openai",
        "type": "openai_chat_completion",
        "provider_type": "chat_completion",
        "enable": true,
        "key": [spec.llm_key.expose_secret()],
        "api_base": spec.llm_base_url,
        "timeout": 120,
        "proxy": "",
        "custom_headers": {},
    })
}

fn provider(spec: &BotSpec, id: &str) -> Value {
    json!({
        "id": id,
        "provider_source_id": PLATFORM_PROVIDER_ID,
        "model": spec.model,
        "modalities": ["text", "image", "tool_use"],
        "custom_extra_body": {},
        "enable": true,
    })
}

/// The host of an address, without its port.
fn host(url: &str) -> &str {
    let authority = url.split_once("://").map_or(url, |(_, rest)| rest).split('/').next().unwrap_or_default();
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    }
}

fn id(entry: &Value) -> Option<&str> {
    entry.get("id").and_then(Value::as_str)
}

/// The object under `key`, made where there is none.
fn object<'map>(map: &'map mut Map<String, Value>, key: &str) -> &'map mut Map<String, Value> {
    let value = map.entry(key).or_insert(Value::Null);
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(object) => object,
        _ => unreachable!("it was made one just now"),
    }
}

/// The list under `key`, made where there is none.
fn list<'map>(map: &'map mut Map<String, Value>, key: &str) -> &'map mut Vec<Value> {
    let value = map.entry(key).or_insert(Value::Null);
    if !value.is_array() {
        *value = Value::Array(Vec::new());
    }
    match value {
        Value::Array(list) => list,
        _ => unreachable!("it was made one just now"),
    }
}

fn hex<const BYTES: usize>(rng: &dyn Rng) -> String {
    let mut bytes = [0; BYTES];
    rng.fill(&mut bytes);
    bytes.iter().fold(String::with_capacity(2 * BYTES), |text, byte| text + &format!("{byte:02x}"))
}

/// The file as it is, or nothing. One that cannot be read as an object is set aside: a bot that starts with the
/// platform's defaults is worth more than one that does not start.
fn read(folder: &OwnedFd) -> io::Result<Map<String, Value>> {
    // Not blocking: a pipe of that name would wait for its writer.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let reason = match openat(folder, FILE, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(Map::new()),
        Err(error) => error.to_string(),
        Ok(file) if FileType::from_raw_mode(fstat(&file)?.st_mode) != FileType::RegularFile => "not a file".to_owned(),
        Ok(file) => {
            let mut content = Vec::new();
            File::from(file).take(CONFIG_BYTES_MAX + 1).read_to_end(&mut content)?;
            match parse(&content) {
                Ok(config) => return Ok(config),
                Err(reason) => reason,
            }
        }
    };
    let aside = set_aside(folder)?;
    tracing::warn!(reason, aside, "a bot's configuration was broken: it was set aside and made anew");
    Ok(Map::new())
}

fn parse(content: &[u8]) -> Result<Map<String, Value>, String> {
    if content.len() as u64 > CONFIG_BYTES_MAX {
        return Err(format!("larger than {CONFIG_BYTES_MAX} bytes"));
    }
    let content = content.strip_prefix("\u{feff}".as_bytes()).unwrap_or(content);
    // Of the failure only where it is: its text may quote a secret.
    serde_json::from_slice(content).map_err(|error| format!("no JSON object, at line {}", error.line()))
}

fn set_aside(folder: &OwnedFd) -> io::Result<String> {
    let name = |number: u32| format!("{FILE}.broken-{number}");
    let free = |number: &u32| matches!(statat(folder, name(*number), AtFlags::SYMLINK_NOFOLLOW), Err(Errno::NOENT));
    let aside = name((1..BROKEN_MAX).find(free).unwrap_or(BROKEN_MAX));
    renameat(folder, FILE, folder, &aside)?;
    Ok(aside)
}

/// The file is always whole: the old one or the new one.
fn replace(folder: &OwnedFd, content: &[u8]) -> io::Result<()> {
    match unlinkat(folder, FRESH, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(openat(folder, FRESH, flags, private())?);
    file.write_all(content)?;
    file.sync_all()?;
    renameat(folder, FRESH, folder, FILE)?;
    fsync(folder.as_fd())?;
    Ok(())
}

fn private() -> Mode {
    Mode::RUSR | Mode::WUSR
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt, path::Path};

    use astrfleet_core::{
        id::{InstanceId, TenantId},
        ports::{BotSpec, testing::CountingRng},
    };
    use serde_json::{Value, json};

    use super::write;

    fn spec() -> BotSpec {
        BotSpec {
            instance: InstanceId::parse("bot_0123456789abcdef0123456789abcdef").unwrap(),
            tenant: TenantId::parse("ten_0123456789abcdef0123456789abcdef").unwrap(),
            tenant_name: "acme".to_owned(),
            generation: 3,
            port: 21_001,
            llm_base_url: "http://127.0.0.1:9/v1".to_owned(),
            llm_key: "virtual-key".into(),
            model: "fast".to_owned(),
            jwt_secret: "jwt".into(),
            failure_text: "something failed".to_owned(),
            bridge: astrfleet_core::ports::BridgeSpec {
                url: "http://127.0.0.1:9/bridge/v1".to_owned(),
                token: "token-of-the-bridge".into(),
                when_away: astrfleet_core::ports::WhenAway::Answer,
            },
            memory_bytes: 0,
            cpu_milli: 0,
            terms: "terms".to_owned(),
        }
    }

    fn written(root: &Path, spec: &BotSpec) -> Value {
        write(root, spec, &CountingRng::default()).unwrap();
        serde_json::from_slice(&fs::read(root.join("data/cmd_config.json")).unwrap()).unwrap()
    }

    #[test]
    fn a_fresh_folder_becomes_a_bot_of_ours() {
        let root = tempfile::tempdir().unwrap();
        let config = written(root.path(), &spec());
        assert!(root.path().join(".astrbot").is_file());
        let mode = fs::metadata(root.path().join("data/cmd_config.json")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(config["admins_id"], json!([]));
        assert_eq!(config["dashboard"]["jwt_secret"], "jwt");
        assert_eq!(config["agent_runner"]["config"]["model"]["provider_id"], "platform/fast");
        assert_eq!(config["provider_sources"][0]["key"], json!(["virtual-key"]));
        assert_eq!(config["platform_settings"]["rate_limit"]["count"], 100_000);
        assert_ne!(config["dashboard"]["password"], written(root.path(), &spec())["dashboard"]["pbkdf2_password"]);
    }

    #[test]
    fn what_is_the_tenants_stays_and_what_is_the_platforms_is_put_back() {
        let root = tempfile::tempdir().unwrap();
        let mut config = written(root.path(), &spec());
        config["provider_sources"].as_array_mut().unwrap().push(json!({"id": "own", "key": ["theirs"]}));
        config["provider"].as_array_mut().unwrap().push(json!({"id": "own/large"}));
        config["agent_runner"]["config"]["model"]["provider_id"] = json!("own/large");
        config["agent_runner"]["config"]["persona"]["persona_id"] = json!("pirate");
        config["platform_settings"]["rate_limit"]["count"] = json!(7);
        config["platform_settings"]["no_permission_reply"] = json!(true);
        config["admins_id"] = json!(["mallory"]);
        config["dashboard"]["jwt_secret"] = json!("known to all");
        config["provider_settings"]["computer_use_runtime"] = json!("local");
        config["wake_prefix"] = json!(["!"]);
        let with_bom = format!("\u{feff}{config}");
        fs::write(root.path().join("data/cmd_config.json"), with_bom).unwrap();

        let next = BotSpec { model: "slow".to_owned(), ..spec() };
        let config = written(root.path(), &next);
        assert_eq!(config["provider_sources"][1]["key"], json!(["theirs"]));
        assert_eq!(config["agent_runner"]["config"]["model"]["provider_id"], "own/large");
        assert_eq!(config["agent_runner"]["config"]["persona"]["persona_id"], "pirate");
        assert_eq!(config["platform_settings"]["rate_limit"]["count"], 7);
        assert_eq!(config["platform_settings"]["no_permission_reply"], false);
        assert_eq!(config["wake_prefix"], json!(["!"]));
        assert_eq!(config["admins_id"], json!([]));
        assert_eq!(config["dashboard"]["jwt_secret"], "jwt");
        assert_eq!(config["provider_settings"]["computer_use_runtime"], "none");
        let ids: Vec<_> = config["provider"].as_array().unwrap().iter().map(|entry| entry["id"].clone()).collect();
        assert_eq!(ids, ["platform/slow", "own/large"], "the model of before is gone");
    }

    #[test]
    fn a_default_model_that_is_gone_is_replaced() {
        let root = tempfile::tempdir().unwrap();
        written(root.path(), &spec());
        let config = written(root.path(), &BotSpec { model: "slow".to_owned(), ..spec() });
        assert_eq!(config["agent_runner"]["config"]["model"]["provider_id"], "platform/slow");
    }

    #[test]
    fn a_broken_file_is_set_aside() {
        let root = tempfile::tempdir().unwrap();
        for (number, broken) in [(1, "{\"half\": "), (2, "[]")] {
            written(root.path(), &spec());
            fs::write(root.path().join("data/cmd_config.json"), broken).unwrap();
            assert_eq!(written(root.path(), &spec())["dashboard"]["port"], 21_001);
            let aside = root.path().join(format!("data/cmd_config.json.broken-{number}"));
            assert_eq!(fs::read_to_string(aside).unwrap(), broken);
        }
    }

    #[test]
    fn a_link_is_never_followed() {
        let root = tempfile::tempdir().unwrap();
        let outside = root.path().join("outside.json");
        fs::write(&outside, "{\"wake_prefix\": []}").unwrap();
        fs::create_dir(root.path().join("data")).unwrap();
        std::os::unix::fs::symlink(&outside, root.path().join("data/cmd_config.json")).unwrap();
        assert_eq!(written(root.path(), &spec())["wake_prefix"], Value::Null);
        assert_eq!(fs::read_to_string(&outside).unwrap(), "{\"wake_prefix\": []}");

        let elsewhere = tempfile::tempdir().unwrap();
        fs::remove_dir_all(root.path().join("data")).unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), root.path().join("data")).unwrap();
        assert!(write(root.path(), &spec(), &CountingRng::default()).is_err());
        assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0);
    }
}
