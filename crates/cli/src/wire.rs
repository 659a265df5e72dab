//! Picks the backends: the only place that knows which ones there are.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use astrfleet_adapters::{
    blobs::{FolderBlobs, S3Blobs},
    bus::{MemoryBus, RedisBus},
    cache::{MemoryCache, RedisCache},
    limiter::{MemoryLimiter, RedisLimiter},
    redis::Redis,
};
use astrfleet_core::ports::{Blobs, Bus, Cache, Clock, Limiter, Rng, Runtime, Store};
use astrfleet_runtime::{
    astrbot::{AstrBots, ClientLimits},
    elsewhere::Elsewhere,
    environment::{Environment, Options, Report},
    process::{LogLimits, ProcessRuntime, Settings},
};
use astrfleet_server::{app::Ports, secrets::Secrets};
use astrfleet_store::db::{Db, PgSettings};
use secrecy::{ExposeSecret, SecretString};

use crate::{
    config::{self, Config},
    host::{DataFolder, SystemClock, SystemRng},
};

/// Events that wait for one listener of the bus.
const BUS_CAPACITY: usize = 4096;
/// Keys that the limiter counts at the same time.
const LIMITER_KEYS: usize = 100_000;

/// How the bots' environment is prepared.
pub fn environment_options(config: &Config, environment: &config::Environment) -> Options {
    let mut options = Options::new(&config.data.runtime_dir, environment.path(), environment.home());
    options.python = Some(config.bots.python.clone()).filter(|python| !python.as_os_str().is_empty());
    options.pyenv_root = environment.get("PYENV_ROOT").map(PathBuf::from);
    options.index_url = environment.get("UV_INDEX_URL").or(environment.get("PIP_INDEX_URL")).map(Into::into);
    options
}

/// Opens the database and brings it to our version.
///
/// # Errors
/// Where it cannot be opened, or belongs to a newer version of us.
pub async fn open_database(config: &Config, data: &DataFolder) -> Result<Db> {
    let db = open_unmigrated(config, Some(data)).await?;
    let migrated = db.migrate_up_beside_previous(SystemClock.now()).await;
    migrated.context("the database cannot be brought to this version")?;
    if config.database.host.is_empty() {
        // The data folder is ours alone, and with it the database: whoever held a lease in it is gone.
        db.leases().free_all().await.context("the leases of the process before cannot be freed")?;
    }
    Ok(db)
}

/// Opens the database as it is. SQLite's is in the data folder.
///
/// # Errors
/// Where it cannot be opened.
pub async fn open_unmigrated(config: &Config, data: Option<&DataFolder>) -> Result<Db> {
    let database = &config.database;
    if database.host.is_empty() {
        let data = data.context("there is no data folder for the database")?;
        return Db::open_sqlite(&data.join("astrfleet.db"))
            .await
            .context("the database in the data folder cannot be opened");
    }
    let settings = PgSettings {
        connections_max: database.max_connections,
        acquire_timeout: Duration::from_secs(database.acquire_timeout_s),
        statement_timeout: Duration::from_secs(database.statement_timeout_s),
        lock_timeout: Duration::from_secs(database.lock_timeout_s),
        idle_in_transaction_timeout: Duration::from_secs(database.idle_in_transaction_timeout_s),
        replicas: database.replicas()?,
        fresh_after_write: Duration::from_secs(database.fresh_after_write_s),
    };
    let db = Db::open_postgres(&postgres_url(database)?, &settings)
        .await
        .with_context(|| format!("PostgreSQL at {}:{} cannot be used", database.host, database.port))?;
    if let Some(warning) = unheld(&db).await? {
        tracing::warn!("{warning}");
    }
    Ok(db)
}

/// What is wrong with the role that we connect as: row-level security does not hold it.
///
/// # Errors
/// Where the database does not answer.
pub async fn unheld(db: &Db) -> Result<Option<String>> {
    let role = db.postgres_role().await.context("the database does not say who we are")?;
    Ok(role.filter(|role| role.bypasses_row_security).map(|role| {
        format!(
            "row-level security does not hold the database role {}, which is a superuser or has BYPASSRLS: connect as \
             another one (docs/operations/postgresql.md)",
            role.name
        )
    }))
}

fn postgres_url(database: &config::DatabaseConfig) -> Result<SecretString> {
    let mut url: reqwest::Url = "postgres://localhost".parse()?;
    url.set_host(Some(&database.host)).context("database.host is not a host name")?;
    let refused = |()| anyhow::anyhow!("the database's address cannot be put together");
    url.set_port(Some(database.port)).map_err(refused)?;
    url.set_username(&database.user).map_err(refused)?;
    url.set_password(Some(database.password.expose_secret())).map_err(refused)?;
    url.set_path(&database.name);
    Ok(url.to_string().into())
}

