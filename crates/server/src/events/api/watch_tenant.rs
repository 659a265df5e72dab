//! `GET /api/v1/tenants/{tenant}/events`: everything that happens in a tenant's conversations.

use astrfleet_core::event::Event;
use axum::{
    extract::{Request, State},
    response::Response,
};

use super::position::Position;
use crate::{
    app::App,
    extract::{InTenant, may},
    problem::Problem,
};

/// Follow what happens in a tenant
///
/// A stream of events, named by their `type`, each with an `id` to go on after. The same path is a WebSocket for whoever
/// asks for one (`Upgrade: websocket`): each text is `{"id", "event", "data"}`. An event `gap` says that something is
/// missing before what follows: read anew what you need. An event `refused` is the last one: the right to read has
/// ended. Who says no place gets one first, as an `id` without an event.
#[utoipa::path(
    get, path = "/api/v1/tenants/{tenant}/events", tag = "events", operation_id = "watch_tenant",
    params(
        ("tenant" = String, Path, description = "Id or name"),
        ("Last-Event-ID" = Option<String>, Header, description = "Goes on after this event"),
        Position,
    ),
    responses(
        (status = 200, content_type = "text/event-stream", body = Event),
        (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 403, body = Problem, description = "Not allowed to, or the tenant is suspended"),
        (status = 404, body = Problem),
        (status = 429, body = Problem, description = "Too many streams are open"),
    ),
    security(("access_token" = []), ("api_key" = [])),
)]
pub(super) async fn handler(
    State(app): State<App>,
    of: InTenant<may::EventRead>,
    request: Request,
) -> Result<Response, Problem> {
    super::follow(app, of, None, request).await
}
