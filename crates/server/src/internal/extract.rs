//! What a request from another process of the platform shows, checked once, and what handlers take out of it.

use std::{net::SocketAddr, ops::Deref, sync::Arc};

use axum::{
    extract::{ConnectInfo, FromRequestParts, Request, State},
    http::{HeaderValue, StatusCode, request::Parts},
    middleware::Next,
    response::Response,
};

use super::{IDENTITY, Identity};
use crate::{app::App, problem::Problem};

/// The identity that a request shows, not looked at yet.
#[derive(Clone, Debug)]
pub struct Shown(pub HeaderValue);

/// Another process of the platform sent this request, and says this about it.
#[derive(Clone, Debug)]
pub struct Vouched(Arc<Identity>);

impl Deref for Vouched {
    type Target = Identity;

    fn deref(&self) -> &Identity {
        &self.0
    }
}

/// Around every route: an identity that is one of ours counts from here on, one that is not is as if it were not there.
pub async fn layer(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let shown = request.extensions_mut().remove::<Shown>().map(|shown| shown.0);
    let Some(shown) = shown.or_else(|| request.headers_mut().remove(IDENTITY)) else { return next.run(request).await };
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    match app.fleet.verify(&shown, request.method(), target, app.clock.now()) {
        None => tracing::warn!(
            "a request shows an identity that is none of ours, or too old: compare JWT_SECRET and the clocks"
        ),
        Some(identity) => {
            // Whatever is counted by address is counted by the client's, not by the gateway's.
            if let Some(client) = identity.client {
                request.extensions_mut().insert(ConnectInfo(SocketAddr::new(client, 0)));
            }
            request.extensions_mut().insert(Vouched(Arc::new(identity)));
        }
    }
    next.run(request).await
}

/// The platform itself calls, from another of its processes. For everybody else there is nothing at this address.
#[derive(Clone, Copy, Debug)]
pub struct FromFleet;

impl FromRequestParts<App> for FromFleet {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Problem> {
        match parts.extensions.get::<Vouched>() {
            Some(vouched) if vouched.is_own() => Ok(Self),
            _ => Err(Problem::of_status(StatusCode::NOT_FOUND, "", None)),
        }
    }
}
