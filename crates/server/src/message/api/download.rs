//! `GET /api/v1/tenants/{tenant}/attachments/{attachment}`: the content of a file.

use astrfleet_core::{attachment::content_disposition, id::AttachmentId};
use axum::{
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, HeaderValue, header},
    response::{IntoResponse, Response},
};

use crate::{
    app::App,
    extract::{InTenant, may},
    problem::Problem,
    rights::links,
};

/// Downloads a file of a message.
///
/// Where files lie in an S3 and its links may be given away, the answer is one, good for some minutes.
/// It is always offered for saving, never shown: it comes from somebody we do not know.
#[utoipa::path(
    get, path = "/api/v1/tenants/{tenant}/attachments/{attachment}", tag = "attachments",
    operation_id = "attachment_download",
    params(
        ("tenant" = String, Path, description = "Id or name"),
        ("attachment" = String, Path, description = "`att_…`"),
    ),
    responses(
        (status = 200, description = "The content", content_type = "application/octet-stream"),
        (status = 307, description = "`Location` has it: an address of the storage, good for some minutes"),
        (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem),
        (status = 429, body = Problem), (status = 503, body = Problem),
    ),
    security(("access_token" = []), ("api_key" = [])),
)]
#[tracing::instrument(skip_all, name = "attachment_download")]
pub(super) async fn handler(
    State(app): State<App>,
    caller: InTenant<may::AttachmentRead>,
    Path((_tenant, attachment)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let id = AttachmentId::parse(&attachment)?;
    let file = app.store.attachments(&caller.tenant.id).get(&id).await?;
    if let Some(link) = links::link(&app, &file.blob_key(), &file.name).await? {
        return Ok(link);
    }
    let content = app.blobs.get(&file.blob_key()).await?;
    let value =
        |text: &str| HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("application/octet-stream"));
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, value(&file.media_type));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(file.size));
    headers.insert(header::CONTENT_DISPOSITION, value(&content_disposition(&file.name)));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-store"));
    headers.insert(header::ETAG, value(&format!("\"{}\"", file.sha256)));
    Ok((headers, Body::from_stream(content)).into_response())
}
