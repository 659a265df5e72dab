//! `GET /tenants/{tenant}/channels/{channel}`

use astrfleet_core::{Error, Result, channel::Channel, ports::BotClient};
use axum::{
    Json,
    extract::{Path, State},
};

use crate::{
    app::App,
    extract::{InTenant, may},
    manager::talk::reachable,
    problem::Problem,
};

/// One channel
///
/// Secrets are never shown: each is `"***"`.
#[utoipa::path(
    get, path = "/api/v1/tenants/{tenant}/channels/{channel}", tag = "channels", operation_id = "get_channel",
    params(("tenant" = String, Path, description = "Id or name"), ("channel" = String, Path, description = "Its id")),
    responses(
        (status = 200, body = Channel), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem), (status = 409, body = Problem, description = "The bot is not ready"),
        (status = 503, body = Problem),
    ),
    security(("access_token" = [])),
)]
pub(in crate::manager) async fn handler(
    State(app): State<App>,
    of: InTenant<may::ChannelRead>,
    Path(path): Path<(String, String)>,
) -> Result<Json<Channel>, Problem> {
    let found = find(&*app.manager.client(&of.tenant)?, &path.1).await?;
    Ok(Json(reachable(&of.tenant, found)))
}

/// The channel of this id.
pub(super) async fn find(bot: &dyn BotClient, id: &str) -> Result<Channel> {
    bot.channels().await?.into_iter().find(|channel| channel.id == id).ok_or(Error::NotFound { what: "channel" })
}
