//! Large things: attachments now, exports and backups later.

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use secrecy::SecretString;

use crate::error::Result;

/// Content in pieces.
pub type BlobStream = BoxStream<'static, std::io::Result<Bytes>>;

/// Stores content under keys such as `ten_…/attachments/att_…`. A key has 1 to 512 of a-z, A-Z, 0-9, `_`, `-`, `.`
/// and `/`, and no part that is `.` or `..`.
#[async_trait::async_trait]
pub trait Blobs: Send + Sync {
    /// Stores all of `content`, or nothing: a reader never sees a part of it. Returns its size in bytes.
    ///
    /// # Errors
    /// [`crate::Error::TooLarge`] beyond `max_bytes`; [`crate::Error::Unavailable`], also for a full disk.
    async fn put(&self, key: &str, content: BlobStream, max_bytes: u64) -> Result<u64>;
    /// Reads.
    ///
    /// # Errors
    /// [`crate::Error::NotFound`].
    async fn get(&self, key: &str) -> Result<BlobStream>;
    /// Deletes. What is not there is deleted already.
    async fn delete(&self, key: &str) -> Result<()>;
    /// Deletes everything whose key begins with `prefix`, which ends with `/`.
    async fn delete_all(&self, prefix: &str) -> Result<()>;
    /// An address from which whoever has it may read `key` until `ttl` (at most seven days) is over, without us. A browser
    /// saves what is there as a file called `name`, and does not show it. None where the storage has no such thing. It is
    /// a secret for as long; whether `key` is there is not looked up.
    ///
    /// # Errors
    /// [`crate::Error::Invalid`] for a key or a `ttl` that cannot be.
    async fn presigned(&self, key: &str, name: &str, ttl: Duration) -> Result<Option<SecretString>>;
}
