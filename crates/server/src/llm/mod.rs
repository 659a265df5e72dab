//! Role `llm`: the gateway between bots and providers of models. OpenAI's shapes and errors.
//!
//! A call is let in by `keys` and `admission`, read by `request`, answered by one of `provider`s (or `demo`, or `cache`),
//! passed on by `answer`, counted by `call` and `ledger`. Nothing here logs what anybody wrote, and nothing keeps it but
//! the cache, where it is switched on.

mod admission;
mod answer;
mod api;
mod cache;
mod call;
pub mod demo;
pub mod error;
mod failures;
mod keys;
mod ledger;
mod prompt;
mod provider;
mod request;
mod rounds;
mod scan;

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use astrfleet_core::{Error, Result, id::InstanceId, message::Failure, time::Timestamp, usage::Outcome};
use axum::{
    body::Body,
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::Deserialize;
use tokio::time::timeout;
use utoipa_axum::{router::OpenApiRouter, routes};

use self::{
    admission::Admitted,
    answer::{Opened, Streamed},
    cache::{Answers, Slot},
    call::{Call, Source},
    error::OpenAiError,
    failures::Failures,
    keys::{Bot, Keys},
    ledger::Ledger,
    provider::{HttpClient, Provider, Trouble},
    request::ChatRequest,
    scan::{Usage, tells_of_an_error},
};
use crate::{
    app::{App, Base},
    config::seconds,
    loops::Loop,
    quota::purse::TEND_EVERY,
    tenant,
};

/// After so long providers of which none answered are asked once more.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Calls models and keeps the ledger.
pub struct Service {
    base: Arc<Base>,
    keys: Arc<Keys>,
    ledger: Arc<Ledger>,
    failures: Arc<Failures>,
    client: HttpClient,
    providers: Vec<Arc<Provider>>,
    demo: Arc<Source>,
    answers: Answers,
}

/// An answer that is not streamed, as far as we read it.
#[derive(Deserialize)]
struct Whole {
    usage: Option<Usage>,
}

/// When providers that failed lately are asked.
#[derive(Clone, Copy)]
enum LeftOut {
    /// After all others.
    Last,
    Never,
}

/// What a provider gave.
enum Answered {
    Whole(Bytes),
    Stream(Opened),
}

impl Service {
    /// Prepares the upstreams.
    ///
    /// # Errors
    /// [`astrfleet_core::Error::Invalid`] where an upstream's address cannot be read.
    pub fn new(base: Arc<Base>, tenants: Arc<tenant::Service>) -> Result<Self> {
        let providers = provider::providers(&base.config.llm, &base.metrics, &base.clock)?;
        Ok(Self {
            keys: Arc::new(Keys::new(Arc::clone(&base), tenants)),
            ledger: Arc::new(Ledger::new(Arc::clone(&base))),
            failures: Arc::new(Failures::new(Arc::clone(&base.clock))),
            client: provider::client(&providers)?,
            demo: Arc::new(Source::new(demo::MODEL, &base.metrics)),
            answers: Answers::new(&base.config.llm.cache, &base.metrics, &base.cache),
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
        let others: BTreeSet<&str> = self.providers.iter().flat_map(|provider| provider.known_models()).collect();
        let others = others.into_iter().filter(|model| *model != configured);
        Ok([configured].into_iter().chain(others).map(str::to_owned).collect())
    }

    /// Answers a request for a completion.
    pub(in crate::llm) async fn complete(&self, headers: &HeaderMap, body: Body) -> Result<Response, OpenAiError> {
        let bot = self.keys.bot(headers).await?;
        let request = ChatRequest::read(self.read(body).await?)?;
        self.ledger.has_room()?;
        let slot = self.answers.slot(&bot.tenant, &request);
        if let Some(slot) = &slot
            && let Some(known) = slot.known().await
        {
            let hit = bot.gates.hit(self.base.config.llm.concurrent_calls)?;
            Call::count_cached(&self.base, &self.ledger, &self.answers.source, &bot, hit, &request.model);
            return Ok(known);
        }
        let mut call = self.admit(&bot, &request).await.inspect_err(|error| self.note(&bot, error))?;
        if self.providers.is_empty() {
            call.asks(&self.demo, demo::MODEL);
            let (response, used) = demo::respond(&request, &self.base.ids.request(), self.base.clock.now())?;
            (call.usage, call.outcome) = (Some(used), Outcome::Complete);
            return Ok(response);
        }
        self.ask(call, &request, slot).await.map_err(|trouble| {
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
    async fn admit(&self, bot: &Arc<Bot>, request: &ChatRequest) -> Result<Call> {
        let calls_max = self.base.config.llm.concurrent_calls;
        let admitted = Admitted::of(bot, calls_max, request.estimate(), self.base.clock.now()).await?;
        Ok(Call::begin(&self.base, &self.ledger, bot, admitted, request))
    }

    /// Asks the providers, and once more after a moment where none of them was given the prompt: whoever asks us takes our
    /// word as the last one.
    async fn ask(&self, mut call: Call, request: &ChatRequest, slot: Option<Slot>) -> Result<Response, Trouble> {
        let nobody = Trouble::Failed("no provider is configured".to_owned());
        let mut asked = self.ask_all(&mut call, request, LeftOut::Last, nobody).await;
        if let Err(trouble @ Trouble::Failed(_)) = asked {
            tokio::time::sleep(ASK_AGAIN_AFTER).await;
            asked = self.ask_all(&mut call, request, LeftOut::Never, trouble).await;
        }
        match asked? {
            (Answered::Whole(body), _) => {
                if let Some(slot) = slot {
                    slot.keep(false, &body);
                }
                Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
            }
            (Answered::Stream(opened), provider) => {
                let streamed = Streamed::new(opened, call, Arc::clone(provider), Arc::clone(&self.failures));
                Ok(stream_response(Body::new(streamed.kept_in(slot))))
            }
        }
    }

    /// Asks one provider after the other until one answers. Where none does it is the last one's trouble, or else `last`.
    async fn ask_all(
        &self,
        call: &mut Call,
        request: &ChatRequest,
        asked: LeftOut,
        mut last: Trouble,
    ) -> Result<(Answered, &Arc<Provider>), Trouble> {
        let (mut next, mut left_out) = (self.providers.iter(), VecDeque::new());
        loop {
            let provider = match next.next() {
                Some(provider) if provider.begin() => provider,
                Some(provider) => {
                    left_out.push_back(provider);
                    continue;
                }
                None => match left_out.pop_front() {
                    Some(provider) if matches!(asked, LeftOut::Last) => provider,
                    _ => break,
                },
            };
            let trouble = match self.ask_one(provider, call, request).await {
                Ok(answered) => return Ok((answered, provider)),
                Err(trouble) => trouble,
            };
            provider.remember(&trouble);
            call.given = trouble.was_given();
            call.gave_up();
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

    /// Asks one provider. Of a whole answer everything is known then, of a stream that it has begun.
    async fn ask_one(&self, provider: &Provider, call: &mut Call, request: &ChatRequest) -> Result<Answered, Trouble> {
        let model = provider.model(&request.model);
        call.asks(&provider.source, model);
        let answer = provider.ask(&self.client, request.body_for(model), request.stream).await?;
        let bytes_max = self.base.config.llm.max_answer_bytes;
        if request.stream && is_stream(answer.headers()) {
            let opening = Opened::read(answer.into_body(), !request.wants_usage, bytes_max, provider.timeout);
            return opening.await.map(Answered::Stream);
        }
        let (body, ended) = provider.read_whole(answer.into_body(), bytes_max).await;
        call.text_bytes = body.len() as u64;
        ended?;
        let Ok(read) = serde_json::from_slice::<Whole>(&body) else {
            // An object without its end was an answer.
            let is_cut = body.trim_ascii_start().starts_with(b"{");
            return Err(if is_cut { Trouble::BrokeOff } else { Trouble::Failed }("its answer is not JSON".to_owned()));
        };
        call.usage = read.usage.and_then(Usage::tokens);
        if tells_of_an_error(&body) {
            return Err(Trouble::Failed("it answered HTTP 200 and an error".to_owned()));
        }
        call.outcome = Outcome::Complete;
        provider.worked();
        Ok(Answered::Whole(body))
    }

    /// Keeps why a call was not let in, for whoever tells the bot's user.
    fn note(&self, bot: &Bot, error: &Error) {
        let code = if matches!(error, Error::QuotaExceeded { .. }) { "quota_exceeded" } else { "model_failed" };
        self.failures.note(&bot.id, Failure { code: code.to_owned(), detail: error.to_string() });
    }
}

fn stream_response(body: Body) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

fn is_stream(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"))
}

/// The routes of this role.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(api::chat_completions::handler)).routes(routes!(api::models::handler))
}

/// The loops of this role. From now on it hears of changes, too.
pub fn loops(app: &App) -> Vec<Loop> {
    Arc::clone(&app.llm.keys).listen();
    let purses = Arc::clone(app.llm.keys.purses());
    purses.give_back_at_the_end();
    vec![Loop::every("llm.tend_budgets", TEND_EVERY, move || {
        let purses = Arc::clone(&purses);
        async move { purses.tend().await }
    })]
}
