//! Where each request goes, decided once on each worker: to the router of this process, or on to somebody else.

use std::sync::Arc;

use axum::response::IntoResponse;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;

use super::{
    body::Body,
    forward::{ForwardLimits, Forwarder},
    gate::{self, Gate, Route},
    listen::{Bound, ConnectionLimits, ListenError, Peer, Serving},
    upstream::{ForwardError, Pool, PoolLimits},
};
use crate::{
    app::{App, router},
    config::seconds,
    problem::{Problem, chain},
};

/// Takes requests in until `app.stop`, and then finishes those that run.
///
/// # Errors
/// Where the system gives us no threads.
pub fn serve(app: &App, bound: Bound) -> Result<Serving, ListenError> {
    let config = &app.config.gateway;
    let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let workers = if config.workers == 0 { workers } else { config.workers };
    let connections = ConnectionLimits {
        header_read: seconds(config.request_timeout_s),
        connections_max: (config.max_connections / workers).max(16),
        drain: seconds(config.drain_timeout_s),
        ..ConnectionLimits::default()
    };
    let forward = ForwardLimits {
        response_header: seconds(config.upstream_timeout_s),
        body_bytes_max: config.max_forwarded_body_bytes,
        ..ForwardLimits::default()
    };
    let (routes, home, app) = (router(app.clone()), tokio::runtime::Handle::current(), app.clone());
    let stop = app.stop.clone();
    bound.serve(
        move |worker| {
            let forwarder = Forwarder::new(Pool::new(PoolLimits::default(), worker.ticks()), forward, worker.ticks());
            Gate::new(Front { app: app.clone() }, forwarder, routes.clone(), home.clone())
        },
        connections,
        &stop,
    )
}

struct Front {
    #[expect(dead_code, reason = "hosts and remote roles are decided with it")]
    app: App,
}

impl gate::Front for Front {
    type Visit = ();

    fn enter(&self, _: &Peer, _: &mut Request<Incoming>) -> (Route, ()) {
        (Route::Local, ())
    }

    fn leave(&self, (): (), outcome: Result<Response<Body>, ForwardError>) -> Response<Body> {
        outcome.unwrap_or_else(|error| problem(&error).into_response().map(Body::from))
    }
}

/// What a client is told where an upstream failed.
fn problem(error: &ForwardError) -> Problem {
    tracing::warn!(error_code = "upstream", error = chain(error), "a request could not be passed on");
    let code = match error {
        ForwardError::Refused
        | ForwardError::Unreachable(_)
        | ForwardError::ConnectTimeout
        | ForwardError::Saturated => "unavailable",
        ForwardError::ResponseTimeout => "timeout",
        ForwardError::BrokeBeforeFirstByte(_) | ForwardError::BadAnswer(_) => "bad_gateway",
        ForwardError::BodyTooLarge { .. } => "too_large",
        ForwardError::ClientGone => "request_timeout",
        ForwardError::Crashed(_) => "internal",
    };
    Problem::new(code, error.to_string())
}

/// Serves `/metrics` on its own port, until `app.stop`. Returns the address; none where metrics are off.
///
/// # Errors
/// [`astrfleet_core::Error::Unavailable`] where the port is taken.
pub async fn serve_metrics(app: &App) -> astrfleet_core::Result<Option<std::net::SocketAddr>> {
    let Some(address) = app.config.gateway.metrics_listen else { return Ok(None) };
    let failed = |source: std::io::Error| {
        astrfleet_core::Error::unavailable(
            "the port for metrics",
            format!("{address}: {source}: set gateway.metrics_listen, or METRICS_ENABLED=false"),
        )
    };
    let listener = tokio::net::TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    let (metrics, stop) = (Arc::clone(&app.metrics), app.stop.clone());
    let render = move || {
        let text = metrics.render();
        async move {
            (
                StatusCode::OK,
                [(http::header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")],
                text,
            )
        }
    };
    let routes = axum::Router::new().route("/metrics", axum::routing::get(render));
    app.tasks.spawn(async move {
        axum::serve(listener, routes).with_graceful_shutdown(stop.cancelled_owned()).await.ok();
    });
    Ok(Some(bound))
}
