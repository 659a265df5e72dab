//! `GET /api/v1/tenants/{tenant}/sessions/{session}/messages`: what was said.

use astrfleet_core::{message::Message, page::Page};
use axum::{
    Json,
    extract::{Path, State},
};

use super::ids;
use crate::{
    app::App,
    extract::{InTenant, PageQuery, may},
    problem::Problem,
};

/// Lists the messages of a session, the newest last.
///
/// Without a cursor: the newest ones. A cursor leads to older ones.
#[utoipa::path(
    get, path = "/api/v1/tenants/{tenant}/sessions/{session}/messages", tag = "messages", operation_id = "message_list",
    params(
        ("tenant" = String, Path, description = "Id or name"),
        ("session" = String, Path, description = "`ses_…`"),
        ("limit" = Option<u32>, Query, description = "1 to 200; without it 50"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
    ),
    responses(
        (status = 200, body = Page<Message>),
        (status = 400, body = Problem), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem), (status = 429, body = Problem),
    ),
    security(("access_token" = []), ("api_key" = [])),
)]
#[tracing::instrument(skip_all, name = "message_list")]
pub(super) async fn handler(
    State(app): State<App>,
    caller: InTenant<may::MessageRead>,
    Path((_tenant, session)): Path<(String, String)>,
    PageQuery(page): PageQuery,
) -> Result<Json<Page<Message>>, Problem> {
    let (session, _) = ids(&session, None)?;
    let tenant = &caller.tenant.id;
    app.store.sessions(tenant).get(&session).await?;
    Ok(Json(app.store.messages(tenant).list(&session, &page).await?))
}
