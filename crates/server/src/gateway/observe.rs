//! What surrounds every request: its context, the headers that every answer has, counts, and one log line.

use std::time::Instant;

use astrfleet_core::ports::Verdict;
use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, HeaderValue, header},
    middleware::Next,
    response::Response,
};

use crate::{
    app::App,
    context::RequestContext,
    metrics::{EndpointLabels, RequestLabels},
};

const REQUEST_ID: &str = "x-request-id";

/// The layer.
pub async fn layer(State(app): State<App>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let context = request_id(request.headers())
        .map_or_else(|| RequestContext::fresh(&app.ids.request()), |id| RequestContext::new(id.to_owned()));
    let method = request.method().to_string();
    let endpoint = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| "unmatched".to_owned(), |path| path.as_str().to_owned());
    app.metrics.in_flight.inc();
    let mut response = context.scope(next.run(request)).await;
    app.metrics.in_flight.dec();
    if let Ok(value) = HeaderValue::from_str(context.request_id()) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    let known = context.known();
    if let Some((limit, verdict)) = known.rate {
        let (remaining, reset) = match verdict {
            Verdict::Allowed { remaining, reset } => (remaining, reset),
            Verdict::Refused { retry_after } => (0, retry_after),
        };
        let text = format!("\"default\";r={remaining};t={}", reset.as_secs());
        let policy = format!("\"default\";q={};w={}", limit.amount, limit.per.as_secs());
        for (name, text) in [("ratelimit", text), ("ratelimit-policy", policy)] {
            if let Ok(value) = HeaderValue::from_str(&text) {
                response.headers_mut().insert(name, value);
            }
        }
    }
    let status = response.status().as_u16();
    app.metrics
        .requests
        .get_or_create(&RequestLabels { method: method.clone(), endpoint: endpoint.clone(), status })
        .inc();
    let labels = EndpointLabels { method, endpoint };
    let is_stream = response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "text/event-stream");
    let family = if is_stream { &app.metrics.streams } else { &app.metrics.durations };
    family.get_or_create(&labels).observe(began.elapsed().as_secs_f64());
    tracing::info!(
        request_id = context.request_id(),
        method = labels.method,
        endpoint = labels.endpoint,
        status,
        tenant_id = known.tenant.as_ref().map(tracing::field::display),
        user_id = known.actor,
        session_id = known.session.as_ref().map(tracing::field::display),
        message_id = known.message.as_ref().map(tracing::field::display),
        error_code = known.error_code,
        processing_time_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        "request"
    );
    response
}

/// The id that whoever is in front of us gave, if it can be one.
fn request_id(headers: &HeaderMap) -> Option<&str> {
    let well_formed = |id: &&str| {
        (8..=64).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
    };
    headers.get(REQUEST_ID)?.to_str().ok().filter(well_formed)
}
