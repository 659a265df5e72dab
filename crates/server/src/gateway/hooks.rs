//! Inbound webhooks of IM platforms: `/hooks/{tenant}/{webhook}`, passed to the tenant's bot byte for byte. Who sent
//! one is for the bot to check, by the platform's own signature: here is only counted how many come.

use std::net::IpAddr;

use astrfleet_core::{
    Error, Result,
    ports::{Limit, Verdict},
    tenant::Status,
};
use http::{Method, Request, uri::PathAndQuery};
use hyper::body::Incoming;

use super::upstream::Upstream;
use crate::{
    app::App,
    config::seconds,
    extract::{place, take_anonymous},
    manager::Route,
    problem::Problem,
};

/// What the path of a webhook begins with.
pub const PREFIX: &str = "/hooks/";
/// The template, for metrics.
pub const ENDPOINT: &str = "/hooks/{tenant}/{webhook}";
/// When a platform may try again while the bot is not ready.
const RETRY_AFTER_S: u64 = 15;

/// One webhook's request.
pub struct Asked {
    tenant: String,
    ip: IpAddr,
    /// Where the bot takes it.
    pub path: PathAndQuery,
}

impl Asked {
    /// Reads the path.
    ///
    /// # Errors
    /// [`Error::NotFound`] for what cannot be one.
    pub fn of(request: &Request<Incoming>, ip: IpAddr) -> Result<Self> {
        Self::read(request.method(), request.uri().path(), request.uri().query(), ip)
    }

    fn read(method: &Method, path: &str, query: Option<&str>, ip: IpAddr) -> Result<Self> {
        let nothing = || Error::NotFound { what: "webhook" };
        if !matches!(*method, Method::GET | Method::POST) {
            return Err(nothing());
        }
        let (tenant, webhook) = path.strip_prefix(PREFIX).and_then(|rest| rest.split_once('/')).ok_or_else(nothing)?;
        let is_name = |name: &str| {
            (1..=64).contains(&name.len())
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        };
        if !is_name(tenant) || !is_name(webhook) {
            return Err(nothing());
        }
        let query = query.map(|query| format!("?{query}")).unwrap_or_default();
        let path = format!("/api/platform/webhook/{webhook}{query}");
        let path = PathAndQuery::try_from(path).map_err(|_| nothing())?;
        Ok(Self { tenant: tenant.to_owned(), ip, path })
    }
}

/// Where the bot is; none where it is not ready.
///
/// # Errors
/// Problems: `not_found`, `too_many`.
pub async fn admit(app: &App, asked: &Asked) -> Result<Option<Upstream>, Problem> {
    let config = &app.config.gateway;
    // By address first: whoever guesses names is stopped before the store is asked.
    take(app, &format!("hook {} {}", place(asked.ip), asked.tenant), config.rate_limit_per_minute)?;
    let tenant = match app.tenant.resolve(&asked.tenant).await {
        Ok(tenant) if tenant.status == Status::Active => tenant,
        Ok(_) | Err(Error::NotFound { .. }) => {
            take_anonymous(app, Some(asked.ip))?;
            return Err(Error::NotFound { what: "webhook" }.into());
        }
        Err(error) => return Err(error.into()),
    };
    take(app, &format!("hook {}", tenant.id), config.rate_limit_per_minute)?;
    match app.manager.route(&tenant.id) {
        Route::Ready { access, .. } => Ok(Some(super::remote::upstream(&access.base_url)?)),
        Route::NotReady { .. } => Ok(None),
    }
}

/// How webhooks look in the description of the API. No route of a router: they are taken before it, and which a bot has is
/// the bot's own matter.
#[derive(utoipa::OpenApi)]
#[openapi(paths(verify, receive))]
pub struct Described;

/// Verifies a webhook
///
/// What IM platforms ask once, when a webhook is entered there: see `hook_receive`.
#[utoipa::path(
    get, path = "/hooks/{tenant}/{webhook}", tag = "channels", operation_id = "hook_verify",
    params(
        ("tenant" = String, Path, description = "Id or name"),
        ("webhook" = String, Path, description = "As the channel names it"),
    ),
    responses(
        (status = 200, description = "The bot's own answer"),
        (status = 404, body = Problem), (status = 429, body = Problem), (status = 502, body = Problem),
        (status = 503, body = Problem), (status = 504, body = Problem),
    ),
)]
#[expect(dead_code, reason = "carries its description alone")]
fn verify() {}

/// Takes what an IM platform tells
///
/// Passed to the tenant's bot byte for byte, and its answer back. Who sends it proves that to the bot, by the platform's own
/// signature; here is only counted how many come.
#[utoipa::path(
    post, path = "/hooks/{tenant}/{webhook}", tag = "channels", operation_id = "hook_receive",
    params(
        ("tenant" = String, Path, description = "Id or name"),
        ("webhook" = String, Path, description = "As the channel names it"),
    ),
    responses(
        (status = 200, description = "The bot's own answer"),
        (status = 404, body = Problem), (status = 408, body = Problem), (status = 413, body = Problem),
        (status = 429, body = Problem), (status = 502, body = Problem), (status = 503, body = Problem),
        (status = 504, body = Problem),
    ),
)]
#[expect(dead_code, reason = "carries its description alone")]
fn receive() {}

/// The answer while the bot is not ready: platforms send it again.
pub fn asleep() -> Problem {
    let problem = Problem::new("unavailable", "the bot is not ready: send it again in a moment");
    Problem { retry_after_s: Some(RETRY_AFTER_S), ..problem }
}

fn take(app: &App, key: &str, per_minute: u32) -> Result<()> {
    match app.limiter.take(key, Limit { amount: per_minute, per: seconds(60) }) {
        Verdict::Allowed { .. } => Ok(()),
        Verdict::Refused { retry_after } => Err(Error::TooMany { what: "webhooks", retry_after }),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use http::Method;

    use super::Asked;

    #[test]
    fn only_what_can_be_a_webhook_reaches_a_bot() {
        let read = |method: Method, path: &str, query| {
            Asked::read(&method, path, query, Ipv4Addr::LOCALHOST.into()).map(|asked| asked.path.to_string()).ok()
        };
        assert_eq!(
            read(Method::POST, "/hooks/acme/0123abcd", Some("echostr=a%20b&n=1")),
            Some("/api/platform/webhook/0123abcd?echostr=a%20b&n=1".into())
        );
        assert_eq!(read(Method::GET, "/hooks/acme/x", None), Some("/api/platform/webhook/x".into()));
        for path in
            ["/hooks/acme", "/hooks/acme/", "/hooks//x", "/hooks/acme/../x", "/hooks/acme/x/y", "/hooks/acme/%2e"]
        {
            assert_eq!(read(Method::POST, path, None), None, "{path}");
        }
        assert_eq!(read(Method::DELETE, "/hooks/acme/x", None), None);
    }
}
