//! The blobs on a real S3: `SeaweedFS`. MinIO, which takes minutes to build, is in `adapters_minio.rs`.

mod s3;

use astrfleet_testkit::s3::S3;

#[tokio::test]
async fn seaweedfs() {
    s3::all(&S3::seaweed().await).await;
}
