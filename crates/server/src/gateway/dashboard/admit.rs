//! Whether a request to a bot's host may reach the bot: where it comes from, who sends it, what it asks for, and
//! whether the bot is there.

use std::sync::Arc;

use astrfleet_core::{
    Error,
    instance::Observed,
    policy::{Action, Caller, authorise},
    ports::BotAccess,
    tenant::Tenant,
};
use aws_lc_rs::digest;
use axum::{
    http::{
        HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header,
        uri::{InvalidUri, PathAndQuery},
    },
    response::{IntoResponse, Response},
};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;

use super::{
    ForDashboard,
    cookie::Pass,
    pages, paths,
    table::{Verdict, verdict},
};
use crate::{
    app::App,
    gateway::{headers::HeaderEdits, hosts, remote, upstream::Upstream},
    manager::Route,
    problem::chain,
};

/// The head of a request, owned.
pub struct Asked {
    pub(super) visited: ForDashboard,
    pub(super) method: Method,
    pub(super) uri: Uri,
    pub(super) headers: HeaderMap,
}

impl Asked {
    /// Of this request.
    pub fn of<B>(request: &Request<B>, visited: ForDashboard) -> Self {
        Self {
            visited,
            method: request.method().clone(),
            uri: request.uri().clone(),
            headers: request.headers().clone(),
        }
    }

    fn is_websocket(&self) -> bool {
        self.headers.contains_key(header::UPGRADE)
    }

    /// Whether a person looks at the answer, and not a script.
    fn is_for_eyes(&self) -> bool {
        let accepts = self
            .headers
            .get(header::ACCEPT)
            .is_some_and(|kinds| kinds.as_bytes().windows(9).any(|kind| kind == b"text/html"));
        accepts && self.method == Method::GET
    }
}

/// Somebody who is signed in at a bot's host.
#[derive(Clone, Debug)]
pub struct Person {
    /// What the bot calls them.
    pub name: Arc<str>,
}

/// The way to the bot, open for one request.
pub struct Passage {
    pub(super) access: BotAccess,
    pub(super) upstream: Upstream,
    pub(super) token: SecretString,
    websocket: Option<PathAndQuery>,
}

impl Passage {
    /// Where the request goes, and what is changed in it on the way.
    pub fn into_parts(self, scheme: HeaderValue) -> (Upstream, HeaderEdits) {
        let bearer = HeaderValue::try_from(format!("Bearer {}", self.token.expose_secret()));
        let mut bearer = bearer.unwrap_or(HeaderValue::from_static("Bearer"));
        bearer.set_sensitive(true);
        let edits = HeaderEdits {
            scheme,
            remove: vec![header::COOKIE, http::HeaderName::from_static("x-api-key")],
            set: vec![(header::AUTHORIZATION, bearer)],
            path: self.websocket,
            ..HeaderEdits::default()
        };
        (self.upstream, edits)
    }
}

/// Why a request does not reach the bot, as the bot would say it, or as a page.
#[derive(Debug)]
pub struct Refused {
    status: StatusCode,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// In the bot's own envelope: its pages show the sentence.
    Sentence(String),
    Page(String),
}

impl Refused {
    fn sentence(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, kind: Kind::Sentence(text.into()) }
    }

    pub(super) fn page(status: StatusCode, page: String) -> Self {
        Self { status, kind: Kind::Page(page) }
    }

    pub(super) fn too_large(text: &str) -> Self {
        Self::sentence(StatusCode::PAYLOAD_TOO_LARGE, text)
    }

    pub(super) fn unreachable() -> Self {
        Self::sentence(
            StatusCode::BAD_GATEWAY,
            "The bot did not answer: try again in a moment. / 机器人没有响应，请稍后重试。",
        )
    }

    pub(super) fn not_json() -> Self {
        Self::sentence(StatusCode::UNSUPPORTED_MEDIA_TYPE, "Send JSON here. / 此处请发送 JSON。")
    }

    /// What an error of ours looks like there.
    pub(super) fn error(error: Error) -> Self {
        match error {
            Error::NotFound { .. } => Self::page(StatusCode::NOT_FOUND, pages::nothing_here()),
            Error::Forbidden { reason } => Self::sentence(StatusCode::FORBIDDEN, reason),
            error @ Error::Invalid { .. } => Self::sentence(StatusCode::UNPROCESSABLE_ENTITY, error.to_string()),
            error => {
                tracing::warn!(error_code = "unavailable", error = chain(&error), "a dashboard could not be shown");
                Self::sentence(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
            }
        }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        match self.kind {
            Kind::Page(page) => pages::respond(self.status, page),
            Kind::Sentence(message) => {
                let envelope = json!({"status": "error", "message": message, "data": null});
                (self.status, axum::Json(envelope)).into_response()
            }
        }
    }
}

