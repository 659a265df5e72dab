//! `Idempotency-Key`: the same POST again gives the same answer, and does nothing a second time.
//!
//! For the endpoints that take and give JSON. Messages have keys of their own, since their answers are streams. An answer
//! that shows a secret is not kept: a second use learns that it was done. Only what was done is kept; a request that was
//! refused may be sent again.

use std::time::Duration;

use astrfleet_core::{
    Error,
    ports::{Begun, StoredAnswer},
    text::idempotency_key,
};
use aws_lc_rs::digest;
use axum::{
    body::{Body, Bytes, to_bytes},
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};

use crate::{
    app::App,
    context,
    extract::{credential, peer},
    internal::Vouched,
    problem::Problem,
};

/// The header.
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Says that an answer was given before.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// The largest answer that is kept; ours are far smaller.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// After this, a request whose answer never came (its process was killed) counts as never begun.
const ABANDONED_AFTER: Duration = Duration::from_mins(5);
/// Headers that are kept with an answer.
const KEPT_HEADERS: [HeaderName; 3] = [header::CONTENT_TYPE, header::LOCATION, header::ETAG];
/// Where answers show a secret: it is shown once, and not stored.
const SECRET_ENDINGS: [&str; 5] = ["/api-keys", "/invitations", "/instance/open", "/webhooks", "/rotate-secret"];

/// An answer as it is kept.
#[derive(Serialize, Deserialize)]
struct Kept {
    headers: Vec<(String, String)>,
    /// None: it held a secret.
    body: Option<String>,
}

/// Around every route.
///
/// # Errors
/// Problems: `invalid` for a bad key, `idempotency_key_reused`, `conflict` while the first try still runs.
pub async fn layer(State(app): State<App>, request: Request, next: Next) -> Result<Response, Problem> {
    if !is_covered(&request) {
        return Ok(next.run(request).await);
    }
    let Some(key) = key(&request)? else { return Ok(next.run(request).await) };
    let (parts, body) = request.into_parts();
    let limit_bytes = app.config.gateway.max_body_bytes;
    let body = to_bytes(body, usize::try_from(limit_bytes).unwrap_or(usize::MAX))
        .await
        .map_err(|_| Error::TooLarge { what: "the body", limit_bytes })?;
    let Some(owner) = owner(&app, &parts).await? else {
        // Nobody we know: the handler says so.
        return Ok(next.run(Request::from_parts(parts, Body::from(body))).await);
    };
    let hash = request_hash(&parts, &body);
    match app.store.idempotency(&owner).begin(&key, &hash, ABANDONED_AFTER).await? {
        Begun::New => first(app, owner, key, Request::from_parts(parts, Body::from(body)), next).await,
        Begun::Answered(answer) => Ok(replay(&answer)?),
        Begun::InProgress => Err(Error::conflict("the same request is being worked on: ask again in a moment").into()),
        Begun::Different => Err(Error::KeyReused.into()),
    }
}

fn is_covered(request: &Request) -> bool {
    let path = request.uri().path();
    request.method() == Method::POST && is_keyed(request.headers()) && honours(path) && !path.ends_with("/messages")
}

/// Whether a POST to `path`, or to whatever this is the template of, is done once under a key, by this layer or by itself.
pub fn honours(path: &str) -> bool {
    path.starts_with("/api/v1/") && !path.starts_with("/api/v1/auth/")
}

/// Whether a request has a key, and a body for which one counts.
pub fn is_keyed(headers: &HeaderMap) -> bool {
    let is_json = headers.get(header::CONTENT_TYPE).is_none_or(|kind| {
        kind.to_str().is_ok_and(|kind| kind.trim_start().to_ascii_lowercase().starts_with("application/json"))
    });
    is_json && headers.contains_key(IDEMPOTENCY_KEY)
}

fn key(request: &Request) -> Result<Option<String>, Error> {
    let Some(value) = request.headers().get(IDEMPOTENCY_KEY) else { return Ok(None) };
    // What is not text is refused as a key that is not visible ASCII.
    let key = value.to_str().unwrap_or_default();
    idempotency_key(key)?;
    Ok(Some(key.to_owned()))
}

/// Whose key it is: nobody meets another one's.
async fn owner(app: &App, parts: &Parts) -> Result<Option<String>, Error> {
    if let Some(caller) = parts.extensions.get::<Vouched>().and_then(|vouched| vouched.caller.as_ref()) {
        return Ok(Some(caller.actor().to_owned()));
    }
    let Some(credential) = credential(&parts.headers) else { return Ok(None) };
    match app.auth.authenticate(credential, peer(&parts.extensions)).await {
        Ok(caller) => Ok(Some(caller.actor().to_owned())),
        Err(Error::Unauthenticated { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The method, the address and the body, each with its length before it.
fn request_hash(parts: &Parts, body: &[u8]) -> [u8; 32] {
    let address = parts.uri.path_and_query().map_or("/", |address| address.as_str());
    let mut context = digest::Context::new(&digest::SHA256);
    for part in [parts.method.as_str().as_bytes(), address.as_bytes(), body] {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    let mut hash = [0; 32];
    hash.copy_from_slice(context.finish().as_ref());
    hash
}

/// Does it, also where the client does not wait for the answer: who asks again shall find it.
async fn first(app: App, owner: String, key: String, request: Request, next: Next) -> Result<Response, Problem> {
    let shows_secret = SECRET_ENDINGS.iter().any(|ending| request.uri().path().ends_with(ending));
    let tasks = app.tasks.clone();
    let work = async move {
        let response = next.run(request).await;
        keep(&app, &owner, &key, response, shows_secret).await
    };
    let running = match context::current() {
        Some(context) => tasks.spawn(async move { context.scope(work).await }),
        None => tasks.spawn(work),
    };
    running.await.map_err(Error::internal)?
}

async fn keep(app: &App, owner: &str, key: &str, response: Response, shows_secret: bool) -> Result<Response, Problem> {
    let answers = app.store.idempotency(owner);
    if !response.status().is_success() {
        answers.forget(key).await?;
        return Ok(response);
    }
    let (parts, body) = response.into_parts();
    let body: Bytes = to_bytes(body, ANSWER_BYTES_MAX).await.map_err(Error::internal)?;
    let headers = KEPT_HEADERS
        .iter()
        .filter_map(|name| Some((name.to_string(), parts.headers.get(name)?.to_str().ok()?.to_owned())))
        .collect();
    let text = (!shows_secret).then(|| String::from_utf8_lossy(&body).into_owned());
    let kept = serde_json::to_string(&Kept { headers, body: text }).map_err(Error::internal)?;
    answers.finish(key, &StoredAnswer { status: parts.status.as_u16(), body: kept }).await?;
    Ok(Response::from_parts(parts, Body::from(body)))
}

fn replay(answer: &StoredAnswer) -> Result<Response, Error> {
    let kept: Kept = serde_json::from_str(&answer.body).map_err(Error::internal)?;
    let Some(body) = kept.body else {
        return Err(Error::conflict(
            "this was done under this Idempotency-Key before; its secret was shown then, and is not stored: make another one",
        ));
    };
    let status = StatusCode::from_u16(answer.status).map_err(Error::internal)?;
    let mut response = (status, body).into_response();
    response.headers_mut().remove(header::CONTENT_TYPE);
    for (name, value) in kept.headers {
        let name = HeaderName::try_from(name).map_err(Error::internal)?;
        response.headers_mut().insert(name, HeaderValue::try_from(value).map_err(Error::internal)?);
    }
    response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    Ok(response)
}
