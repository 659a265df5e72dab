//! `GET /tenants/{tenant}/invitations`

use astrfleet_core::{member::Invitation, page::Page};
use axum::{Json, extract::State};

use crate::{
    app::App,
    extract::{InTenant, PageParams, PageQuery, may},
    problem::Problem,
};

/// List invitations
///
/// The newest last, those taken up too. Tokens are never shown again.
#[utoipa::path(
    get, path = "/api/v1/tenants/{tenant}/invitations", tag = "members", operation_id = "list_invitations",
    params(("tenant" = String, Path, description = "Id or name"), PageParams),
    responses(
        (status = 200, body = Page<Invitation>), (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 403, body = Problem), (status = 404, body = Problem),
    ),
    security(("access_token" = [])),
)]
pub(super) async fn handler(
    State(app): State<App>,
    of: InTenant<may::InvitationManage>,
    PageQuery(page): PageQuery,
) -> Result<Json<Page<Invitation>>, Problem> {
    Ok(Json(app.store.invitations(&of.tenant.id).list(&page).await?))
}
