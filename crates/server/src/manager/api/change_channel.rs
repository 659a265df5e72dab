//! `PATCH /tenants/{tenant}/channels/{channel}`

use astrfleet_core::{channel::Channel, policy::Action, ports::ChannelDraft};
use axum::{
    Json,
    extract::{Path, State},
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::get_channel::find;
use crate::{
    app::App,
    extract::{Body, InTenant, may},
    manager::talk::reachable,
    problem::Problem,
};

/// What is to be changed; the rest stays.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::manager) struct ChannelChange {
    /// Whether the bot is to serve it.
    enabled: Option<bool>,
    /// Settings that are to be changed; the others stay, and so does a secret that is `"***"`.
    #[schema(value_type = Option<Object>)]
    settings: Option<Map<String, Value>>,
}

/// Change a channel
///
/// Takes effect at once.
#[utoipa::path(
    patch, path = "/api/v1/tenants/{tenant}/channels/{channel}", tag = "channels", operation_id = "change_channel",
    params(("tenant" = String, Path, description = "Id or name"), ("channel" = String, Path, description = "Its id")),
    request_body = ChannelChange,
    responses(
        (status = 200, body = Channel), (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 403, body = Problem), (status = 404, body = Problem),
        (status = 409, body = Problem, description = "The bot is not ready"), (status = 503, body = Problem),
    ),
    security(("access_token" = [])),
)]
pub(in crate::manager) async fn handler(
    State(app): State<App>,
    of: InTenant<may::ChannelManage>,
    Path(path): Path<(String, String)>,
    Body(change): Body<ChannelChange>,
) -> Result<Json<Channel>, Problem> {
    let bot = app.manager.client(&of.tenant)?;
    let before = find(&*bot, &path.1).await?;
    let names: Vec<String> = change.settings.iter().flat_map(Map::keys).cloned().collect();
    let mut settings = before.settings;
    if let (Value::Object(settings), Some(changed)) = (&mut settings, change.settings) {
        settings.extend(changed);
    }
    let enabled = change.enabled.unwrap_or(before.enabled);
    let draft = ChannelDraft { id: before.id, kind: before.kind, enabled, settings };
    let channel = bot.change_channel(draft).await?;
    app.manager.forget_channels(&of.tenant);
    let detail = json!({"did": "change", "enabled": channel.enabled, "settings": names});
    app.auth.audit(&of.caller, Some(&of.tenant.id), Action::ChannelManage, &channel.id, detail).await?;
    Ok(Json(reachable(&of.tenant, channel)))
}
