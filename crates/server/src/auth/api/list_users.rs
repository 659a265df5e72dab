//! `GET /users`: everybody who can log in.

use astrfleet_core::{page::Page, user::User};
use axum::{Json, extract::State};

use crate::{
    app::App,
    extract::{OnPlatform, PageParams, PageQuery, may},
    problem::Problem,
};

/// List users
///
/// The newest last.
#[utoipa::path(
    get, path = "/api/v1/users", tag = "users", operation_id = "list_users",
    params(PageParams),
    responses(
        (status = 200, body = Page<User>), (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 403, body = Problem),
    ),
    security(("access_token" = [])),
)]
pub(super) async fn handler(
    State(app): State<App>,
    _: OnPlatform<may::UserManage>,
    PageQuery(page): PageQuery,
) -> Result<Json<Page<User>>, Problem> {
    Ok(Json(app.store.users().list(&page).await?))
}
