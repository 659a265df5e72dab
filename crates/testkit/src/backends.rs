//! What the platforms of tests stand on: what is built in, or the servers of production. Every suite runs on both; which
//! one is said by the environment alone, so that no test knows.

use std::{
    path::PathBuf,
    sync::{Arc, LazyLock},
    time::Duration,
};

use astrfleet_adapters::{
    blobs::{FolderBlobs, S3Blobs, S3Settings},
    bus::{MemoryBus, RedisBus},
    cache::{MemoryCache, RedisCache},
    limiter::{MemoryLimiter, RedisLimiter},
    redis::{Redis as RedisClient, RedisSettings},
};
use astrfleet_core::ports::{Blobs, Bus, Cache, Clock, Limiter, testing::CountingRng};
use astrfleet_store::{Db, PgSettings};
use secrecy::ExposeSecret as _;
use tempfile::TempDir;
use tokio::sync::OnceCell;

use crate::{
    contract::store::NOW,
    postgres::{Database, Postgres},
    redis::Redis,
    s3::S3,
};

/// The variable that says which: `servers`, or nothing for what is built in.
pub const BACKENDS: &str = "ASTRFLEET_TEST_BACKENDS";

const BUS_CAPACITY: usize = 1_024;
const LIMITER_KEYS: usize = 100_000;
const CACHE_BYTES: u64 = 1 << 20;
const CACHE_VALUE_BYTES: usize = 256 << 10;
/// How long a server may take to be reached.
const PATIENCE: Duration = Duration::from_secs(30);

/// Of one platform.
pub enum Backends {
    /// `SQLite`, memory, folders.
    BuiltIn,
    /// `PostgreSQL`, Redis, S3: a database, a prefix and a bucket of the platform's own on servers that all tests of this
    /// process share.
    Servers(Box<Servers>),
}

/// Where a platform's servers are.
pub struct Servers {
    database: Database,
    redis: RedisSettings,
    s3: S3Settings,
}

impl Backends {
    /// Those that the environment asks for, with nothing in them.
    ///
    /// # Panics
    /// When it asks for others than there are, or a server does not start.
    pub async fn chosen() -> Self {
        match std::env::var_os(BACKENDS) {
            None => Self::BuiltIn,
            Some(word) if word == "servers" => Self::Servers(Box::new(Servers::new().await)),
            Some(other) => panic!("{BACKENDS} is {}; it may be `servers`, or not set", other.display()),
        }
    }

    /// A database with all tables.
    ///
    /// # Panics
    /// When it cannot be opened.
    pub async fn store(&self, folder: &TempDir) -> Db {
        let db = match self {
            Self::BuiltIn => Db::open_sqlite(&folder.path().join("test.sqlite")).await,
            Self::Servers(servers) => Db::open_postgres(&servers.database.url().into(), &PgSettings::default()).await,
        };
        let db = db.unwrap();
        db.migrate_up(NOW).await.unwrap();
        db
    }

    /// All that the database of the platform in `folder` has on the disk.
    ///
    /// # Panics
    /// When it cannot be read.
    pub fn stored(&self, folder: &TempDir) -> Vec<u8> {
        match self {
            Self::BuiltIn => {
                let file = folder.path().join("test.sqlite");
                let files = [file.clone(), folder.path().join("test.sqlite-wal")];
                files.iter().flat_map(|file| std::fs::read(file).unwrap()).collect()
            }
            Self::Servers(servers) => servers.database.dump(),
        }
    }

    /// A bus that hears what is told from now on.
    ///
    /// # Panics
    /// When its server cannot be reached.
    pub async fn bus(&self) -> Arc<dyn Bus> {
        // Each has a name of its own: what comes under its own name, it takes for what it said itself.
        static NAMES: LazyLock<CountingRng> = LazyLock::new(CountingRng::default);
        let Self::Servers(servers) = self else { return Arc::new(MemoryBus::new(BUS_CAPACITY)) };
        let bus = RedisBus::new(servers.redis(), &*NAMES, BUS_CAPACITY);
        assert!(bus.connected(PATIENCE).await, "Redis cannot be reached");
        Arc::new(bus)
    }

