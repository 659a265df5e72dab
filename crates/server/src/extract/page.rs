//! `?limit=…&cursor=…`

use astrfleet_core::page::PageRequest;
use axum::{
    RequestPartsExt,
    extract::{FromRequestParts, Query},
    http::request::Parts,
};
use serde::Deserialize;

use crate::{app::App, problem::Problem};

/// Which part of a list is wanted.
pub struct PageQuery(pub PageRequest);

/// The same, for the description of the API.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "it describes; `PageQuery` reads")]
pub struct PageParams {
    /// At most so many.
    #[param(minimum = 1, maximum = 200, default = 50)]
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

#[derive(Deserialize)]
struct Raw {
    limit: Option<String>,
    cursor: Option<String>,
}

impl FromRequestParts<App> for PageQuery {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Problem> {
        let Query(raw) = parts
            .extract::<Query<Raw>>()
            .await
            .map_err(|rejection| Problem::new("malformed", rejection.body_text()))?;
        // A number too large for us is out of range, not malformed.
        let limit = raw.limit.map(|limit| limit.parse().unwrap_or(0));
        Ok(Self(PageRequest::new(limit, raw.cursor.as_deref())?))
    }
}
