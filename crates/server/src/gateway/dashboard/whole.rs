//! What is read as a whole on its way to and from a bot: its first page, into which the script goes that signs people
//! in, and its configuration, out of which the platform's own values are taken, and into which they are put back.

use std::time::Duration;

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderMap, HeaderValue, Method, Uri, header, request::Parts},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_util::{
    client::legacy::{Client as HttpClient, connect::HttpConnector},
    rt::TokioExecutor,
};
use secrecy::ExposeSecret;
use serde_json::Value;

use super::{
    ForDashboard,
    admit::{Asked, Passage, Refused, admit},
    paths, strip,
};
use crate::{app::App, config::seconds, problem::chain};

/// Fetches from bots.
pub type Client = HttpClient<HttpConnector, Full<Bytes>>;

/// The largest answer that is read as a whole.
const ANSWER_BYTES_MAX: usize = 32 << 20;
/// Where pages keep the names of what they load; the script goes in front of all of them.
const HEAD: &str = "<head>";
const SCRIPT: &str = "<script src=\"/_astrfleet/session.js\"></script>";

/// A client for the bots' first pages and configurations.
pub fn client() -> Client {
    let mut connector = HttpConnector::new();
    connector.set_connect_timeout(Some(Duration::from_secs(5)));
    HttpClient::builder(TokioExecutor::new()).build(connector)
}

/// Whether this is the bot's first page.
pub fn is_page(path: &str) -> bool {
    matches!(path, "/" | "/index.html")
}

/// Passes a request to the bot, and changes what has to be changed in it and in its answer.
pub async fn answer(app: &App, visited: ForDashboard, request: Request) -> Response {
    let asked = Asked::of(&request, visited);
    match pass(app, &asked, request).await {
        Ok(response) => response,
        Err(refused) => refused.into_response(),
    }
}

async fn pass(app: &App, asked: &Asked, request: Request) -> Result<Response, Refused> {
    let passage = admit(app, asked).await?;
    let path = paths::decoded(asked.uri.path()).unwrap_or_default();
    let target = asked.uri.path_and_query().map_or("/", |target| target.as_str());
    let (parts, body) = request.into_parts();
    let body = read(app, &parts, body).await?;
    let body = if app.bots.holds_platform_values(&path) {
        restored(app, &passage, &parts.method, &path, target, &body).await?
    } else {
        body
    };
    let (mut parts, body) = ask(app, &passage, &parts, target, body).await?;
    strip(&mut parts.headers);
    parts.headers.remove(header::TRANSFER_ENCODING);
    parts.headers.remove(header::CONNECTION);
    let body = if is_page(&path) {
        parts.headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        parts.headers.remove(header::ETAG);
        signing_in(&body)
    } else {
        masked(app, &path, &parts.headers, body)?
    };
    parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    Ok(Response::from_parts(parts, Body::from(body)))
}

async fn read(app: &App, parts: &Parts, body: Body) -> Result<Bytes, Refused> {
    let limit = app.config.gateway.max_body_bytes;
    let read = Limited::new(body, usize::try_from(limit).unwrap_or(usize::MAX)).collect().await;
    let body = match read {
        Ok(body) => body.to_bytes(),
        Err(error) if error.downcast_ref::<LengthLimitError>().is_some() => {
            return Err(Refused::too_large(&format!("This is larger than {limit} bytes. / 大小超过 {limit} 字节。")));
        }
        // The client's own connection broke, or it stopped sending: nobody reads this.
        Err(_) => return Err(Refused::not_json()),
    };
    let json =
        parts.headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
    if body.is_empty() || json { Ok(body) } else { Err(Refused::not_json()) }
}

