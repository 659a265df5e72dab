//! The process driver with the real `AstrBot`, once: 11 CPU seconds. The first run on a machine prepares the
//! environment, in a folder that all tests share.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use astrfleet_core::{
    id::{InstanceId, TenantId},
    ports::{
        BotSpec, BotStatus, FoundBot, Runtime,
        testing::{CountingRng, FixedClock},
    },
};
use astrfleet_runtime::{
    environment::{Environment, Options},
    process::{ProcessRuntime, Settings},
};
use serde_json::{Value, json};

/// For a machine that is busy with something else.
const PATIENCE: Duration = Duration::from_mins(5);

async fn environment() -> Environment {
    let variable = |name| std::env::var_os(name).unwrap_or_default();
    let folder = std::env::temp_dir().join("astrfleet-test-runtime");
    let options = Options {
        pyenv_root: std::env::var_os("PYENV_ROOT").map(PathBuf::from),
        ..Options::new(folder, variable("PATH"), variable("HOME"))
    };
    Environment::prepare(&options, &|_| {}).await.unwrap_or_else(|error| panic!("{error}"))
}

fn spec(port: u16) -> BotSpec {
    BotSpec {
        instance: InstanceId::parse("bot_0123456789abcdef0123456789abcdef").unwrap(),
        tenant: TenantId::parse("ten_0123456789abcdef0123456789abcdef").unwrap(),
        tenant_name: "acme".to_owned(),
        generation: 7,
        port,
        llm_base_url: "http://127.0.0.1:9/v1".to_owned(),
        llm_key: "virtual-key".into(),
        model: "fast".to_owned(),
        jwt_secret: "0123456789abcdef0123456789abcdef".into(),
        failure_text: "The model does not answer.".to_owned(),
        bridge: astrfleet_core::ports::BridgeSpec {
            url: "http://127.0.0.1:9/bridge/v1".to_owned(),
            token: "token-of-the-bridge".into(),
            when_away: astrfleet_core::ports::WhenAway::Answer,
        },
        memory_bytes: 640 << 20,
        cpu_milli: 2_000,
        terms: "terms".to_owned(),
    }
}

async fn until_ready(driver: &ProcessRuntime, spec: &BotSpec) {
    let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(5)).build().unwrap();
    let url = format!("http://127.0.0.1:{}/api/stat/start-time", spec.port);
    let waiting = async {
        loop {
            if let BotStatus::Exited { how, last_words, .. } = driver.status(&spec.instance).await.unwrap() {
                panic!("{how}\n{last_words}");
            }
            if let Ok(answer) = client.get(&url).send().await
                && answer.status().is_success()
            {
                let answer: Value = answer.json().await.unwrap();
                assert_eq!(answer["status"], "ok");
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("it became ready");
}

/// Kills the bot where the test fails: it would outlive it.
struct Leftover(PathBuf);

impl Drop for Leftover {
    fn drop(&mut self) {
        let Ok(record) = fs::read(&self.0) else { return };
        let record: Value = serde_json::from_slice(&record).unwrap_or_default();
        let pid = record["pid"].as_i64().and_then(|pid| rustix::process::Pid::from_raw(i32::try_from(pid).ok()?));
        if let Some(pid) = pid {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

#[tokio::test]
async fn a_real_bot_starts_is_taken_over_and_ends_in_order() {
    let environment = environment().await;
    let folder = tempfile::tempdir().unwrap();
    let driver = || {
        let bots = folder.path().join("bots");
        let settings =
            Settings { stop_timeout: PATIENCE, ..Settings::new(bots, &environment.astrbot, &environment.version) };
        ProcessRuntime::new(settings, Arc::new(FixedClock::at(7_000_000)), Arc::new(CountingRng::default())).unwrap()
    };
    let first = driver();
    let spec = spec(first.free_port(&[]).await.unwrap());
    let _leftover = Leftover(folder.path().join("bots/.state").join(spec.instance.as_str()).join("process.json"));
    let data = folder.path().join("bots").join(spec.instance.as_str()).join("data");
    fs::create_dir_all(&data).unwrap();
    let config_file = data.join("cmd_config.json");
    fs::write(&config_file, "\u{feff}{\"wake_prefix\": [\"!\"], \"admins_id\": [\"mallory\"]}").unwrap();

    first.start(&spec).await.unwrap();
    drop(first);
    let second = driver();
    let found = FoundBot { instance: spec.instance.clone(), generation: 7, port: spec.port, terms: spec.terms.clone() };
    assert_eq!(second.find().await.unwrap(), [found]);
    until_ready(&second, &spec).await;
    match second.status(&spec.instance).await.unwrap() {
        BotStatus::Running { generation, port, memory_bytes, .. } => {
            assert_eq!((generation, port), (7, spec.port));
            assert!(memory_bytes > 100 << 20, "{memory_bytes}");
        }
        other => panic!("{other:?}"),
    }
    second.stop(&spec.instance).await.unwrap();
    assert_eq!(second.status(&spec.instance).await.unwrap(), BotStatus::Absent);
    assert!(!data.join("data_v4.db-wal").exists(), "its database was closed in order");
    let log = second.log(&spec.instance, 10_000).await.unwrap();
    assert!(log.iter().all(|line| !line.line.contains('\u{1b}')));
    assert!(log.iter().any(|line| line.line.contains("AstrBot CLI version")));

    let config = fs::read_to_string(config_file).unwrap();
    let config: Value = serde_json::from_str(config.trim_start_matches('\u{feff}')).unwrap();
    assert_eq!(config["wake_prefix"], json!(["!"]), "the tenant's");
    assert_eq!(config["admins_id"], json!([]), "the platform's");
    assert_eq!(config["dashboard"]["jwt_secret"], "0123456789abcdef0123456789abcdef");
    assert_eq!(config["agent_runner"]["config"]["model"]["provider_id"], "platform/fast");
    assert_eq!(config["agent_runner"]["config"]["model"]["request_max_retries"], 5);
    assert_eq!(config["agent_runner"]["config"]["persona"]["persona_id"], "platform");
    assert!(config["provider_settings"].as_object().unwrap().len() > 5, "it took the file and filled in the rest");
    second.erase(&spec.instance).await.unwrap();
    assert!(!data.exists());
}
