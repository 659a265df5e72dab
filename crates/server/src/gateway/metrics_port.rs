//! `/metrics`, on a port of its own: nothing else is there, and it is nowhere else.

use std::{net::SocketAddr, sync::Arc};

use astrfleet_core::{Error, Result};
use axum::{Router, routing::get};
use http::header;

use crate::app::App;

/// Serves `/metrics` on its own port, until `app.stop`. Returns the address; none where metrics are off.
///
/// # Errors
/// [`Error::Unavailable`] where the port is taken.
pub async fn serve_metrics(app: &App) -> Result<Option<SocketAddr>> {
    let Some(address) = app.config.gateway.metrics_listen else { return Ok(None) };
    let failed = |source: std::io::Error| {
        Error::unavailable(
            "the port for metrics",
            format!("{address}: {source}: set gateway.metrics_listen, or METRICS_ENABLED=false"),
        )
    };
    let listener = tokio::net::TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    let (metrics, stop) = (Arc::clone(&app.metrics), app.stop.clone());
    let render = move || {
        let text = metrics.render();
        async move { ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text) }
    };
    let routes = Router::new().route("/metrics", get(render));
    app.tasks.spawn(async move {
        if let Err(error) = axum::serve(listener, routes).with_graceful_shutdown(stop.cancelled_owned()).await {
            tracing::warn!(error_code = "unavailable", %error, "metrics can no longer be read");
        }
    });
    Ok(Some(bound))
}
