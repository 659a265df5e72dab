//! Calls to other processes of the platform, signed. Connections are kept and used again. Nothing is tried twice here:
//! the caller knows whether that is safe.

use std::{sync::Arc, time::Duration};

use astrfleet_core::{Error, Result, ports::Clock};
use axum::http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use serde::{Serialize, de::DeserializeOwned};

use super::{IDENTITY, Identity, Signer};
use crate::config::{GatewayConfig, seconds};

/// The body of an answer, as it comes.
pub type Body = hyper::body::Incoming;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Connections to one process that wait for the next call.
const IDLE_MAX: usize = 64;
const IDLE_FOR: Duration = Duration::from_secs(30);
/// What is called, for errors.
const WHAT: &str = "another process of the platform";

/// The way to other processes of the platform.
#[derive(Clone)]
pub struct Peers {
    signer: Arc<Signer>,
    clock: Arc<dyn Clock>,
    client: Client<HttpConnector, Full<Bytes>>,
    /// How long an answer may take to begin.
    answer_timeout: Duration,
}

impl Peers {
    /// With no connection yet.
    #[must_use]
    pub fn new(signer: Arc<Signer>, clock: Arc<dyn Clock>, config: &GatewayConfig) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_FOR)
            .pool_max_idle_per_host(IDLE_MAX)
            .build(connector);
        Self { signer, clock, client, answer_timeout: seconds(config.upstream_timeout_s) }
    }

    /// `GET` of a path and query at the process whose [`super::Replica::url`] is given. The body of the answer streams, and
    /// dropping it ends the call. An answer that is no success is an answer, too.
    ///
    /// # Errors
    /// [`Error::Unavailable`] where no answer begins in time.
    pub async fn get(&self, base_url: &str, target: &str, headers: HeaderMap) -> Result<Response<Body>> {
        self.call(Method::GET, base_url, target, headers, Bytes::new()).await
    }

    /// `POST` of some JSON, as above.
    ///
    /// # Errors
    /// [`Error::Unavailable`] where no answer begins in time: whether the call was acted upon is not known then.
    pub async fn post_json(
        &self,
        base_url: &str,
        target: &str,
        body: &(impl Serialize + Sync),
    ) -> Result<Response<Body>> {
        let body = serde_json::to_vec(body).map_err(Error::internal)?;
        let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
        self.call(Method::POST, base_url, target, headers, body.into()).await
    }

    async fn call(
        &self,
        method: Method,
        base_url: &str,
        target: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response<Body>> {
        let identity = self.signer.sign(&Identity::default(), &method, target, self.clock.now());
        let uri = format!("{}{target}", base_url.trim_end_matches('/'));
        let mut request = Request::builder().method(method).uri(uri).body(Full::new(body)).map_err(Error::internal)?;
        *request.headers_mut() = headers;
        request.headers_mut().insert(IDENTITY, identity);
        match tokio::time::timeout(self.answer_timeout, self.client.request(request)).await {
            Ok(answer) => answer.map_err(|error| Error::unavailable(WHAT, error)),
            Err(_) => Err(Error::unavailable(WHAT, format!("{base_url} did not begin its answer in time"))),
        }
    }
}

/// The JSON of an answer that is a success, of at most `bytes_max` bytes.
///
/// # Errors
/// [`Error::NotFound`] for a 404; [`Error::Unavailable`] for everything else that is not what was asked for.
pub async fn read_json<T: DeserializeOwned>(answer: Response<Body>, bytes_max: usize) -> Result<T> {
    match answer.status() {
        status if status.is_success() => {}
        StatusCode::NOT_FOUND => return Err(Error::NotFound { what: "thing at another process of the platform" }),
        status => return Err(Error::unavailable(WHAT, format!("it answered {status}"))),
    }
    let body =
        Limited::new(answer.into_body(), bytes_max).collect().await.map_err(|error| Error::unavailable(WHAT, error))?;
    serde_json::from_slice(&body.to_bytes()).map_err(|error| Error::unavailable(WHAT, error))
}
