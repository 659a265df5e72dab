//! A bot's own dashboard, at a host of its own: `acme.localhost:8000`. A link that works once becomes a cookie of that
//! host; the cookie says who somebody is; `table` says what of the bot they may use; and what reaches the bot is a
//! token made for this one request, which no browser ever sees.
//!
//! Nothing of one bot's host may be reached with what is good for another one.

mod admit;
mod cookie;
mod enter;
pub mod open;
mod pages;
mod paths;
mod rows;
mod table;
mod tickets;
mod whole;

use std::{net::IpAddr, sync::Arc, time::Duration};

use astrfleet_core::Result;
use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use moka::sync::Cache;

pub use self::admit::{Asked, Refused, admit};
use self::{admit::Person, cookie::Cookies, tickets::Tickets};
use super::upstream::ForwardError;
use crate::{app::App, app::Base, problem::chain};

/// What is ours on a bot's host.
const OWN_PREFIX: &str = "/_astrfleet/";
/// People who are remembered, at the most.
const PEOPLE_MAX: u64 = 10_000;
/// For how long nobody looks again whether they may still come in, if nothing changes that we hear of.
const PERSON_TTL: Duration = Duration::from_secs(10);

/// A request to a bot's own host.
#[derive(Clone, Debug)]
pub struct ForDashboard {
    /// What stands before the domain.
    tenant: Arc<str>,
    ip: IpAddr,
}

impl ForDashboard {
    /// From `ip`, to the host of the tenant that may have this name.
    #[must_use]
    pub fn new(tenant: &str, ip: IpAddr) -> Self {
        Self { tenant: tenant.to_ascii_lowercase().into(), ip }
    }
}

/// What is kept about dashboards.
pub struct Dashboards {
    tickets: Tickets,
    cookies: Cookies,
    /// By the SHA-256 of the cookies that they showed, with the number of changes at that moment.
    people: Cache<[u8; 32], (u64, Person)>,
    bots: whole::Client,
    origin_scheme: &'static str,
}

impl Dashboards {
    /// With no link given out.
    ///
    /// # Errors
    /// [`astrfleet_core::Error::Internal`].
    pub fn new(base: &Base) -> Result<Self> {
        let secure = base.config.gateway.public_url.starts_with("https://");
        Ok(Self {
            tickets: Tickets::default(),
            cookies: Cookies::new(&base.secrets, secure)?,
            people: Cache::builder().max_capacity(PEOPLE_MAX).time_to_live(PERSON_TTL).build(),
            bots: whole::client(),
            origin_scheme: if secure { "https://" } else { "http://" },
        })
    }
}

/// Whether this path of a bot's host is answered by us and not by the bot.
#[must_use]
pub fn is_ours(path: &str) -> bool {
    path.starts_with(OWN_PREFIX)
}

/// Whether what is asked for at this path of a bot's host has to be read as a whole, because something in it is
/// changed on the way.
#[must_use]
pub fn is_read_whole(app: &App, path: &str) -> bool {
    let Some(path) = paths::decoded(path) else { return false };
    is_ours(&path) || whole::is_page(&path) || app.bots.holds_platform_values(&path)
}

/// Whether this path of a bot's host is a file of its pages, whose name changes with what is in it.
#[must_use]
pub fn is_asset(path: &str) -> bool {
    path.starts_with("/assets/")
}

/// Lets the browser keep a file: the bot packs each of them anew for every answer, and there are a hundred to a page.
pub fn keep(headers: &mut HeaderMap) {
    let kept = HeaderValue::from_static("private, max-age=31536000, immutable");
    headers.insert(header::CACHE_CONTROL, kept);
}

/// Answers requests to a bot's host; all others go on to the routes of the API.
pub async fn layer(State(app): State<App>, request: Request, next: Next) -> Response {
    let Some(visited) = request.extensions().get::<ForDashboard>().cloned() else { return next.run(request).await };
    let path = paths::decoded(request.uri().path()).unwrap_or_default();
    let mut response = match path.strip_prefix(OWN_PREFIX) {
        Some(own) => enter::answer(&app, Asked::of(&request, visited), own).await,
        None => whole::answer(&app, visited, request).await,
    };
    protect(response.headers_mut());
    response
}

/// The page or the answer for a bot that failed.
pub fn failed(error: &ForwardError) -> Response {
    tracing::warn!(error_code = "bad_gateway", error = chain(error), "a request to a bot's dashboard failed");
    match error {
        ForwardError::BodyTooLarge { bytes_max } => {
            Refused::too_large(&format!("This is larger than {bytes_max} bytes. / 大小超过 {bytes_max} 字节。"))
                .into_response()
        }
        _ => Refused::unreachable().into_response(),
    }
}

/// What no answer of a bot takes out with it: its cookies, and permissions for other hosts.
pub fn strip(headers: &mut HeaderMap) {
    for name in [
        header::SET_COOKIE,
        header::ACCESS_CONTROL_ALLOW_ORIGIN,
        header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
        header::SERVER,
    ] {
        headers.remove(name);
    }
}

/// Keeps a document that the bot hands out, a file that somebody sent, from acting as one of the dashboard's own pages,
/// which are packed elsewhere.
pub fn confine(headers: &mut HeaderMap) {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let is_document = ["html", "xml", "svg"].iter().any(|word| kind.to_ascii_lowercase().contains(word));
    if is_document && !headers.contains_key(header::CONTENT_SECURITY_POLICY) {
        let confined = HeaderValue::from_static("sandbox; default-src 'none'; frame-ancestors 'self'");
        headers.insert(header::CONTENT_SECURITY_POLICY, confined);
    }
}

/// What every answer at a bot's host has.
pub fn protect(headers: &mut HeaderMap) {
    if !headers.contains_key(header::CONTENT_SECURITY_POLICY) {
        headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("frame-ancestors 'self'"));
    }
    for (name, value) in [
        (header::X_FRAME_OPTIONS, "SAMEORIGIN"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if !headers.contains_key(header::CACHE_CONTROL) {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
}
