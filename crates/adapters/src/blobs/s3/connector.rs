//! The HTTP client that S3 is spoken to with: the one that this program has anyway. The library's own connector would
//! bring HTTP/2 into every client here.

use std::{error::Error as StdError, time::Duration};

use astrfleet_core::{Error, Result};
use http_body_util::BodyExt as _;
use object_store::{
    ClientOptions,
    client::{
        HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody, HttpService,
    },
};

use super::S3Settings;

/// How long it may take to reach the storage.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Hands out the client.
#[derive(Debug)]
pub(super) struct Connector(Client);

#[derive(Clone, Debug)]
struct Client(reqwest::Client);

impl Connector {
    pub(super) fn new(settings: &S3Settings) -> Result<Self> {
        let mut builder = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT.min(settings.timeout))
            .read_timeout(settings.timeout)
            .redirect(reqwest::redirect::Policy::none());
        if let Some(pem) = &settings.ca_pem {
            let certificates = reqwest::Certificate::from_pem_bundle(pem);
            let certificates = certificates.map_err(|error| Error::invalid("blobs.ca_file", error.to_string()))?;
            builder = builder.tls_certs_merge(certificates);
        }
        Ok(Self(Client(builder.build().map_err(|error| Error::invalid("blobs", error.to_string()))?)))
    }
}

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.0.clone()))
    }
}

#[async_trait::async_trait]
impl HttpService for Client {
    async fn call(&self, request: HttpRequest) -> std::result::Result<HttpResponse, HttpError> {
        let (parts, body) = request.into_parts();
        let url = parts.uri.to_string().parse::<reqwest::Url>();
        let url = url.map_err(|error| HttpError::new(HttpErrorKind::Unknown, error))?;
        let mut request = reqwest::Request::new(parts.method, url);
        *request.headers_mut() = parts.headers;
        *request.body_mut() = Some(reqwest::Body::wrap(body));
        let answer: http::Response<reqwest::Body> = self.0.execute(request).await.map_err(failed)?.into();
        let (parts, body) = answer.into_parts();
        Ok(HttpResponse::from_parts(parts, HttpResponseBody::new(body.map_err(failed))))
    }
}

/// What kind of failure it is: the library repeats those that cannot have done anything, and idempotent requests.
fn failed(error: reqwest::Error) -> HttpError {
    let kind = if error.is_timeout() {
        HttpErrorKind::Timeout
    } else if error.is_connect() {
        HttpErrorKind::Connect
    } else if error.is_decode() {
        HttpErrorKind::Decode
    } else if causes(&error).any(is_interruption) {
        HttpErrorKind::Interrupted
    } else {
        HttpErrorKind::Unknown
    };
    // The library names the address itself where it holds no signature.
    HttpError::new(kind, error.without_url())
}

fn causes<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    let mut next = error.source();
    std::iter::from_fn(move || {
        let cause = next?;
        next = cause.source();
        Some(cause)
    })
}

fn is_interruption(cause: &(dyn StdError + 'static)) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    let Some(cause) = cause.downcast_ref::<std::io::Error>() else {
        // hyper's own word for a connection that ended before the answer did; its type is not ours to name.
        return cause.to_string().contains("connection closed before message completed");
    };
    matches!(cause.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}
