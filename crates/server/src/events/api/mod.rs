//! `/api/v1/tenants/{tenant}/events` and `…/sessions/{session}/events`: as a stream of events, or as a WebSocket.

mod position;
mod socket;
mod sse;
mod watch_session;
mod watch_tenant;

use std::sync::Arc;

use astrfleet_core::{Error, id::SessionId};
use axum::{
    extract::{FromRequestParts, Request, ws::WebSocketUpgrade},
    http::HeaderMap,
    response::Response,
};
use serde_json::{Value, json};
use utoipa_axum::{router::OpenApiRouter, routes};

use self::position::Wanted;
use super::{Heard, guard::Reader};
use crate::{
    app::App,
    extract::{InTenant, credential, may, peer},
    problem::Problem,
};

/// The routes of this folder.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(watch_tenant::handler)).routes(routes!(watch_session::handler))
}

/// Answers with a stream, or by becoming a WebSocket, as is asked.
async fn follow(
    app: App,
    of: InTenant<may::EventRead>,
    session: Option<SessionId>,
    request: Request,
) -> Result<Response, Problem> {
    of.tenant.must_be_served()?;
    let (mut parts, _) = request.into_parts();
    let Wanted { seen, only_past } = position::read(&parts)?;
    // Whoever says no place has one from here on.
    let place_is_news = seen.is_none();
    let tail = app.events.follow(&of.tenant.id, session, seen).await?;
    let tail = if only_past { tail.only_past() } else { tail };
    let proof = credential(&parts.headers).unwrap_or_default().to_owned().into();
    let reader = Arc::new(Reader { of, credential: proof, peer: peer(&parts.extensions) });
    if !wants_socket(&parts.headers) {
        return Ok(sse::response(app, reader, tail, place_is_news));
    }
    let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &app).await.map_err(|rejection| {
        Problem::from(Error::invalid("Upgrade", format!("cannot become a WebSocket: {}", rejection.body_text())))
    })?;
    Ok(socket::response(app, reader, tail, upgrade))
}

/// The id, the name and the data of what is told.
fn told(heard: &Heard) -> (String, &str, Value) {
    match heard {
        Heard::Event(event) => (event.id.to_string(), &event.kind, json!(**event)),
        Heard::Gap(id) => (id.to_string(), "gap", json!({})),
        Heard::End(id) => (id.to_string(), "end", json!({})),
    }
}

fn wants_socket(headers: &HeaderMap) -> bool {
    headers.get("upgrade").is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
}
