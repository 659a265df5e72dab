//! Role `llm`: the gateway between bots and providers of models. OpenAI's shapes and errors.
//!
//! A call is let in by `keys` and `budget`, read by `request`, answered by one of `provider`s (or `demo`), passed on by
//! `answer`, counted by `call` and `ledger`. Nothing here stores or logs what anybody wrote.

mod answer;
mod api;
mod budget;
mod call;
pub mod demo;
pub mod error;
mod failures;
mod keys;
mod ledger;
mod provider;
mod request;
mod scan;

use std::{collections::BTreeSet, sync::Arc};

use astrfleet_core::{Error, Result, id::InstanceId, message::Failure, time::Timestamp, usage::Outcome};
use axum::{
    body::Body,
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Incoming;
use serde::Deserialize;
use tokio::time::timeout;
use utoipa_axum::{router::OpenApiRouter, routes};

use self::{
    answer::Streamed,
    budget::Refused,
    call::{Call, Source},
    error::OpenAiError,
    failures::Failures,
    keys::{Bot, Keys},
    ledger::Ledger,
    provider::{HttpClient, Provider, Trouble},
    request::ChatRequest,
    scan::Usage,
};
use crate::{
    app::{App, Base},
    config::seconds,
    loops::Loop,
    tenant,
};

/// Calls models and keeps the ledger.
pub struct Service {
    base: Arc<Base>,
    keys: Arc<Keys>,
    ledger: Arc<Ledger>,
    failures: Arc<Failures>,
    client: HttpClient,
    providers: Vec<Provider>,
    demo: Arc<Source>,
}

/// An answer that is not streamed, as far as we read it.
#[derive(Deserialize)]
struct Whole {
    usage: Option<Usage>,
}

impl Service {
    /// Prepares the upstreams.
    ///
    /// # Errors
    /// [`astrfleet_core::Error::Invalid`] where an upstream's address cannot be read.
    pub fn new(base: Arc<Base>, tenants: Arc<tenant::Service>) -> Result<Self> {
        let providers = provider::providers(&base.config.llm, &base.metrics)?;
        Ok(Self {
            keys: Arc::new(Keys::new(Arc::clone(&base), tenants)),
            ledger: Arc::new(Ledger::new(Arc::clone(&base))),
            failures: Arc::new(Failures::new(Arc::clone(&base.clock))),
            client: provider::client(&providers)?,
            demo: Arc::new(Source::new(demo::MODEL, &base.metrics)),
            providers,
            base,
        })
    }

    /// Why the last call of a bot's model since `since` failed, if it did: a bot tells of it in plain text only.
    #[must_use]
    pub fn failure_since(&self, instance: &InstanceId, since: Timestamp) -> Option<Failure> {
        self.failures.since(instance, since)
    }

    /// Whether models are asked at all, or the built-in one answers.
    #[must_use]
    pub fn has_providers(&self) -> bool {
        !self.providers.is_empty()
    }

    /// The models that a bot may ask for.
    pub(in crate::llm) async fn models(&self, headers: &HeaderMap) -> Result<Vec<String>, OpenAiError> {
        self.keys.bot(headers).await?;
        if self.providers.is_empty() {
            return Ok(vec![demo::MODEL.to_owned()]);
        }
        let configured = self.base.config.llm.model.as_str();
        let others: BTreeSet<&str> = self.providers.iter().flat_map(Provider::known_models).collect();
        let others = others.into_iter().filter(|model| *model != configured);
        Ok([configured].into_iter().chain(others).map(str::to_owned).collect())
    }

    /// Answers a request for a completion.
    pub(in crate::llm) async fn complete(&self, headers: &HeaderMap, body: Body) -> Result<Response, OpenAiError> {
        let bot = self.keys.bot(headers).await?;
        let request = ChatRequest::read(self.read(body).await?)?;
        let mut call = self.admit(&bot, &request).inspect_err(|error| self.note(&bot, error))?;
        if self.providers.is_empty() {
            call.asks(&self.demo, demo::MODEL);
            let (response, used) = demo::respond(&request, &self.base.ids.request(), self.base.clock.now())?;
            (call.usage, call.outcome) = (Some(used), Outcome::Complete);
            return Ok(response);
        }
        self.ask(call, &request).await.map_err(|trouble| {
            self.failures.note(&bot.id, trouble.failure());
            trouble.answer()
        })
    }

    /// The body, within its limits.
    async fn read(&self, body: Body) -> Result<Bytes> {
        let limit_bytes = self.base.config.llm.max_request_bytes;
        let limited = Limited::new(body, usize::try_from(limit_bytes).unwrap_or(usize::MAX));
        let arrived = timeout(seconds(self.base.config.gateway.request_timeout_s), limited.collect()).await;
        match arrived {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(error)) if error.is::<LengthLimitError>() => {
                Err(Error::TooLarge { what: "the request", limit_bytes })
            }
            Ok(Err(_)) => Err(Error::invalid("body", "broke off")),
            Err(_) => Err(Error::invalid("body", "did not arrive in time")),
        }
    }

    /// Lets a call in, if the plan and the limits allow.
    fn admit(&self, bot: &Arc<Bot>, request: &ChatRequest) -> Result<Call> {
        self.ledger.has_room()?;
        let month = self.base.clock.now().month_start();
        let calls_max = self.base.config.llm.concurrent_calls;
        let soon = seconds(1);
        let reserved = bot.account.reserve(month, bot.tokens_max, calls_max, request.estimate());
        let reservation = reserved.map_err(|refused| match refused {
            Refused::UsedUp => Error::QuotaExceeded {
                quota: "tokens of this month",
                limit: bot.tokens_max,
                next_step: format!(
                    "they are refilled on {} at 00:00 UTC, or by another plan",
                    month.plus(seconds(32 * 86_400)).month_start().day()
                ),
            },
            Refused::Reserved => {
                Error::TooMany { what: "calls of the model for what is left of the month's tokens", retry_after: soon }
            }
            Refused::Calls => Error::TooMany { what: "calls of the model at the same moment", retry_after: soon },
        })?;
        Ok(Call::begin(&self.base, &self.ledger, bot, reservation, request))
    }

    /// Asks one provider after the other until one answers.
    async fn ask(&self, mut call: Call, request: &ChatRequest) -> Result<Response, Trouble> {
        let now = self.base.clock.now();
        let (able, left_out): (Vec<_>, Vec<_>) = self.providers.iter().partition(|provider| !provider.is_left_out(now));
        let mut last = Trouble::Failed("no provider is configured".to_owned());
        for provider in able.into_iter().chain(left_out) {
            let model = provider.model(&request.model);
            call.asks(&provider.source, model);
            let asked = provider.ask(&self.client, request.body_for(model), request.stream, self.base.clock.now());
            let trouble = match asked.await {
                Ok(answer) if request.stream && is_stream(answer.headers()) => {
                    return Ok(self.streamed(answer.into_body(), call, request, provider));
                }
                Ok(answer) => match self.whole(answer.into_body(), &mut call, provider).await {
                    Ok(response) => return Ok(response),
                    Err(trouble) => trouble,
                },
                Err(trouble) => trouble,
            };
            let stop = !trouble.try_another();
            // A provider's word about the request says more than another one's silence.
            if stop || !matches!(last, Trouble::Request(..)) {
                last = trouble;
            }
            if stop {
                break;
            }
        }
        call.outcome = Outcome::Failed;
        Err(last)
    }

    fn streamed(&self, answer: Incoming, call: Call, request: &ChatRequest, provider: &Provider) -> Response {
        let bytes_max = self.base.config.llm.max_answer_bytes;
        let failures = Arc::clone(&self.failures);
        let body = Streamed::new(answer, !request.wants_usage, call, failures, bytes_max, provider.timeout);
        let mut response = Response::new(Body::new(body));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        response
    }

    async fn whole(&self, answer: Incoming, call: &mut Call, provider: &Provider) -> Result<Response, Trouble> {
        let now = self.base.clock.now();
        let body = provider.read_whole(answer, self.base.config.llm.max_answer_bytes, now).await?;
        let Ok(read) = serde_json::from_slice::<Whole>(&body) else {
            return Err(provider.speaks_nonsense(now));
        };
        call.usage = read.usage.and_then(Usage::tokens);
        call.text_bytes = body.len() as u64;
        call.outcome = Outcome::Complete;
        Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
    }

    /// Keeps why a call was not let in, for whoever tells the bot's user.
    fn note(&self, bot: &Bot, error: &Error) {
        let code = if matches!(error, Error::QuotaExceeded { .. }) { "quota_exceeded" } else { "model_failed" };
        self.failures.note(&bot.id, Failure { code: code.to_owned(), detail: error.to_string() });
    }
}

fn is_stream(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"))
}

/// The routes of this role.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(api::chat_completions::handler)).routes(routes!(api::models::handler))
}

/// The loops of this role: none, but from now on it hears of changes.
pub fn loops(app: &App) -> Vec<Loop> {
    Arc::clone(&app.llm.keys).listen();
    Vec::new()
}
