//! Blobs in a bucket of any S3. An object is there whole or not at all: what is small goes in one request, what is not
//! in parts that nobody sees before they are put together. Every part carries its SHA-256, which the storage checks.
//!
//! Nothing is listed but below a prefix that is to be erased. Keys lie in the bucket as they lie in a folder: `a` is the
//! object `a~`, since some implementations are folders inside and take no `a` beside `a/b`. Where a bucket keeps
//! versions, erasing leaves the old ones: give such a bucket a rule that ends non-current versions, and any bucket one
//! that ends parts of unfinished uploads (a killed process leaves them behind).

mod connector;
mod upload;

use std::{path::Path as FilePath, sync::Arc, time::Duration};

use astrfleet_core::{
    Error, Result,
    attachment::content_disposition,
    ports::{BlobStream, Blobs},
};
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use object_store::{
    BackoffConfig, ObjectStore, ObjectStoreExt as _, PutPayload, RetryConfig,
    aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey, Checksum},
    path::Path,
    signer::{SignedUrlOptions, Signer as _},
};
use secrecy::{ExposeSecret, SecretString};

use self::{connector::Connector, upload::Upload};
use super::key::{file_of, folder_of};

const WHAT: &str = "the storage of files";
/// The longest that S3 lets a presigned address live.
const PRESIGNED_MAX: Duration = Duration::from_hours(7 * 24);
/// S3's word for a bucket that is not there.
const NO_BUCKET: &str = "NoSuchBucket";
/// Rounds of looking for what came in while a prefix was being erased.
const ERASE_ROUNDS_MAX: u32 = 8;

/// How objects are encrypted where they lie.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Encryption {
    /// As the bucket says.
    #[default]
    Bucket,
    /// By the storage's own key: SSE-S3.
    Aes256,
    /// By a key of its key management: SSE-KMS.
    Kms(String),
}

/// How to reach a bucket.
#[derive(Clone, Debug)]
pub struct S3Settings {
    /// `https://s3.eu-central-1.amazonaws.com`, `http://minio:9000`.
    pub endpoint: String,
    /// The region that requests are signed for.
    pub region: String,
    /// The bucket, which must be there.
    pub bucket: String,
    /// Whether the bucket stands in the host name.
    pub virtual_hosted: bool,
    /// Whose bucket it is.
    pub access_key: SecretString,
    /// The proof of that.
    pub secret_key: SecretString,
    /// How objects are encrypted.
    pub encryption: Encryption,
    /// Authorities to trust in PEM, besides those of the system.
    pub ca_pem: Option<Vec<u8>>,
    /// Whether addresses of it may be given away: whoever downloads has to reach it too.
    pub presign: bool,
    /// How long nothing may come before a request is given up.
    pub timeout: Duration,
}

/// Stores in one bucket.
pub struct S3Blobs {
    store: Arc<AmazonS3>,
    presign: bool,
}

impl S3Blobs {
    /// Nothing is connected yet: a start must not fail because the storage is away.
    ///
    /// # Errors
    /// [`Error::Invalid`] where the settings cannot be meant.
    pub fn new(settings: &S3Settings) -> Result<Self> {
        if [&settings.access_key, &settings.secret_key].into_iter().any(|key| key.expose_secret().is_empty()) {
            return Err(Error::invalid("blobs", "both keys are needed: set MINIO_ACCESS_KEY and MINIO_SECRET_KEY"));
        }
        let retry = RetryConfig {
            backoff: BackoffConfig { max_backoff: Duration::from_secs(2), ..BackoffConfig::default() },
            max_retries: 3,
            retry_timeout: settings.timeout.saturating_mul(2),
        };
        let mut builder = AmazonS3Builder::new()
            .with_endpoint(settings.endpoint.trim_end_matches('/'))
            .with_allow_http(settings.endpoint.starts_with("http://"))
            .with_region(&settings.region)
            .with_bucket_name(&settings.bucket)
            .with_virtual_hosted_style_request(settings.virtual_hosted)
            .with_access_key_id(settings.access_key.expose_secret())
            .with_secret_access_key(settings.secret_key.expose_secret())
            .with_checksum_algorithm(Checksum::SHA256)
            .with_retry(retry)
            .with_http_connector(Connector::new(settings)?);
        match &settings.encryption {
            Encryption::Bucket => {}
            Encryption::Aes256 => {
                let key: AmazonS3ConfigKey = "aws_server_side_encryption".parse().map_err(Error::internal)?;
                builder = builder.with_config(key, "AES256");
            }
            Encryption::Kms(key) => builder = builder.with_sse_kms_encryption(key),
        }
        let store = builder.build().map_err(|error| Error::invalid("blobs", error.to_string()))?;
        Ok(Self { store: Arc::new(store), presign: settings.presign })
    }

