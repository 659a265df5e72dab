//! `doctor`: whether this machine has what it takes, and how to mend what is missing.

use std::{
    collections::BTreeSet,
    net::TcpListener,
    process::ExitCode,
    time::{Duration, UNIX_EPOCH},
};

use anyhow::Result;
use astrfleet_core::ports::Clock;
use astrfleet_runtime::environment::{Check, Status, checks};
use astrfleet_server::role::Role;
use astrfleet_store::Db;

use crate::{
    config::{Config, Environment},
    host::{DataFolder, SystemClock},
    output::line,
    wire,
};

/// What of a machine matters where no bots run.
const WITHOUT_BOTS: [&str; 2] = ["clock", "open files"];

/// Looks at everything that these roles need and prints what it saw. The exit code is 1 where something must be mended.
///
/// # Errors
/// Where the report cannot be written.
pub async fn run(config: &Config, environment: &Environment, roles: &BTreeSet<Role>, json: bool) -> Result<ExitCode> {
    let since_1970 = Duration::from_micros(u64::try_from(SystemClock.now().micros()).unwrap_or(0));
    let options = wire::environment_options(config, environment);
    let mut all = checks(&options, UNIX_EPOCH + since_1970).await;
    if !roles.contains(&Role::Manager) {
        all.retain(|check| WITHOUT_BOTS.contains(&check.name));
    }
    all.extend(data_folder(config).await);
    all.extend(redis(config).await);
    all.extend(blobs(config).await);
    all.push(port(config));
    if roles.contains(&Role::Llm) {
        all.push(model(config));
    }
    all.extend(risks(config));
    if json {
        line(&serde_json::to_string_pretty(&all)?);
    } else {
        for check in &all {
            let mark = match check.status {
                Status::Ok => "ok  ",
                Status::Warn => "warn",
                Status::Fail => "FAIL",
            };
            line(&format!("{mark}  {:<28} {}", check.name, check.detail));
            if let Some(remedy) = &check.remedy {
                line(&format!("      {:<28} -> {remedy}", ""));
            }
        }
    }
    let failed = all.iter().any(|check| matches!(check.status, Status::Fail));
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The folder, and the database: in it, or elsewhere, where it is looked at whatever there is of the folder.
async fn data_folder(config: &Config) -> Vec<Check> {
    let folder = config.data.dir.display().to_string();
    let named = |status, detail, remedy: Option<&str>| Check {
        name: "data folder",
        status,
        detail,
        remedy: remedy.map(str::to_owned),
    };
    let (check, taken) = if config.data.dir.exists() {
        match DataFolder::take(&config.data.dir) {
            Ok(taken) => (named(Status::Ok, format!("{folder} is ours"), None), Some(taken)),
            Err(error) => (named(Status::Warn, format!("{error:#}"), None), None),
        }
    } else {
        (named(Status::Ok, format!("{folder} will be made at the first start"), None), None)
    };
    // SQLite's is in the folder: one that is not there, or that somebody else has open, is not looked at.
    if taken.is_none() && config.database.host.is_empty() {
        return vec![check];
    }
    vec![check, database(config, taken.as_ref()).await]
}

async fn database(config: &Config, data: Option<&DataFolder>) -> Check {
    let named = |status, detail, remedy: Option<&str>| Check {
        name: "database",
        status,
        detail,
        remedy: remedy.map(str::to_owned),
    };
    let (which, remedy) = if config.database.host.is_empty() {
        ("SQLite in the data folder".to_owned(), "restore it from a backup, or choose another folder with --data-dir")
    } else {
        let which = format!("PostgreSQL at {}:{}", config.database.host, config.database.port);
        (which, "start it, or see [database] in the configuration: host, port, name, user, password")
    };
    let db = match opened(config, data).await {
        Ok(db) => db,
        Err(error) => return named(Status::Fail, format!("{error:#}"), Some(remedy)),
    };
    let unheld = wire::unheld(&db).await;
    db.close().await;
    match unheld {
        Ok(None) => named(Status::Ok, format!("{which} opens"), None),
        Ok(Some(detail)) => {
            named(Status::Warn, detail, Some("see docs/operations/postgresql.md: one role owns, another one uses"))
        }
        Err(error) => named(Status::Fail, format!("{error:#}"), Some(remedy)),
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
async fn opened(config: &Config, data: Option<&DataFolder>) -> Result<Db> {
    let db = wire::open_unmigrated(config, data).await?;
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
