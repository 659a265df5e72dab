//! `ETag` and `If-Match`: nobody overwrites what they have not seen.

use astrfleet_core::Error;
use axum::{
    extract::FromRequestParts,
    http::{HeaderName, HeaderValue, header, request::Parts},
};

use crate::{app::App, problem::Problem};

/// The header for a thing of this version.
#[must_use]
pub fn etag(version: i64) -> [(HeaderName, HeaderValue); 1] {
    let value = HeaderValue::from_str(&format!("\"{version}\"")).unwrap_or(HeaderValue::from_static("\"0\""));
    [(header::ETAG, value)]
}

/// The version that the caller has seen, where they say so.
pub struct IfMatch(Option<i64>);

impl IfMatch {
    /// Refuses where the caller has seen another version than `current`.
    ///
    /// # Errors
    /// [`Error::Stale`].
    pub fn check(&self, what: &'static str, current: i64) -> Result<(), Error> {
        match self.0 {
            Some(seen) if seen != current => Err(Error::Stale { what }),
            _ => Ok(()),
        }
    }
}

impl FromRequestParts<App> for IfMatch {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Problem> {
        let Some(value) = parts.headers.get(header::IF_MATCH) else { return Ok(Self(None)) };
        match value.to_str().map(str::trim) {
            Ok("*") => Ok(Self(None)),
            // A tag that is not one of ours matches nothing.
            Ok(tag) => Ok(Self(Some(tag.trim_start_matches("W/").trim_matches('"').parse().unwrap_or(-1)))),
            Err(_) => Err(Problem::new("malformed", "If-Match: send the ETag of the answer before, unchanged")),
        }
    }
}
