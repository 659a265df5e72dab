//! `POST /tenants/{tenant}/channels`

use astrfleet_core::{channel::Channel, policy::Action, ports::ChannelDraft};
use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{
    app::App,
    extract::{Body, InTenant, may},
    manager::talk::reachable,
    problem::Problem,
};

/// A channel to be added.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::manager) struct NewChannel {
    /// 1 to 32 of a-z, 0-9, `_` and `-`.
    #[schema(example = "shop", pattern = "^[a-z0-9_-]{1,32}$")]
    id: String,
    /// The bot's name of the IM platform.
    #[serde(rename = "type")]
    #[schema(example = "telegram")]
    kind: String,
    /// Whether the bot is to serve it.
    #[serde(default = "yes")]
    #[schema(default = true)]
    enabled: bool,
    /// What the IM platform needs: its secrets go in here, and never come out again.
    #[serde(default)]
    #[schema(value_type = Object, example = json!({"telegram_token": "123456:…"}))]
    settings: Map<String, Value>,
}

fn yes() -> bool {
    true
}

/// Add a channel
///
/// It begins to work at once. For an IM platform that delivers by webhook, `webhook_path` is the path below our address
/// that has to be given to it.
#[utoipa::path(
    post, path = "/api/v1/tenants/{tenant}/channels", tag = "channels", operation_id = "add_channel",
    params(("tenant" = String, Path, description = "Id or name")),
    request_body = NewChannel,
    responses(
        (status = 201, body = Channel, headers(("Location" = String, description = "Its address"))),
        (status = 400, body = Problem), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem), (status = 409, body = Problem, description = "The id is taken, or the bot is not ready"),
        (status = 503, body = Problem),
    ),
    security(("access_token" = [])),
)]
pub(in crate::manager) async fn handler(
    State(app): State<App>,
    of: InTenant<may::ChannelManage>,
    Body(new): Body<NewChannel>,
) -> Result<impl IntoResponse, Problem> {
    let NewChannel { id, kind, enabled, settings } = new;
    let draft = ChannelDraft { id, kind, enabled, settings: Value::Object(settings) };
    let channel = app.manager.client(&of.tenant)?.add_channel(draft).await?;
    app.manager.forget_channels(&of.tenant);
    let detail = json!({"did": "add", "type": channel.kind, "enabled": channel.enabled});
    app.auth.audit(&of.caller, Some(&of.tenant.id), Action::ChannelManage, &channel.id, detail).await?;
    let location = format!("/api/v1/tenants/{}/channels/{}", of.tenant.name, channel.id);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(reachable(&of.tenant, channel))))
}
