//! `/api/v1/tenants/{tenant}/sessions`. One file per endpoint.

mod change;
mod close;
mod create;
mod get;
mod hand_back;
mod list;
mod take_over;

use astrfleet_core::{Error, Result, id::SessionId, session::Session};
use axum::{
    Json,
    http::{HeaderName, HeaderValue},
};
use serde_json::Value;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{app::App, context};

/// The largest metadata of a session, as JSON without blanks.
const MAX_METADATA_BYTES: usize = 4 * 1024;

/// A session with its `ETag`.
type Shown = ([(HeaderName, HeaderValue); 1], Json<Session>);

/// The routes of this folder.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(create::handler, list::handler))
        .routes(routes!(get::handler, change::handler))
        .routes(routes!(close::handler))
        .routes(routes!(take_over::handler))
        .routes(routes!(hand_back::handler))
}

/// Reads the id of a path, and notes it for the log.
fn id(text: &str) -> Result<SessionId> {
    let session = SessionId::parse(text)?;
    context::note(|known| known.session = Some(session.clone()));
    Ok(session)
}

fn check_metadata(metadata: &Value) -> Result<()> {
    if metadata.is_object() && metadata.to_string().len() <= MAX_METADATA_BYTES {
        return Ok(());
    }
    Err(Error::invalid("metadata", format!("must be an object of at most {MAX_METADATA_BYTES} bytes of JSON")))
}