/// Prepares the bots' environment, for a process that keeps bots, and puts the backends together.
///
/// # Errors
/// Where one of them cannot be had: the text says which, and the remedy.
pub async fn ports(
    config: &Config,
    data: &DataFolder,
    db: Db,
    secrets: &Secrets,
    bots_here: Option<(&config::Environment, Report<'_>)>,
) -> Result<Ports> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let rng: Arc<dyn Rng> = Arc::new(SystemRng);
    let Shared { bus, limiter, cache } = shared(config, &clock, &*rng)?;
    let runtime: Arc<dyn Runtime> = match bots_here {
        Some((environment, report)) => processes(config, data, environment, report, &clock, &rng).await?,
        None => Arc::new(Elsewhere),
    };
    Ok(Ports {
        store: Arc::new(db),
        bus,
        limiter,
        cache,
        blobs: blobs(config, data)?,
        runtime,
        bots: Arc::new(AstrBots::new(
            Arc::clone(&clock),
            Arc::clone(&rng),
            secrets.failure_text()?,
            ClientLimits::default(),
        )?),
        clock,
        rng,
    })
}

/// Bots as child processes of this machine.
async fn processes(
    config: &Config,
    data: &DataFolder,
    environment: &config::Environment,
    report: Report<'_>,
    clock: &Arc<dyn Clock>,
    rng: &Arc<dyn Rng>,
) -> Result<Arc<dyn Runtime>> {
    let prepared = Environment::prepare(&environment_options(config, environment), report).await?;
    let settings = Settings {
        ports: config.bots.port_first..=config.bots.port_last,
        stop_timeout: Duration::from_secs(config.bots.stop_timeout_s),
        log: LogLimits { file_bytes_max: config.bots.log_max_bytes, files: config.bots.log_files as usize },
        isolate: config.bots.own_user && prepared.readable_by_others(),
        ..Settings::new(data.join("bots"), &prepared.astrbot, &prepared.version)
    };
    Ok(Arc::new(ProcessRuntime::new(settings, Arc::clone(clock), Arc::clone(rng))?))
}

/// The way to Redis, where one is configured.
///
/// # Errors
/// Where what is configured cannot be meant.
pub fn redis(config: &Config) -> Result<Option<Redis>> {
    let Some(settings) = config.redis.settings()? else { return Ok(None) };
    Ok(Some(Redis::new(settings)?))
}

/// The bucket, where one is configured.
///
/// # Errors
/// Where what is configured cannot be meant.
pub fn bucket(config: &Config) -> Result<Option<S3Blobs>> {
    let Some(settings) = config.blobs.settings()? else { return Ok(None) };
    Ok(Some(S3Blobs::new(&settings)?))
}

/// What several processes share where there is Redis.
struct Shared {
    bus: Arc<dyn Bus>,
    limiter: Arc<dyn Limiter>,
    cache: Arc<dyn Cache>,
}

/// It is not waited for: processes start without Redis, too.
fn shared(config: &Config, clock: &Arc<dyn Clock>, rng: &dyn Rng) -> Result<Shared> {
    let clock = Arc::clone(clock);
    let answers = config.answers_kept();
    // One byte says what an answer is.
    let answer_bytes_max = answers.answer_bytes_max().saturating_add(1);
    let in_memory = || Arc::new(MemoryCache::new(answers.max_bytes, answer_bytes_max));
    let Some(redis) = redis(config)? else {
        return Ok(Shared {
            bus: Arc::new(MemoryBus::new(BUS_CAPACITY)),
            limiter: Arc::new(MemoryLimiter::new(clock, LIMITER_KEYS)),
            cache: in_memory(),
        });
    };
    // A connection is made only where something will be kept.
    let cache: Arc<dyn Cache> = match answers.max_bytes {
        0 => in_memory(),
        _ => Arc::new(RedisCache::new(redis.clone(), answer_bytes_max)),
    };
    Ok(Shared {
        bus: Arc::new(RedisBus::new(redis.clone(), rng, BUS_CAPACITY)),
        limiter: Arc::new(RedisLimiter::new(redis, clock, config.redis.replicas, LIMITER_KEYS)),
        cache,
    })
}

fn blobs(config: &Config, data: &DataFolder) -> Result<Arc<dyn Blobs>> {
    Ok(match bucket(config)? {
        Some(bucket) => Arc::new(bucket),
        None => Arc::new(FolderBlobs::open(&data.join("blobs"))?),
    })
}
