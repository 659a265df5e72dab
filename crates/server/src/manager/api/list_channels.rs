//! `GET /tenants/{tenant}/channels`

use astrfleet_core::{channel::Channel, page::Page};
use axum::{Json, extract::State};

use crate::{
    app::App,
    extract::{InTenant, may},
    manager::talk::reachable,
    problem::Problem,
};

/// The bot's channels
///
/// The IM platforms that it serves. Secrets are never shown: each is `"***"`.
#[utoipa::path(
    get, path = "/api/v1/tenants/{tenant}/channels", tag = "channels", operation_id = "list_channels",
    params(("tenant" = String, Path, description = "Id or name")),
    responses(
        (status = 200, body = Page<Channel>), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem), (status = 409, body = Problem, description = "The bot is not ready"),
        (status = 503, body = Problem),
    ),
    security(("access_token" = [])),
)]
pub(in crate::manager) async fn handler(
    State(app): State<App>,
    of: InTenant<may::ChannelRead>,
) -> Result<Json<Page<Channel>>, Problem> {
    let channels = app.manager.client(&of.tenant)?.channels().await?;
    // Always all of them: a bot has few.
    let items = channels.into_iter().map(|channel| reachable(&of.tenant, channel)).collect();
    Ok(Json(Page { items, next_cursor: None }))
}
