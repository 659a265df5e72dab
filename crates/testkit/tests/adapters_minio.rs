//! The blobs on MinIO: `make test ARGS="-p astrfleet-testkit --features minio"`.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail where they stand")]

mod s3;

use std::time::Duration;

use astrfleet_adapters::blobs::{Encryption, S3Blobs, S3Settings};
use astrfleet_core::ports::Blobs as _;
use astrfleet_testkit::{contract, s3::S3};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use secrecy::ExposeSecret as _;

#[tokio::test]
async fn minio() {
    s3::all(&S3::minio().await).await;
}

#[tokio::test]
async fn minio_encrypts() {
    let storage = S3::minio().await;
    for (encryption, said) in [(Encryption::Aes256, "AES256"), (Encryption::Kms("test-key".to_owned()), "aws:kms")] {
        let settings = S3Settings { encryption, ..storage.settings() };
        let blobs = S3Blobs::new(&settings).unwrap();
        contract::blobs::all(&blobs).await;
        let content = stream::iter([Ok(Bytes::from_static(b"secret"))]).boxed();
        blobs.put("encrypted", content, 100).await.unwrap();
        let address = blobs.presigned("encrypted", "file", Duration::from_mins(1)).await.unwrap().unwrap();
        let answer = reqwest::get(address.expose_secret()).await.unwrap();
        assert_eq!(answer.headers()["x-amz-server-side-encryption"], said, "what the object says of itself");
    }
    let settings = S3Settings { encryption: Encryption::Kms("no such key".to_owned()), ..storage.settings() };
    S3Blobs::new(&settings).unwrap().check().await.expect_err("the key is asked for");
}
