//! Links into the storage of files, where it has them: whoever downloads goes there, and not through us.

use std::time::Duration;

use astrfleet_core::{Error, Result};
use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use secrecy::ExposeSecret;

use crate::app::App;

/// How long a link is good for. Whoever was sent to it is there at once.
const TTL: Duration = Duration::from_mins(5);

/// The answer that leads to a blob, to be saved as a file called `name`; none where it has to go through us.
pub(crate) async fn link(app: &App, key: &str, name: &str) -> Result<Option<Response>> {
    let Some(link) = app.blobs.presigned(key, name, TTL).await? else { return Ok(None) };
    let mut location = HeaderValue::from_str(link.expose_secret()).map_err(Error::internal)?;
    location.set_sensitive(true);
    let headers =
        [(header::LOCATION, location), (header::CACHE_CONTROL, HeaderValue::from_static("private, no-store"))];
    Ok(Some((StatusCode::TEMPORARY_REDIRECT, headers).into_response()))
}