/// The body with the platform's values in it, whatever it says about them. One without a body may change them, too: it
/// may delete.
async fn restored(
    app: &App,
    passage: &Passage,
    method: &Method,
    path: &str,
    target: &str,
    body: &[u8],
) -> Result<Bytes, Refused> {
    let body = match body {
        [] => Value::Null,
        body => serde_json::from_slice(body).map_err(|_| Refused::not_json())?,
    };
    let query = target.split_once('?').map(|(_, query)| format!("?{query}")).unwrap_or_default();
    let client = app.bots.client(&passage.access);
    let written_to = format!("{path}{query}");
    let body = client.restore_dashboard_request(method.as_str(), &written_to, body).await.map_err(Refused::error)?;
    if body.is_null() {
        return Ok(Bytes::new());
    }
    serde_json::to_vec(&body).map(Bytes::from).map_err(|_| Refused::not_json())
}

async fn ask(
    app: &App,
    passage: &Passage,
    parts: &Parts,
    target: &str,
    body: Bytes,
) -> Result<(http::response::Parts, Bytes), Refused> {
    let unreachable = |error: &dyn std::fmt::Display| {
        tracing::warn!(error_code = "bad_gateway", error = %error, "a request to a bot's dashboard failed");
        Refused::unreachable()
    };
    let uri: Uri = format!("{}{target}", passage.access.base_url).parse().map_err(|error| unreachable(&error))?;
    let mut request = http::Request::new(Full::new(body));
    *request.method_mut() = parts.method.clone();
    *request.uri_mut() = uri;
    *request.headers_mut() = outward(&parts.headers);
    let bearer = HeaderValue::try_from(format!("Bearer {}", passage.token.expose_secret()));
    request.headers_mut().insert(header::AUTHORIZATION, bearer.map_err(|error| unreachable(&error))?);
    let limit = seconds(app.config.gateway.upstream_timeout_s);
    let work = async {
        let response =
            app.gateway.dashboards.bots.request(request).await.map_err(|error| unreachable(&chain(&error)))?;
        let (parts, body) = response.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(|error| unreachable(&error))?;
        Ok((parts, body.to_bytes()))
    };
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| Err(Refused::unreachable()))
}

/// What of a browser's headers means anything to the bot, if the answer is to be read here.
fn outward(headers: &HeaderMap) -> HeaderMap {
    let passed = [
        header::ACCEPT,
        header::ACCEPT_LANGUAGE,
        header::CONTENT_TYPE,
        header::USER_AGENT,
        header::HOST,
        crate::gateway::trace::REQUEST_ID,
        crate::gateway::trace::TRACEPARENT,
    ];
    passed.into_iter().filter_map(|name| headers.get(&name).cloned().map(|value| (name, value))).collect()
}

/// The page, with the script in front of everything that it loads.
fn signing_in(page: &Bytes) -> Bytes {
    let Ok(text) = std::str::from_utf8(page) else { return page.clone() };
    text.replacen(HEAD, &format!("{HEAD}\n    {SCRIPT}"), 1).into()
}

/// An answer without the platform's values. Only JSON can be looked through, so nothing else comes out.
fn masked(app: &App, path: &str, headers: &HeaderMap, body: Bytes) -> Result<Bytes, Refused> {
    if body.is_empty() || !app.bots.holds_platform_values(path) {
        return Ok(body);
    }
    let json = headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
    match serde_json::from_slice::<Value>(&body) {
        Ok(answer) if json => {
            let answer = app.bots.mask_dashboard_answer(path, answer);
            serde_json::to_vec(&answer).map(Bytes::from).map_err(|_| Refused::unreachable())
        }
        _ => {
            tracing::warn!(error_code = "bad_gateway", "a bot's configuration was not JSON and is not shown");
            Err(Refused::unreachable())
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::signing_in;

    #[test]
    fn the_script_comes_before_everything_else() {
        let page =
            Bytes::from("<!doctype html>\n<html>\n  <head>\n    <script type=\"module\" src=\"/a.js\"></script>");
        let page = String::from_utf8(signing_in(&page).to_vec()).unwrap();
        assert!(page.find("session.js").unwrap() < page.find("/a.js").unwrap(), "{page}");
    }
}
