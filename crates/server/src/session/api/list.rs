//! `GET /api/v1/tenants/{tenant}/sessions`: a tenant's conversations.

use astrfleet_core::{Error, page::Page, session::Session};
use axum::{
    Json,
    extract::{Query, State},
};
use serde::Deserialize;

use crate::{
    app::App,
    extract::{InTenant, PageQuery, may},
    problem::Problem,
};

#[derive(Deserialize)]
pub(super) struct Wanted {
    end_user: Option<String>,
}

/// Lists sessions, the newest first.
#[utoipa::path(
    get, path = "/api/v1/tenants/{tenant}/sessions", tag = "sessions", operation_id = "session_list",
    params(
        ("tenant" = String, Path, description = "Id or name"),
        ("end_user" = Option<String>, Query, description = "Only those of this end user"),
        ("limit" = Option<u32>, Query, description = "1 to 200; without it 50"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
    ),
    responses(
        (status = 200, body = Page<Session>),
        (status = 400, body = Problem), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem), (status = 429, body = Problem),
    ),
    security(("access_token" = []), ("api_key" = [])),
)]
#[tracing::instrument(skip_all, name = "session_list")]
pub(super) async fn handler(
    State(app): State<App>,
    caller: InTenant<may::SessionRead>,
    Query(wanted): Query<Wanted>,
    PageQuery(page): PageQuery,
) -> Result<Json<Page<Session>>, Problem> {
    if wanted.end_user.as_ref().is_some_and(|end_user| end_user.contains('\0')) {
        return Err(Error::invalid("end_user", "cannot have U+0000 in it").into());
    }
    let sessions = app.store.sessions(&caller.tenant.id);
    Ok(Json(sessions.list(wanted.end_user.as_deref(), &page).await?))
}
