//! `POST /tenants/{tenant}/blocklist`

use astrfleet_core::{blocklist::Block, policy::Action, time::Timestamp};
use axum::{Json, extract::State, http::StatusCode, response::IntoResponse};
use serde::Deserialize;
use serde_json::json;

use crate::{
    app::App,
    extract::{Body, InTenant, may},
    problem::Problem,
};

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewBlock {
    /// Your own name of whoever is not to be heard, as in their sessions: 1 to 128 characters.
    end_user: String,
    /// `api`, or a channel's id; every one where nothing is said.
    channel: Option<String>,
    /// For your own people: a line of 1 to 500 characters.
    reason: Option<String>,
    /// Until when; for good where nothing is said.
    until: Option<Timestamp>,
}

/// Block an end user
///
/// From here on their messages are refused with `blocked`, and those that come over a channel are dropped. Somebody who
/// is on the list for that channel stays there with the new reason and end.
#[utoipa::path(
    post, path = "/api/v1/tenants/{tenant}/blocklist", tag = "blocklist", operation_id = "blocklist_add",
    params(("tenant" = String, Path, description = "Id or name")),
    request_body = NewBlock,
    responses(
        (status = 201, body = Block), (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 403, body = Problem), (status = 404, body = Problem),
        (status = 409, body = Problem, description = "The list is full"),
    ),
    security(("access_token" = [])),
)]
pub(super) async fn handler(
    State(app): State<App>,
    of: InTenant<may::BlocklistManage>,
    Body(body): Body<NewBlock>,
) -> Result<impl IntoResponse, Problem> {
    let block = Block {
        id: app.ids.block(),
        channel: body.channel,
        end_user: body.end_user,
        reason: body.reason,
        until: body.until,
        created_by: of.caller.actor().to_owned(),
        created_at: app.clock.now(),
    };
    let stored = app.tenant.block(&of.tenant.id, block).await?;
    // Not who it is: the log outlives what an end user may have erased.
    let detail = json!({"blocked": true, "channel": stored.channel, "until": stored.until});
    app.auth.audit(&of.caller, Some(&of.tenant.id), Action::BlocklistManage, stored.id.as_str(), detail).await?;
    Ok((StatusCode::CREATED, Json(stored)))
}
