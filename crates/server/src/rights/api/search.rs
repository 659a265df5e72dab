//! `GET /tenants/{tenant}/messages`

use astrfleet_core::{
    Error,
    page::Page,
    search::{Found, Query as SearchQuery},
};
use axum::{
    Json,
    extract::{Query, State, rejection::QueryRejection},
};
use serde::Deserialize;

use crate::{
    app::App,
    extract::{InTenant, PageParams, PageQuery, may},
    problem::Problem,
    rights::search,
};

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Wanted {
    /// Words that a message has to have, all of them: at most 8, of at most 200 characters together. Case does not
    /// matter. A word is found where one begins with it; Chinese, Japanese, Korean and Thai anywhere.
    #[param(example = "订单 refund")]
    q: String,
}

/// Search in what was said
///
/// In all sessions of the tenant, the newest first. A page may have fewer than `limit`, even none, and a `next_cursor`
/// nevertheless: the search went so far and goes on from there.
#[utoipa::path(
    get, path = "/api/v1/tenants/{tenant}/messages", tag = "messages", operation_id = "message_search",
    params(("tenant" = String, Path, description = "Id or name"), Wanted, PageParams),
    responses(
        (status = 200, body = Page<Found>), (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 403, body = Problem), (status = 404, body = Problem), (status = 429, body = Problem),
    ),
    security(("access_token" = []), ("api_key" = [])),
)]
#[tracing::instrument(skip_all, name = "message_search")]
pub(super) async fn handler(
    State(app): State<App>,
    of: InTenant<may::MessageRead>,
    wanted: Result<Query<Wanted>, QueryRejection>,
    PageQuery(page): PageQuery,
) -> Result<Json<Page<Found>>, Problem> {
    let Query(wanted) = wanted.map_err(|_| Error::invalid("q", "must be given: the words to look for"))?;
    let query = SearchQuery::parse(&wanted.q)?;
    Ok(Json(search::search(&app, &of.tenant.id, &query, &page).await?))
}
