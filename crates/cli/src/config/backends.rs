//! The sections of the backends that may lie elsewhere, and what they mean to the adapters. Nothing is connected here.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result, bail};
use astrfleet_adapters::{
    blobs::{Encryption, S3Settings},
    redis::{RedisSettings, Topology, nodes},
};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

/// Section `[redis]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedisConfig {
    /// `REDIS_HOST`; empty: none.
    pub host: String,
    /// `REDIS_PORT`
    pub port: u16,
    /// The user; empty: the default one.
    pub username: String,
    /// `REDIS_PASSWORD`
    pub password: SecretString,
    /// What the hosts are.
    pub mode: RedisMode,
    /// The name under which sentinels watch the master.
    pub sentinel_master: String,
    /// Of the sentinels themselves.
    pub sentinel_password: SecretString,
    /// The number of the database.
    pub database: i64,
    /// Speak TLS.
    pub tls: bool,
    /// Authorities to trust; empty: the system's.
    pub ca_file: String,
    /// What keys and channels begin with.
    pub prefix: String,
    /// How long an answer may take.
    pub timeout_ms: u64,
    /// Gateways that share every limit.
    pub replicas: u32,
}

/// What stands behind the hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RedisMode {
    /// One server.
    Single,
    /// Nodes of a cluster.
    Cluster,
    /// Sentinels.
    Sentinel,
}

/// Section `[blobs]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlobsConfig {
    /// Of an S3; empty: the data folder.
    pub endpoint: String,
    /// Its region.
    pub region: String,
    /// The bucket.
    pub bucket: String,
    /// The bucket is part of the host name.
    pub virtual_hosted: bool,
    /// `MINIO_ACCESS_KEY`
    pub access_key: SecretString,
    /// `MINIO_SECRET_KEY`
    pub secret_key: SecretString,
    /// How objects are encrypted.
    pub encryption: BlobEncryption,
    /// The key's name, for `kms`.
    pub kms_key: String,
    /// Authorities to trust besides the system's.
    pub ca_file: String,
    /// Whether downloads are sent to it.
    pub presign: bool,
    /// How long nothing may come.
    pub timeout_s: u64,
}

/// How objects are encrypted where they lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BlobEncryption {
    /// As the bucket says.
    Bucket,
    /// SSE-S3.
    Aes256,
    /// SSE-KMS.
    Kms,
}

impl RedisConfig {
    /// What to reach; nothing where no host is given.
    ///
    /// # Errors
    /// Where the section cannot be meant: the text names the key.
    pub fn settings(&self) -> Result<Option<RedisSettings>> {
        if self.host.is_empty() {
            return Ok(None);
        }
        if self.replicas == 0 {
            bail!("redis.replicas is 0: at least this process shares the limits");
        }
        Ok(Some(RedisSettings {
            nodes: nodes(&self.host, self.port)?,
            topology: match self.mode {
                RedisMode::Single => Topology::Single,
                RedisMode::Cluster => Topology::Cluster,
                RedisMode::Sentinel => Topology::Sentinel {
                    master: self.sentinel_master.clone(),
                    password: self.sentinel_password.clone(),
                },
            },
            username: self.username.clone(),
            password: self.password.clone(),
            database: self.database,
            tls: self.tls,
            ca_pem: pem("redis.ca_file", &self.ca_file)?,
            prefix: self.prefix.clone(),
            timeout: Duration::from_millis(self.timeout_ms),
        }))
    }
}

impl BlobsConfig {
    /// What to reach; nothing where no endpoint is given.
    ///
    /// # Errors
    /// Where the section cannot be meant: the text names the key.
    pub fn settings(&self) -> Result<Option<S3Settings>> {
        if self.endpoint.is_empty() {
            return Ok(None);
        }
        let url: reqwest::Url = self.endpoint.parse().context("blobs.endpoint is no address")?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            bail!("blobs.endpoint is {:?}: write http://host:port or https://host", self.endpoint);
        }
        if self.access_key.expose_secret().is_empty() || self.secret_key.expose_secret().is_empty() {
            bail!("blobs.endpoint is set, and its keys are not: set MINIO_ACCESS_KEY and MINIO_SECRET_KEY");
        }
        if self.bucket.is_empty() {
            bail!("blobs.endpoint is set, and blobs.bucket is empty");
        }
        if self.timeout_s == 0 {
            bail!("blobs.timeout_s is 0: an answer needs some time");
        }
        Ok(Some(S3Settings {
            endpoint: self.endpoint.clone(),
            region: self.region.clone(),
            bucket: self.bucket.clone(),
            virtual_hosted: self.virtual_hosted,
            access_key: self.access_key.clone(),
            secret_key: self.secret_key.clone(),
            encryption: match self.encryption {
                BlobEncryption::Bucket => Encryption::Bucket,
                BlobEncryption::Aes256 => Encryption::Aes256,
                BlobEncryption::Kms if self.kms_key.is_empty() => {
                    bail!("blobs.encryption is kms: name the key in blobs.kms_key")
                }
                BlobEncryption::Kms => Encryption::Kms(self.kms_key.clone()),
            },
            ca_pem: pem("blobs.ca_file", &self.ca_file)?,
            presign: self.presign,
            timeout: Duration::from_secs(self.timeout_s),
        }))
    }
}

fn pem(key: &str, file: &str) -> Result<Option<Vec<u8>>> {
    if file.is_empty() {
        return Ok(None);
    }
    Ok(Some(std::fs::read(Path::new(file)).with_context(|| format!("{key}: {file} cannot be read"))?))
}
