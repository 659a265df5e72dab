//! One try: one connection to one address that was looked at, one request, the beginning of one answer.
//!
//! The name is looked up once, and the connection goes to the address that came of it: a name that leads elsewhere a
//! moment later (DNS rebinding) leads nowhere. Redirects are not followed.

use std::{
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use astrfleet_core::{
    Error, Result,
    webhook::{Outcome, Tried},
};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_rustls::{ConfigBuilderExt as _, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioIo},
};
use rustls::{ClientConfig, ConfigBuilder, RootCertStore, WantsVerifier, client::WantsClientCert};
use tokio::{net::TcpStream, time::timeout};
use tower::Service as Connector;

use super::{
    Network, Service,
    address::is_public,
    deliver::refused,
    target::{Host, Target},
};
use crate::{config::seconds, problem::chain};

/// Addresses of one name that are tried, at the most.
const ADDRESSES_MAX: usize = 4;
/// How long a connection to one of them may take.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// So much of an answer is read and kept.
const ANSWER_BYTES_MAX: usize = 1_024;
/// How long the rest of an answer is waited for whose status is known.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(2);

/// What is sent.
pub(super) struct Parcel<'a> {
    pub(super) target: &'a Target,
    pub(super) id: &'a str,
    pub(super) timestamp_s: i64,
    pub(super) signatures: String,
    pub(super) body: Bytes,
}

impl Service {
    /// Sends it. Whatever goes wrong on the way is a try that failed.
    pub(super) async fn send(&self, parcel: Parcel<'_>) -> Tried {
        let limit = seconds(self.base.config.webhooks.timeout_s.max(1));
        match timeout(limit, self.exchange(parcel)).await {
            Ok(Ok(response)) => answered(response).await,
            Ok(Err(reason)) => refused(reason),
            Err(_) => refused(format!("no answer within {} s", limit.as_secs())),
        }
    }

    async fn exchange(&self, parcel: Parcel<'_>) -> Result<Response<Incoming>, String> {
        let network = self.network.load_full();
        let addresses = self.addresses(&**network, parcel.target).await?;
        let fixed = Fixed { network, addresses: addresses.into() };
        let tls = self.tls().await.map_err(|error| chain(&error))?;
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config((*tls).clone())
            .https_or_http()
            .enable_http1()
            .wrap_connector(fixed);
        let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector);
        let request = Request::builder()
            .method(Method::POST)
            .uri(parcel.target.uri.clone())
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::USER_AGENT, concat!("astrfleet/", env!("CARGO_PKG_VERSION")))
            .header("webhook-id", parcel.id)
            .header("webhook-timestamp", parcel.timestamp_s)
            .header("webhook-signature", parcel.signatures)
            .body(Full::new(parcel.body))
            .map_err(|error| error.to_string())?;
        client.request(request).await.map_err(|error| chain(&error))
    }

    /// Where the target lies now. One address that is not public spoils them all: the name is not to be trusted.
    async fn addresses(&self, network: &dyn Network, target: &Target) -> Result<Vec<SocketAddr>, String> {
        let found: Vec<IpAddr> = match &target.host {
            Host::Address(address) => vec![*address],
            Host::Name(name) => {
                network.resolve(name).await.map_err(|error| format!("its name was not found: {error}"))?
            }
        };
        if found.is_empty() {
            return Err("its name has no address".to_owned());
        }
        if !self.base.config.webhooks.allow_private && found.iter().any(|address| !is_public(*address)) {
            return Err("its name leads to an address that is not public".to_owned());
        }
        Ok(found.into_iter().take(ADDRESSES_MAX).map(|address| SocketAddr::new(address, target.port)).collect())
    }

    async fn tls(&self) -> Result<Arc<ClientConfig>> {
        let made = self.tls.get_or_try_init(|| async {
            let make = || {
                tls_config(|builder| match builder.clone().with_native_roots() {
                    Ok(builder) => builder,
                    // A machine without certificates can speak to nobody over TLS, and to others without.
                    Err(error) => {
                        tracing::warn!(%error, "webhooks trust nobody: install ca-certificates");
                        builder.with_root_certificates(RootCertStore::empty())
                    }
                })
                .map(Arc::new)
            };
            tokio::task::spawn_blocking(make).await.map_err(Error::internal)?
        });
        made.await.cloned()
    }
}

/// Speaks TLS with whoever has a certificate of the name that was asked for, signed by somebody whom `trust` trusts.
pub(super) fn tls_config(
    trust: impl FnOnce(ConfigBuilder<ClientConfig, WantsVerifier>) -> ConfigBuilder<ClientConfig, WantsClientCert>,
) -> Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(Error::internal)?;
    Ok(trust(builder).with_no_client_auth())
}

/// Connects to addresses that were looked at, whatever it is asked for.
#[derive(Clone)]
struct Fixed {
    network: Arc<Box<dyn Network>>,
    addresses: Arc<[SocketAddr]>,
}

impl Connector<Uri> for Fixed {
    type Response = TokioIo<TcpStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let (network, addresses) = (Arc::clone(&self.network), Arc::clone(&self.addresses));
        Box::pin(async move {
            let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
            for address in addresses.iter() {
                match timeout(CONNECT_MAX, network.connect(*address)).await {
                    Ok(Ok(stream)) => return Ok(TokioIo::new(stream)),
                    Ok(Err(error)) => last = error,
                    Err(_) => last = io::Error::from(io::ErrorKind::TimedOut),
                }
            }
            Err(last)
        })
    }
}

/// What an answer means.
async fn answered(response: Response<Incoming>) -> Tried {
    let (parts, body) = response.into_parts();
    let status = parts.status;
    let (outcome, error) = match status {
        status if status.is_success() => (Outcome::Taken, None),
        StatusCode::GONE => (Outcome::Gone, Some("the receiver is gone (410)".to_owned())),
        status if status.is_redirection() => {
            (Outcome::Refused(None), Some(format!("the answer was {status}: redirects are not followed")))
        }
        status => (Outcome::Refused(retry_after(&parts.headers)), Some(format!("the answer was {status}"))),
    };
    let beginning = beginning(body).await;
    let body = (!beginning.is_empty()).then_some(beginning);
    Tried { outcome, status: Some(status.as_u16()), body, error }
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// The beginning of an answer as text. The connection ends with it: what else may come is not read.
async fn beginning(mut body: Incoming) -> String {
    let mut bytes = Vec::new();
    let read = async {
        while bytes.len() < ANSWER_BYTES_MAX {
            let Some(Ok(frame)) = body.frame().await else { return };
            if let Some(data) = frame.data_ref() {
                let room = ANSWER_BYTES_MAX - bytes.len();
                bytes.extend_from_slice(&data[..data.len().min(room)]);
            }
        }
    };
    // Its status counts, whether or not the rest comes.
    timeout(ANSWER_WAIT_MAX, read).await.ok();
    let text = String::from_utf8_lossy(&bytes);
    text.chars().map(|character| if character.is_control() && character != '\n' { ' ' } else { character }).collect()
}
