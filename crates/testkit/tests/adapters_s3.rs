//! The blobs on a real S3: `SeaweedFS`. MinIO, which takes minutes to build, is in `adapters_minio.rs`. And on one that says
//! what it was sent, since a storage that is sent no checksum has nothing to complain of.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail where they stand")]

mod s3;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use astrfleet_adapters::blobs::{Encryption, S3Blobs, S3Settings};
use astrfleet_core::{Error, ports::Blobs as _};
use astrfleet_testkit::s3::S3;
use aws_lc_rs::digest;
use axum::{
    Router,
    body::Bytes,
    http::{HeaderMap, Method, StatusCode, Uri},
    response::IntoResponse as _,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures_util::{StreamExt as _, stream};

#[tokio::test]
async fn seaweedfs() {
    s3::all(&S3::seaweed().await).await;
}

/// What a storage was sent.
#[derive(Debug)]
struct Sent {
    method: Method,
    target: String,
    headers: HeaderMap,
    body: Bytes,
}

/// A storage that takes everything and keeps nothing, or has no bucket.
async fn storage(has_bucket: bool, encryption: Encryption) -> (S3Blobs, Arc<Mutex<Vec<Sent>>>) {
    let all: Arc<Mutex<Vec<Sent>>> = Arc::default();
    let kept = Arc::clone(&all);
    let answer = move |method: Method, uri: Uri, headers: HeaderMap, body: Bytes| {
        let target = uri.path_and_query().unwrap().to_string();
        let text = match (has_bucket, &method) {
            (false, _) => "<Error><Code>NoSuchBucket</Code><Message>It is not there</Message></Error>",
            (true, &Method::POST) if target.contains("uploadId=") => {
                "<CompleteMultipartUploadResult><ETag>x</ETag></CompleteMultipartUploadResult>"
            }
            (true, &Method::POST) => {
                "<InitiateMultipartUploadResult><UploadId>one</UploadId></InitiateMultipartUploadResult>"
            }
            (true, _) => "",
        };
        kept.lock().unwrap().push(Sent { method, target, headers, body });
        let status = if has_bucket { StatusCode::OK } else { StatusCode::NOT_FOUND };
        async move { (status, [("etag", "x")], text).into_response() }
    };
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().fallback(answer).layer(axum::extract::DefaultBodyLimit::disable());
    tokio::spawn(async move { axum::serve(listener, router).await });
    let settings = S3Settings {
        endpoint,
        region: "us-east-1".to_owned(),
        bucket: "astrfleet".to_owned(),
        virtual_hosted: false,
        access_key: "a key".into(),
        secret_key: "a secret".into(),
        encryption,
        ca_pem: None,
        presign: false,
        timeout: Duration::from_secs(30),
    };
    (S3Blobs::new(&settings).unwrap(), all)
}

#[tokio::test]
async fn whatever_is_stored_has_its_checksum_and_says_how_it_is_encrypted() {
    for (encryption, said) in [(Encryption::Bucket, None), (Encryption::Aes256, Some("AES256"))] {
        let (blobs, sent) = storage(true, encryption).await;
        for pieces in [1_usize, 20] {
            let content = stream::iter((0..pieces).map(|_| Ok(Bytes::from(vec![b'x'; 1024 * 1024]))));
            blobs.put("checked", content.boxed(), u64::MAX).await.unwrap();
        }
        let sent = std::mem::take(&mut *sent.lock().unwrap());
        let stored: Vec<&Sent> = sent.iter().filter(|one| one.method == Method::PUT).collect();
        assert_eq!(stored.len(), 4, "one whole, and one in three parts");
        for one in &stored {
            let sum = STANDARD.encode(digest::digest(&digest::SHA256, &one.body));
            assert_eq!(one.headers["x-amz-checksum-sha256"], sum, "{}", one.target);
        }
        // Of a whole object, and of one that begins: its parts are as it is.
        let begun = sent.iter().filter(|one| !one.target.contains("uploadId="));
        let encryptions: Vec<_> = begun.map(|one| one.headers.get("x-amz-server-side-encryption")).collect();
        assert_eq!(encryptions.len(), 2);
        for header in encryptions {
            assert_eq!(header.and_then(|value| value.to_str().ok()), said);
        }
    }
}

#[tokio::test]
async fn a_bucket_that_is_missing_is_a_storage_that_is_away() {
    let (blobs, _) = storage(false, Encryption::Bucket).await;
    let is_away = |error: Error| assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
    let content = || stream::iter([Ok(Bytes::from_static(b"some"))]).boxed();
    is_away(blobs.put("a", content(), 100).await.unwrap_err());
    is_away(blobs.get("a").await.err().unwrap());
    is_away(blobs.delete("a").await.unwrap_err());
    is_away(blobs.delete_all("a/").await.unwrap_err());
    is_away(blobs.check().await.unwrap_err());
}
