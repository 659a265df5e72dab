//! What surrounds every request that this process answers itself: its context, the headers that every answer has,
//! counts, one log line, and problems in place of whatever a framework or a defect would say. Never what was said:
//! no body, no query, no header's value.

use std::{
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use astrfleet_core::ports::{Limit, Verdict};
use axum::{
    body::Body,
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::FutureExt;
use hyper::body::{Body as HttpBody, Frame, SizeHint};

use super::{
    arrival::{read_some, watched},
    dashboard::ForDashboard,
    trace,
};
use crate::{
    app::App,
    config::seconds,
    context::RequestContext,
    metrics::{EndpointLabels, Metrics, RequestLabels},
    problem::Problem,
};

/// The endpoint of whatever no route is for.
pub const UNMATCHED: &str = "unmatched";
/// The endpoint of everything on a bot's own host.
pub const DASHBOARD: &str = "dashboard";
/// What the log says of a request whose client went away first (nginx's number for it).
const CLIENT_GONE: u16 = 499;
/// The most of a framework's own error text that is taken over.
const FOREIGN_TEXT_BYTES_MAX: usize = 1_024;
const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// The layer.
pub async fn layer(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let context = named(&app, request.headers_mut());
    let mut record = Record::new(&app, &request, context.clone());
    let (parts, body) = request.into_parts();
    let openai = parts.uri.path().starts_with("/llm/");
    let (body, late) = watched(body, seconds(app.config.gateway.request_timeout_s));
    let handled = context.scope(AssertUnwindSafe(next.run(Request::from_parts(parts, body))).catch_unwind()).await;
    let response = context.scope(settled(handled.ok(), late.is_late(), openai)).await;
    let mut response = response;
    mark(response.headers_mut(), &context);
    record.status = response.status().as_u16();
    record.is_stream = is_stream(response.headers());
    if !record.is_stream {
        return response;
    }
    response.map(|body| Body::new(Observed { body, _record: record }))
}

/// Gives a request its names, and writes them into its headers for whoever it is passed on to.
fn named(app: &App, headers: &mut HeaderMap) -> RequestContext {
    let own = app.ids.request();
    let context = match trace::given_id(headers).and_then(|id| id.to_str().ok()) {
        Some(id) => RequestContext::new(id.to_owned()),
        None => RequestContext::fresh(&own),
    };
    if let Ok(id) = HeaderValue::from_str(context.request_id()) {
        headers.insert(trace::REQUEST_ID, id);
    }
    if !trace::has_trace(headers)
        && let Some(made) = trace::new_trace(&own)
    {
        headers.insert(trace::TRACEPARENT, made);
    }
    context
}

/// An answer of ours, whatever became of the handler.
async fn settled(response: Option<Response>, late: bool, openai: bool) -> Response {
    let Some(response) = response else {
        // The panic's own text is on standard error already; it may hold anything.
        tracing::error!(error_code = "internal", "a handler panicked: a defect of ours");
        return Problem::new("internal", "an error of ours: it is logged under this request's id").into_response();
    };
    let failed = response.status().is_client_error() || response.status().is_server_error();
    if late && failed {
        return Problem::new("request_timeout", "the body did not arrive in time: send it again, without a pause")
            .into_response();
    }
    if !failed || openai || is_ours(response.headers()) {
        return response;
    }
    foreign(response).await
}

/// What the router or an extractor of the framework says, as a problem.
async fn foreign(response: Response) -> Response {
    let (parts, body) = response.into_parts();
    let text = read_some(body, FOREIGN_TEXT_BYTES_MAX).await;
    let text = text.as_deref().and_then(|text| std::str::from_utf8(text).ok()).unwrap_or_default().trim();
    let allowed = parts.headers.get(header::ALLOW).and_then(|methods| methods.to_str().ok());
    let mut answer = Problem::of_status(parts.status, text, allowed).into_response();
    if let Some(methods) = parts.headers.get(header::ALLOW) {
        answer.headers_mut().insert(header::ALLOW, methods.clone());
    }
    answer
}

fn is_ours(headers: &HeaderMap) -> bool {
    // Pages say what they have to say themselves.
    let kinds: [&[u8]; 3] = [b"application/problem+json", b"application/json", b"text/html"];
    headers.get(header::CONTENT_TYPE).is_some_and(|kind| kinds.iter().any(|known| kind.as_bytes().starts_with(known)))
}

/// Whether an answer is a stream of events.
pub fn is_stream(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"))
}

fn mark(headers: &mut HeaderMap, context: &RequestContext) {
    if let Ok(id) = HeaderValue::from_str(context.request_id()) {
        headers.insert(trace::REQUEST_ID, id);
    }
    let protections = [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    for (name, value) in protections {
        if !headers.contains_key(&name) {
            headers.insert(name, HeaderValue::from_static(value));
        }
    }
    if let Some((limit, verdict)) = context.known().rate {
        mark_rate(headers, limit, verdict);
    }
}

/// `RateLimit` and `RateLimit-Policy`, as draft-ietf-httpapi-ratelimit-headers-10 has them.
pub fn mark_rate(headers: &mut HeaderMap, limit: Limit, verdict: Verdict) {
    let (remaining, reset) = match verdict {
        Verdict::Allowed { remaining, reset } => (remaining, reset),
        Verdict::Refused { retry_after } => (0, retry_after),
    };
    let reset_s = reset.as_millis().div_ceil(1_000);
    let reset_s = u64::try_from(reset_s).unwrap_or(u64::MAX);
    let left = pairs("\"default\";r=", remaining.into(), ";t=", reset_s);
    let policy = pairs("\"default\";q=", limit.amount.into(), ";w=", limit.per.as_secs());
    for (name, value) in [(&RATE_LIMIT, left), (&RATE_LIMIT_POLICY, policy)] {
        if let Some(value) = value {
            headers.insert(name, value);
        }
    }
}

/// Two numbers behind two names. Every answer has two of these, and `format!` costs four times as much.
fn pairs(first: &str, one: u64, second: &str, other: u64) -> Option<HeaderValue> {
    let (mut one_text, mut other_text) = (itoa::Buffer::new(), itoa::Buffer::new());
    let text = [first, one_text.format(one), second, other_text.format(other)].concat();
    HeaderValue::from_maybe_shared(Bytes::from(text)).ok()
}

/// Counted and logged when it is dropped: after the answer, at the end of its stream, or when the client goes away.
struct Record {
    metrics: Arc<Metrics>,
    context: RequestContext,
    method: &'static str,
    endpoint: String,
    began: Instant,
    content_length: Option<u64>,
    status: u16,
    is_stream: bool,
}

impl Record {
    fn new(app: &App, request: &Request, context: RequestContext) -> Self {
        let extensions = request.extensions();
        let endpoint = match (extensions.get::<ForDashboard>(), extensions.get::<MatchedPath>()) {
            (Some(_), _) => DASHBOARD,
            (None, Some(path)) => path.as_str(),
            (None, None) => UNMATCHED,
        };
        let length = request.headers().get(header::CONTENT_LENGTH);
        app.metrics.in_flight.inc();
        Self {
            metrics: Arc::clone(&app.metrics),
            context,
            method: known_method(request.method()),
            endpoint: endpoint.to_owned(),
            began: Instant::now(),
            content_length: length.and_then(|length| length.to_str().ok()).and_then(|length| length.parse().ok()),
            status: CLIENT_GONE,
            is_stream: false,
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let (took, known) = (self.began.elapsed(), self.context.known());
        let (method, endpoint) = (self.method.to_owned(), self.endpoint.clone());
        self.metrics.in_flight.dec();
        let labels = EndpointLabels { method: method.clone(), endpoint: endpoint.clone() };
        let family = if self.is_stream { &self.metrics.streams } else { &self.metrics.durations };
        family.get_or_create(&labels).observe(took.as_secs_f64());
        self.metrics.requests.get_or_create(&RequestLabels { method, endpoint, status: self.status }).inc();
        tracing::info!(
            request_id = self.context.request_id(),
            method = self.method,
            endpoint = self.endpoint,
            status = self.status,
            tenant_id = known.tenant.as_ref().map(tracing::field::display),
            user_id = known.actor,
            session_id = known.session.as_ref().map(tracing::field::display),
            message_id = known.message.as_ref().map(tracing::field::display),
            error_code = known.error_code,
            content_length = self.content_length,
            processing_time_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            "request"
        );
    }
}

/// The method as a label: those that HTTP knows, so that nobody can make up more of them.
pub fn known_method(method: &Method) -> &'static str {
    const KNOWN: [&str; 7] = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"];
    KNOWN.into_iter().find(|known| *known == method.as_str()).unwrap_or("other")
}

/// A stream whose end is noted.
struct Observed {
    body: Body,
    _record: Record,
}

impl HttpBody for Observed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use astrfleet_core::ports::{Limit, Verdict};
    use axum::http::HeaderMap;

    use super::mark_rate;

    #[test]
    fn the_limit_is_written_as_the_draft_has_it() {
        let marked = |amount, verdict| {
            let mut headers = HeaderMap::new();
            mark_rate(&mut headers, Limit { amount, per: Duration::from_mins(1) }, verdict);
            let text = |name| headers[name].to_str().unwrap().to_owned();
            (text("ratelimit"), text("ratelimit-policy"))
        };
        let allowed = Verdict::Allowed { remaining: u32::MAX, reset: Duration::from_millis(1_001) };
        assert_eq!(
            marked(1_000, allowed),
            (r#""default";r=4294967295;t=2"#.to_owned(), r#""default";q=1000;w=60"#.to_owned())
        );
        let refused = Verdict::Refused { retry_after: Duration::ZERO };
        assert_eq!(marked(0, refused), (r#""default";r=0;t=0"#.to_owned(), r#""default";q=0;w=60"#.to_owned()));
    }
}
