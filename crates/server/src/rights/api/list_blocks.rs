//! `GET /tenants/{tenant}/blocklist`

use astrfleet_core::{blocklist::Block, page::Page};
use axum::{Json, extract::State};

use crate::{
    app::App,
    extract::{InTenant, PageParams, PageQuery, may},
    problem::Problem,
};

/// List who is blocked
///
/// The newest last; entries whose time is over are shown until they are removed.
#[utoipa::path(
    get, path = "/api/v1/tenants/{tenant}/blocklist", tag = "blocklist", operation_id = "blocklist_list",
    params(("tenant" = String, Path, description = "Id or name"), PageParams),
    responses(
        (status = 200, body = Page<Block>), (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 403, body = Problem), (status = 404, body = Problem),
    ),
    security(("access_token" = [])),
)]
pub(super) async fn handler(
    State(app): State<App>,
    of: InTenant<may::BlocklistManage>,
    PageQuery(page): PageQuery,
) -> Result<Json<Page<Block>>, Problem> {
    Ok(Json(app.store.blocklist(&of.tenant.id).list(&page).await?))
}
