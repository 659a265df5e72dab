//! `GET /instances`

use astrfleet_core::page::Page;
use axum::{Json, extract::State};

use super::{view::InstanceView, watch};
use crate::{
    app::App,
    extract::{OnPlatform, PageParams, PageQuery, may},
    problem::Problem,
};

/// All bots of the platform
#[utoipa::path(
    get, path = "/api/v1/instances", tag = "fleet", operation_id = "list_instances",
    params(PageParams),
    responses(
        (status = 200, body = Page<InstanceView>), (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 403, body = Problem),
    ),
    security(("access_token" = [])),
)]
pub(in crate::manager) async fn handler(
    State(app): State<App>,
    _: OnPlatform<may::FleetRead>,
    PageQuery(page): PageQuery,
) -> Result<Json<Page<InstanceView>>, Problem> {
    let found = app.store.system("an administrator lists the bots of all tenants").instances(&page).await?;
    let next_cursor = found.next_cursor;
    Ok(Json(Page { items: watch::views(&app, found.items).await?, next_cursor }))
}