    /// A limiter that goes by `clock`.
    ///
    /// # Panics
    /// When its server cannot be reached.
    pub async fn limiter(&self, clock: Arc<dyn Clock>) -> Arc<dyn Limiter> {
        let Self::Servers(servers) = self else { return Arc::new(MemoryLimiter::new(clock, LIMITER_KEYS)) };
        let limiter = RedisLimiter::new(servers.redis(), clock, 1, LIMITER_KEYS);
        assert!(limiter.connected(PATIENCE).await, "Redis cannot be reached");
        Arc::new(limiter)
    }

    /// A cache.
    ///
    /// # Panics
    /// When its server cannot be reached.
    pub async fn cache(&self) -> Arc<dyn Cache> {
        let Self::Servers(servers) = self else { return Arc::new(MemoryCache::new(CACHE_BYTES, CACHE_VALUE_BYTES)) };
        let cache = RedisCache::new(servers.redis(), CACHE_VALUE_BYTES);
        assert!(cache.connected(PATIENCE).await, "Redis cannot be reached");
        Arc::new(cache)
    }

    /// Files.
    ///
    /// # Panics
    /// When they have no place.
    #[must_use]
    pub fn blobs(&self, folder: &TempDir) -> Arc<dyn Blobs> {
        match self {
            Self::BuiltIn => Arc::new(FolderBlobs::open(&folder.path().join("blobs")).unwrap()),
            Self::Servers(servers) => Arc::new(S3Blobs::new(&servers.s3).unwrap()),
        }
    }

    /// The files of the platform in `folder`, and how large each is. Of those in an S3, nothing: there the rows in the
    /// database are what counts.
    ///
    /// # Panics
    /// When they cannot be read.
    #[must_use]
    pub fn files(&self, folder: &TempDir) -> Vec<(PathBuf, u64)> {
        let mut folders = match self {
            Self::BuiltIn => vec![folder.path().join("blobs")],
            Self::Servers(_) => Vec::new(),
        };
        let mut files = Vec::new();
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let entry = entry.unwrap();
                if entry.file_type().unwrap().is_dir() {
                    folders.push(entry.path());
                } else {
                    files.push((entry.path(), entry.metadata().unwrap().len()));
                }
            }
        }
        files.sort();
        files
    }

    /// The same for the real binary: variables of its environment.
    #[must_use]
    pub fn environment(&self) -> Vec<(String, String)> {
        let Self::Servers(servers) = self else { return Vec::new() };
        let node = &servers.redis.nodes[0];
        let variables = [
            ("DB_HOST", "127.0.0.1".to_owned()),
            ("DB_PORT", servers.database.port().to_string()),
            ("DB_NAME", servers.database.name().to_owned()),
            ("DB_USER", servers.database.owner().to_owned()),
            ("REDIS_HOST", node.host.clone()),
            ("REDIS_PORT", node.port.to_string()),
            ("ASTRFLEET__REDIS__PREFIX", servers.redis.prefix.clone()),
            ("ASTRFLEET__BLOBS__ENDPOINT", servers.s3.endpoint.clone()),
            ("ASTRFLEET__BLOBS__REGION", servers.s3.region.clone()),
            ("ASTRFLEET__BLOBS__BUCKET", servers.s3.bucket.clone()),
            ("MINIO_ACCESS_KEY", servers.s3.access_key.expose_secret().to_owned()),
            ("MINIO_SECRET_KEY", servers.s3.secret_key.expose_secret().to_owned()),
        ];
        variables.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

impl Servers {
    async fn new() -> Self {
        static REDIS: OnceCell<Redis> = OnceCell::const_new();
        static S3_STORAGE: OnceCell<S3> = OnceCell::const_new();
        let database = Postgres::shared().await.database().await;
        // Unique on this server, and made of letters that a prefix and a bucket may have.
        let name = database.name().replace('_', "-");
        let redis = REDIS.get_or_init(Redis::start).await.settings();
        let s3 = S3_STORAGE.get_or_init(S3::seaweed).await.bucket(&name).await;
        Self { database, redis: RedisSettings { prefix: name, ..redis }, s3 }
    }

    fn redis(&self) -> RedisClient {
        RedisClient::new(self.redis.clone()).unwrap()
    }
}
