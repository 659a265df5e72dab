//! Real S3 storages as child processes, each with one bucket: SeaweedFS, and MinIO, which is a program of another
//! licence, built from its published module and never linked.

use std::{ffi::OsString, time::Duration};

use astrfleet_adapters::blobs::{Encryption, S3Settings};
use object_store::{
    aws::AmazonS3Builder,
    path::Path,
    signer::{SignedUrlOptions, Signer as _},
};
use reqwest::{Method, StatusCode};

use crate::{kept::Kept, parts::find, ports::free_port};

const ACCESS_KEY: &str = "astrfleet-test";
const SECRET_KEY: &str = "a secret of tests alone";
const REGION: &str = "us-east-1";
const BUCKET: &str = "astrfleet";
/// How long one question whether it is there may take.
const LOOK_LIMIT: Duration = Duration::from_secs(5);

/// A storage that runs.
pub struct S3 {
    server: Kept,
    port: u16,
}

impl S3 {
    /// `SeaweedFS`.
    pub async fn seaweed() -> Self {
        let server = Kept::new("weed", find("weed"));
        let config = server.folder().join("s3.json");
        let text = format!(
            r#"{{"identities":[{{"name":"test","actions":["Admin","Read","Write","List"],
            "credentials":[{{"accessKey":"{ACCESS_KEY}","secretKey":"{SECRET_KEY}"}}]}}]}}"#
        );
        std::fs::write(&config, text).unwrap();
        let port = free_port();
        let mut arguments: Vec<OsString> = vec!["mini".into(), dir("-dir=", server.folder())];
        arguments.push(dir("-s3.config=", &config));
        arguments.push(format!("-s3.port={port}").into());
        for other in ["s3", "master", "volume", "filer"] {
            arguments.push(format!("-{other}.port.grpc={}", free_port()).into());
        }
        for other in ["master", "volume", "filer"] {
            arguments.push(format!("-{other}.port={}", free_port()).into());
        }
        // Both addresses: otherwise it binds to whatever the machine has.
        for fixed in ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3.port.iceberg=0", "-s3.port.lance=0"] {
            arguments.push(fixed.into());
        }
        arguments.extend(["-admin.ui=false".into(), "-webdav=false".into()]);
        Self::started(Self { server: server.args(arguments), port }).await
    }

    /// MinIO.
    pub async fn minio() -> Self {
        let server = Kept::new("minio", find("minio"));
        let port = free_port();
        let data = server.folder().join("data");
        let server = server
            .args(["server".into(), "--quiet".into(), "--address".into(), OsString::from(format!("127.0.0.1:{port}"))])
            .args([data])
            .env("MINIO_ROOT_USER", ACCESS_KEY)
            .env("MINIO_ROOT_PASSWORD", SECRET_KEY)
            .env("MINIO_BROWSER", "off")
            // A key management of one key, so that objects can be encrypted.
            .env("MINIO_KMS_SECRET_KEY", "test-key:MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=");
        Self::started(Self { server, port }).await
    }

    async fn started(self) -> Self {
        self.server.start();
        let client = reqwest::Client::new();
        let is_made = async || {
            let address = self.address_to(Method::PUT, BUCKET, "", &[]).await;
            let answer = client.put(address).timeout(LOOK_LIMIT).send().await;
            answer.is_ok_and(|answer| answer.status().is_success() || answer.status() == StatusCode::CONFLICT)
        };
        self.server.wait_until("the storage", is_made).await;
        self.keeps_objects().await;
        self
    }

    /// Waits until it does. `SeaweedFS` knows its buckets before it has found its disks again, and answers 500 meanwhile.
    async fn keeps_objects(&self) {
        let client = reqwest::Client::new();
        let keeps_one = async || {
            for method in [Method::PUT, Method::GET, Method::DELETE] {
                let address = self.address_to(method.clone(), BUCKET, "is-it-there", &[]).await;
                let answer = client.request(method, address).timeout(LOOK_LIMIT).send().await;
                if !answer.is_ok_and(|answer| answer.status().is_success()) {
                    return false;
                }
            }
            true
        };
        self.server.wait_until("the storage's disks", keeps_one).await;
    }

    /// Where that is done with an object, or with the bucket itself where none is named, for a minute.
    async fn address_to(&self, method: Method, bucket: &str, object: &str, query: &[(&str, &str)]) -> reqwest::Url {
        let builder = AmazonS3Builder::new().with_endpoint(self.endpoint()).with_allow_http(true).with_region(REGION);
        let keys = builder.with_access_key_id(ACCESS_KEY).with_secret_access_key(SECRET_KEY);
        let signer = keys.with_bucket_name(bucket).with_http_connector(Nobody).build().unwrap();
        let query = SignedUrlOptions::default().with_query(query.iter().copied());
        signer.signed_url_opts(method, &Path::from(object), Duration::from_mins(1), &query).await.unwrap()
    }

    /// How many uploads of an object were begun and neither finished nor given up: their parts take up room.
    ///
    /// # Panics
    /// When it does not say.
    pub async fn unfinished(&self, object: &str) -> usize {
        // MinIO tells of one object's alone.
        let query = [("uploads", ""), ("prefix", object)];
        let address = self.address_to(Method::GET, BUCKET, "", &query).await;
        let answer = reqwest::Client::new().get(address).timeout(LOOK_LIMIT).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        let text = answer.text().await.unwrap();
        assert!(text.contains("ListMultipartUploadsResult"), "{text}");
        text.matches("<UploadId>").count()
    }

    /// Makes another bucket, and says how to reach it.
    ///
    /// # Panics
    /// When it is not made.
    pub async fn bucket(&self, name: &str) -> S3Settings {
        let address = self.address_to(Method::PUT, name, "", &[]).await;
        let answer = reqwest::Client::new().put(address).timeout(Duration::from_secs(30)).send().await.unwrap();
        assert!(answer.status().is_success(), "a bucket was refused: {answer:?}");
        S3Settings { bucket: name.to_owned(), ..self.settings() }
    }

    fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// How to reach its bucket.
    #[must_use]
    pub fn settings(&self) -> S3Settings {
        S3Settings {
            endpoint: self.endpoint(),
            region: REGION.to_owned(),
            bucket: BUCKET.to_owned(),
            virtual_hosted: false,
            access_key: ACCESS_KEY.into(),
            secret_key: SECRET_KEY.into(),
            encryption: Encryption::Bucket,
            ca_pem: None,
            presign: true,
            timeout: Duration::from_secs(5),
        }
    }

    /// Kills it at once.
    pub fn kill(&self) {
        self.server.kill();
    }

    /// Starts it again with what it had.
    pub async fn restart(&self) {
        self.server.start();
        self.keeps_objects().await;
    }
}

fn dir(flag: &str, path: &std::path::Path) -> OsString {
    let mut argument = OsString::from(flag);
    argument.push(path);
    argument
}

/// Signing needs no connection.
#[derive(Debug)]
struct Nobody;

#[derive(Debug)]
struct NoService;

impl object_store::client::HttpConnector for Nobody {
    fn connect(&self, _: &object_store::ClientOptions) -> object_store::Result<object_store::client::HttpClient> {
        Ok(object_store::client::HttpClient::new(NoService))
    }
}

#[async_trait::async_trait]
impl object_store::client::HttpService for NoService {
    async fn call(
        &self,
        _: object_store::client::HttpRequest,
    ) -> Result<object_store::client::HttpResponse, object_store::client::HttpError> {
        let refused = std::io::Error::other("only addresses are signed here");
        Err(object_store::client::HttpError::new(object_store::client::HttpErrorKind::Unknown, refused))
    }
}