    /// Writes, reads and deletes something small, as what is configured will be used.
    ///
    /// # Errors
    /// [`Error::Unavailable`] with the cause.
    pub async fn check(&self) -> Result<()> {
        let path = Path::from("astrfleet-check");
        let content = Bytes::from_static(b"astrfleet");
        self.store.put(&path, PutPayload::from_bytes(content.clone())).await.map_err(away)?;
        let read = self.store.get(&path).await.map_err(away)?.bytes().await.map_err(away)?;
        self.store.delete(&path).await.map_err(away)?;
        if read != content {
            return Err(Error::unavailable(WHAT, "what was read is not what was written"));
        }
        Ok(())
    }

    /// Deletes what is below `prefix` now. Whether there was anything.
    async fn erase(&self, prefix: &Path) -> Result<bool> {
        let below = format!("{prefix}/");
        let listed = self.store.list(Some(prefix)).map_ok(|object| object.location);
        // The listing is the storage's word: what it names beside the prefix is not touched.
        let ours = listed.try_filter(move |path| std::future::ready(path.as_ref().starts_with(&below)));
        let deleted = self.store.delete_stream(ours.boxed()).try_fold(0_u64, async |count, _| Ok(count + 1)).await;
        Ok(deleted.map_err(failed)? > 0)
    }
}

#[async_trait::async_trait]
impl Blobs for S3Blobs {
    async fn put(&self, key: &str, mut content: BlobStream, max_bytes: u64) -> Result<u64> {
        let mut upload = Upload::new(Arc::clone(&self.store), object(key)?);
        let mut size = 0_u64;
        while let Some(piece) = content.next().await {
            let Ok(piece) = piece else {
                upload.give_up().await;
                return Err(Error::invalid("body", "it ended before all of it had come: send it again"));
            };
            size += piece.len() as u64;
            if size > max_bytes {
                upload.give_up().await;
                return Err(Error::TooLarge { what: "the file", limit_bytes: max_bytes });
            }
            upload.take(piece).await.map_err(away)?;
        }
        upload.finish().await.map_err(away)?;
        Ok(size)
    }

    async fn get(&self, key: &str) -> Result<BlobStream> {
        // A connection that breaks is taken up where it broke, by a range of the same object.
        let found = self.store.get(&object(key)?).await.map_err(failed)?;
        Ok(found.into_stream().map_err(std::io::Error::other).boxed())
    }

    async fn delete(&self, key: &str) -> Result<()> {
        match self.store.delete(&object(key)?).await {
            Ok(()) => Ok(()),
            Err(error) => match failed(error) {
                Error::NotFound { .. } => Ok(()),
                error => Err(error),
            },
        }
    }

    async fn delete_all(&self, prefix: &str) -> Result<()> {
        let prefix = path(&folder_of(FilePath::new(""), prefix)?)?;
        for _ in 0..ERASE_ROUNDS_MAX {
            if !self.erase(&prefix).await? {
                return Ok(());
            }
        }
        Err(Error::unavailable(WHAT, "something comes in as fast as it is erased"))
    }

    async fn presigned(&self, key: &str, name: &str, ttl: Duration) -> Result<Option<SecretString>> {
        if ttl < Duration::from_secs(1) || ttl > PRESIGNED_MAX {
            return Err(Error::invalid("ttl", "an address lives for one second to seven days"));
        }
        if !self.presign {
            object(key)?;
            return Ok(None);
        }
        // Whatever the object says it is, a browser saves it and does not show it.
        let disposition = content_disposition(name);
        let as_file = SignedUrlOptions::default().with_query([("response-content-disposition", &*disposition)]);
        let signed = self.store.signed_url_opts(http::Method::GET, &object(key)?, ttl, &as_file).await;
        Ok(Some(signed.map_err(failed)?.to_string().into()))
    }
}

fn object(key: &str) -> Result<Path> {
    path(&file_of(FilePath::new(""), key)?)
}

fn path(path: &FilePath) -> Result<Path> {
    let text = path.to_str().ok_or_else(|| Error::invalid("key", "a key is text"))?;
    Path::parse(text).map_err(Error::internal)
}

/// What is looked for may not be there; where the bucket is not, nothing can be said of it.
fn failed(error: object_store::Error) -> Error {
    match error {
        object_store::Error::NotFound { source, .. } if !source.to_string().contains(NO_BUCKET) => {
            Error::NotFound { what: "file" }
        }
        error => away(error),
    }
}

/// Nothing is looked for: what is not found is the bucket, or an upload that somebody ended.
fn away(error: object_store::Error) -> Error {
    Error::unavailable(WHAT, error)
}
