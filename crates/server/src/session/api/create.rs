//! `POST /api/v1/tenants/{tenant}/sessions`: a conversation begins.

use astrfleet_core::{
    ports::BusEvent,
    session::{Session, State as SessionState},
    text,
};
use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::check_metadata;
use crate::{
    app::App,
    context,
    extract::{Body, InTenant, etag, may},
    problem::Problem,
};

const MAX_END_USER_CHARS: usize = 128;
/// The channel of whoever writes through this API.
const API: &str = "api";

/// A conversation to be opened.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewSession {
    /// Your own name of whoever writes: 1 to 128 characters. The bot keeps a memory for each.
    end_user: String,
    /// Where they write; `api` where nothing is said.
    channel: Option<String>,
    /// Whatever you want to keep with it: an object of at most 4 KiB.
    #[schema(value_type = Option<Object>)]
    metadata: Option<Value>,
}

/// Opens a session.
#[utoipa::path(
    post, path = "/api/v1/tenants/{tenant}/sessions", tag = "sessions", operation_id = "session_create",
    params(("tenant" = String, Path, description = "Id or name")),
    request_body = NewSession,
    responses(
        (status = 201, body = Session, description = "Open; `Location` and `ETag` are set"),
        (status = 400, body = Problem), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem), (status = 429, body = Problem),
    ),
    security(("access_token" = []), ("api_key" = [])),
)]
#[tracing::instrument(skip_all, name = "session_create")]
pub(super) async fn handler(
    State(app): State<App>,
    caller: InTenant<may::SessionWrite>,
    Body(body): Body<NewSession>,
) -> Result<impl IntoResponse + use<>, Problem> {
    let tenant = &caller.tenant;
    tenant.must_be_served()?;
    let end_user = text::display_name("end_user", &body.end_user, MAX_END_USER_CHARS)?;
    let channel = body.channel.unwrap_or_else(|| API.to_owned());
    text::channel("channel", &channel)?;
    let metadata = body.metadata.unwrap_or_else(|| json!({}));
    check_metadata(&metadata)?;
    let now = app.clock.now();
    let session = Session {
        id: app.ids.session(),
        tenant_id: tenant.id.clone(),
        end_user,
        channel,
        umo: None,
        state: SessionState::Bot,
        close_reason: None,
        metadata,
        generation: 0,
        created_at: now,
        last_active_at: now,
        version: 1,
    };
    context::note(|known| known.session = Some(session.id.clone()));
    app.store.sessions(&tenant.id).insert(&session).await?;
    app.bus.publish(BusEvent::SessionChanged(tenant.id.clone(), session.id.clone()));
    let location = format!("/api/v1/tenants/{}/sessions/{}", tenant.id, session.id);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], (etag(session.version), Json(session))))
}