/// The way to the bot for this request.
///
/// # Errors
/// [`Refused`].
pub async fn admit(app: &App, asked: &Asked) -> Result<Passage, Refused> {
    must_be_of_this_host(app, asked)?;
    let tenant = tenant(app, &asked.visited).await?;
    let person = signed_in(app, asked, &tenant).await?;
    let path = paths::decoded(asked.uri.path())
        .ok_or_else(|| Refused::sentence(StatusCode::BAD_REQUEST, "This path cannot be read. / 无法识别此路径。"))?;
    if let Verdict::Never(why) | Verdict::ByPlan(why) = verdict(&asked.method, &path) {
        return Err(Refused::sentence(StatusCode::FORBIDDEN, why));
    }
    let access = match app.manager.route(&tenant.id) {
        Route::Ready { access, .. } => access,
        Route::NotReady { observed, reason } => return Err(asleep(asked, observed, &reason)),
    };
    let token = app.bots.token(&access, &person.name).map_err(Refused::error)?;
    let upstream = remote::upstream(&access.base_url).map_err(Refused::error)?;
    let websocket = match asked.is_websocket().then(|| with_token(&asked.uri, &token)) {
        Some(Err(error)) => return Err(Refused::error(Error::internal(error))),
        Some(Ok(target)) => Some(target),
        None => None,
    };
    Ok(Passage { access, upstream, token, websocket })
}

/// The tenant whose host this is.
pub(super) async fn tenant(app: &App, visited: &ForDashboard) -> Result<Arc<Tenant>, Refused> {
    // By name alone: an id is no host.
    let tenant = app.tenant.resolve(&visited.tenant).await.map_err(Refused::error)?;
    if tenant.name != *visited.tenant {
        return Err(Refused::error(Error::NotFound { what: "tenant" }));
    }
    tenant
        .must_be_served()
        .map_err(|error| Refused::page(StatusCode::FORBIDDEN, pages::stopped(&error.to_string())))?;
    Ok(tenant)
}

/// Nobody else's page may make a browser that is signed in here do anything, not even one at a host beside ours.
pub(super) fn must_be_of_this_host(app: &App, asked: &Asked) -> Result<(), Refused> {
    let refused = || {
        let text = "This came from another site and was refused. / 来自其他站点的请求已被拒绝。";
        Err(Refused::sentence(StatusCode::FORBIDDEN, text))
    };
    let text = |name: &str| asked.headers.get(name).and_then(|value| value.to_str().ok());
    // Opening the page itself from a link elsewhere shows it to nobody but the person: it cannot be framed.
    let opens_page = asked.method == Method::GET
        && !asked.is_websocket()
        && text("sec-fetch-mode") == Some("navigate")
        && text("sec-fetch-dest") == Some("document")
        && !asked.uri.path().starts_with("/api");
    if let Some(site) = text("sec-fetch-site")
        && !matches!(site, "same-origin" | "none")
        && !opens_page
    {
        return refused();
    }
    let changes = asked.is_websocket() || !matches!(asked.method, Method::GET | Method::HEAD);
    let Some(origin) = asked.headers.get(header::ORIGIN) else { return Ok(()) };
    let own = format!("{}{}", app.gateway.dashboards.origin_scheme, hosts::named(&asked.uri, &asked.headers));
    if changes && !origin.as_bytes().eq_ignore_ascii_case(own.as_bytes()) {
        return refused();
    }
    Ok(())
}

