//! `doctor`: whether this machine has what it takes, and how to mend what is missing.

use std::{
    net::TcpListener,
    process::ExitCode,
    time::{Duration, UNIX_EPOCH},
};

use anyhow::Result;
use astrfleet_core::ports::Clock;
use astrfleet_runtime::environment::{Check, Status, checks};
use astrfleet_store::Db;

use crate::{
    config::{Config, Environment},
    host::{DataFolder, SystemClock},
    wire,
};

/// Looks at everything and prints what it saw. The exit code is 1 where something must be mended.
///
/// # Errors
/// Where the report cannot be written.
pub async fn run(config: &Config, environment: &Environment, json: bool) -> Result<ExitCode> {
    let since_1970 = Duration::from_micros(u64::try_from(SystemClock.now().micros()).unwrap_or(0));
    let options = wire::environment_options(config, environment);
    let mut all = checks(&options, UNIX_EPOCH + since_1970).await;
    all.push(data_folder(config).await);
    all.extend(redis(config).await);
    all.extend(blobs(config).await);
    all.push(port(config));
    all.push(model(config));
    all.extend(risks(config));
    if json {
        println!("{}", serde_json::to_string_pretty(&all)?);
    } else {
        for check in &all {
            let mark = match check.status {
                Status::Ok => "ok  ",
                Status::Warn => "warn",
                Status::Fail => "FAIL",
            };
            println!("{mark}  {:<28} {}", check.name, check.detail);
            if let Some(remedy) = &check.remedy {
                println!("      {:<28} -> {remedy}", "");
            }
        }
    }
    let failed = all.iter().any(|check| matches!(check.status, Status::Fail));
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

async fn data_folder(config: &Config) -> Check {
    let name = "data folder";
    let folder = config.data.dir.display().to_string();
    if !config.data.dir.exists() {
        let detail = format!("{folder} will be made at the first start");
        return Check { name, status: Status::Ok, detail, remedy: None };
    }
    match DataFolder::take(&config.data.dir) {
        Ok(data) => match opened(config, &data).await {
            Ok(db) => {
                let unheld = wire::unheld(&db).await;
                db.close().await;
                match unheld {
                    Ok(None) => {
                        let detail = format!("{folder}: the database opens");
                        Check { name, status: Status::Ok, detail, remedy: None }
                    }
                    Ok(Some(detail)) => {
                        let remedy = Some("see docs/operations/postgresql.md: one role owns, another one uses".into());
                        Check { name, status: Status::Warn, detail, remedy }
                    }
                    Err(error) => Check { name, status: Status::Fail, detail: format!("{error:#}"), remedy: None },
                }
            }
            Err(error) => Check {
                name,
                status: Status::Fail,
                detail: format!("{error:#}"),
                remedy: Some("restore it from a backup, or choose another folder with --data-dir".into()),
            },
        },
        Err(error) => Check { name, status: Status::Warn, detail: format!("{error:#}"), remedy: None },
    }
}

/// Nothing where none is configured.
async fn redis(config: &Config) -> Option<Check> {
    let checked = match wire::redis(config) {
        Ok(redis) => redis?.check().await.map_err(anyhow::Error::from),
        Err(error) => Err(error),
    };
    Some(match checked {
        Ok(detail) => Check { name: "redis", status: Status::Ok, detail, remedy: None },
        // Everything goes on without it, each process by itself.
        Err(error) => Check {
            name: "redis",
            status: Status::Warn,
            detail: error.root_cause().to_string(),
            remedy: Some("see [redis] in the configuration: host, port, password, mode, tls".into()),
        },
    })
}

/// Nothing where none is configured.
async fn blobs(config: &Config) -> Option<Check> {
    let checked = match wire::bucket(config) {
        Ok(bucket) => bucket?.check().await.map_err(anyhow::Error::from),
        Err(error) => Err(error),
    };
    let bucket = format!("{} at {}", config.blobs.bucket, config.blobs.endpoint);
    Some(match checked {
        Ok(()) => Check { name: "blobs", status: Status::Ok, detail: bucket, remedy: None },
        Err(error) => Check {
            name: "blobs",
            status: Status::Fail,
            detail: format!("{bucket}: {}", error.root_cause()),
            remedy: Some("see [blobs] in the configuration; the bucket and its keys have to be there".into()),
        },
    })
}

/// As it is: looking must not migrate.
async fn opened(config: &Config, data: &DataFolder) -> Result<Db> {
    let db = wire::open_unmigrated(config, Some(data)).await?;
    db.migration_status().await?;
    Ok(db)
}

fn port(config: &Config) -> Check {
    let address = config.gateway().listen;
    match TcpListener::bind(address) {
        Ok(_) => Check { name: "port", status: Status::Ok, detail: format!("{address} is free"), remedy: None },
        Err(error) => Check {
            name: "port",
            status: Status::Warn,
            detail: format!("{address}: {error}"),
            remedy: Some(
                "fine if that is astrfleet itself; otherwise choose another with --listen 127.0.0.1:PORT".into(),
            ),
        },
    }
}

/// Settings that do not go together.
fn risks(config: &Config) -> impl Iterator<Item = Check> {
    let check = |detail| Check { name: "configuration", status: Status::Warn, detail, remedy: None };
    config.risks(None).into_iter().map(check)
}

fn model(config: &Config) -> Check {
    if config.has_model() {
        return Check { name: "model", status: Status::Ok, detail: "configured".into(), remedy: None };
    }
    Check {
        name: "model",
        status: Status::Warn,
        detail: "none is configured: bots answer from the built-in `demo`".into(),
        remedy: Some("set LLM_API_KEY, or [[llm.upstreams]] in a configuration file".into()),
    }
}
