//! The blobs on MinIO: `make test ARGS="-p astrfleet-testkit --features minio"`.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail where they stand")]

mod s3;

use astrfleet_adapters::blobs::{Encryption, S3Blobs, S3Settings};
use astrfleet_testkit::{contract, s3::S3};

#[tokio::test]
async fn minio() {
    s3::all(&S3::minio().await).await;
}

#[tokio::test]
async fn minio_encrypts() {
    let storage = S3::minio().await;
    for encryption in [Encryption::Aes256, Encryption::Kms("test-key".to_owned())] {
        let settings = S3Settings { encryption, ..storage.settings() };
        contract::blobs::all(&S3Blobs::new(&settings).unwrap()).await;
    }
    let settings = S3Settings { encryption: Encryption::Kms("no such key".to_owned()), ..storage.settings() };
    S3Blobs::new(&settings).unwrap().check().await.expect_err("the key is asked for");
}