/// Who sends this, if they are signed in at this host and may still come in.
pub(super) async fn signed_in(app: &App, asked: &Asked, tenant: &Tenant) -> Result<Person, Refused> {
    let out = |status| {
        if asked.is_for_eyes() {
            return Refused::page(status, pages::signed_out());
        }
        Refused::sentence(status, "You are signed out: open a new link. / 您已退出登录，请打开新的链接。")
    };
    let dashboards = &app.gateway.dashboards;
    let Some(pass) = dashboards.cookies.read(&asked.headers, &tenant.id, app.clock.now()) else {
        return Err(out(StatusCode::UNAUTHORIZED));
    };
    let (key, epoch) = (key(&pass), app.gateway.epoch());
    if let Some((read_at, person)) = dashboards.people.get(&key)
        && read_at == epoch
    {
        return Ok(person);
    }
    match look_up(app, &pass, tenant).await {
        Ok(person) => {
            dashboards.people.insert(key, (epoch, person.clone()));
            Ok(person)
        }
        Err(Error::NotFound { .. } | Error::Unauthenticated { .. }) => Err(out(StatusCode::UNAUTHORIZED)),
        Err(error) => Err(Refused::error(error)),
    }
}

/// The person of a pass, if their login lasts and they may open this bot.
async fn look_up(app: &App, pass: &Pass, tenant: &Tenant) -> Result<Person, Error> {
    let ended = Error::Unauthenticated { reason: "this login has ended" };
    let user = app.store.users().get(&pass.user).await?;
    if user.disabled {
        return Err(ended);
    }
    if let Some(login) = &pass.login
        && !app.store.refresh_tokens().login_lasts(login).await?
    {
        return Err(ended);
    }
    let caller = Caller::User { id: user.id.clone(), platform_admin: user.platform_admin, login: pass.login.clone() };
    authorise(&app.auth.standing(&caller, &tenant.id).await?, Action::InstanceOpen)?;
    Ok(Person { name: user.email.into() })
}

fn key(pass: &Pass) -> [u8; 32] {
    let text = serde_json::to_vec(pass).unwrap_or_default();
    let mut key = [0; 32];
    key.copy_from_slice(digest::digest(&digest::SHA256, &text).as_ref());
    key
}

fn asleep(asked: &Asked, observed: Observed, reason: &str) -> Refused {
    let state = format!("{observed:?}").to_lowercase();
    if asked.is_for_eyes() {
        return Refused::page(StatusCode::SERVICE_UNAVAILABLE, pages::asleep(observed, reason));
    }
    Refused::sentence(
        StatusCode::SERVICE_UNAVAILABLE,
        format!("The bot is {state}: try again in a moment. / 机器人尚未就绪，请稍后重试。"),
    )
}

/// The same target, with our token in place of whatever the page sent as its own.
fn with_token(uri: &Uri, token: &SecretString) -> Result<PathAndQuery, InvalidUri> {
    let others = uri.query().into_iter().flat_map(|query| query.split('&'));
    let kept = others.filter(|pair| !matches!(pair.split('=').next(), Some("token" | "api_key" | "key" | "")));
    let ours = format!("token={}", escaped(token.expose_secret()));
    let query = kept.chain([ours.as_str()]).collect::<Vec<_>>().join("&");
    PathAndQuery::try_from(format!("{}?{query}", uri.path()))
}

/// As the value of a query's parameter (RFC 3986 §2.3).
fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    let escaped = |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(escaped).collect()
}

#[cfg(test)]
mod tests {
    use super::with_token;

    #[test]
    fn a_websocket_gets_our_token_and_no_other() {
        let token = "made.by.us".into();
        let target = |uri: &str| with_token(&uri.parse().unwrap(), &token).unwrap().to_string();
        assert_eq!(target("/ws?token=theirs&a=1"), "/ws?a=1&token=made.by.us");
        assert_eq!(target("/ws?api_key=abk_1&%74oken=x"), "/ws?%74oken=x&token=made.by.us");
        assert_eq!(target("/ws"), "/ws?token=made.by.us");
        assert_eq!(with_token(&"/ws".parse().unwrap(), &"a b&c".into()).unwrap(), "/ws?token=a%20b%26c");
    }
}
