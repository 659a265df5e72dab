//! The blobs on a real S3: `SeaweedFS`. MinIO, which takes minutes to build, is in `adapters_minio.rs`.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail where they stand")]

mod s3;

use astrfleet_testkit::s3::S3;

#[tokio::test]
async fn seaweedfs() {
    s3::all(&S3::seaweed().await).await;
}
