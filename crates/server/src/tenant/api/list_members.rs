//! `GET /tenants/{tenant}/members`

use astrfleet_core::{member::Member, page::Page};
use axum::{Json, extract::State};

use crate::{
    app::App,
    extract::{InTenant, PageParams, PageQuery, may},
    problem::Problem,
};

/// List members
///
/// By their id.
#[utoipa::path(
    get, path = "/api/v1/tenants/{tenant}/members", tag = "members", operation_id = "list_members",
    params(("tenant" = String, Path, description = "Id or name"), PageParams),
    responses(
        (status = 200, body = Page<Member>), (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 403, body = Problem), (status = 404, body = Problem),
    ),
    security(("access_token" = [])),
)]
pub(super) async fn handler(
    State(app): State<App>,
    of: InTenant<may::MemberRead>,
    PageQuery(page): PageQuery,
) -> Result<Json<Page<Member>>, Problem> {
    Ok(Json(app.store.members(&of.tenant.id).list(&page).await?))
}
