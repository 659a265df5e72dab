//! `GET /tenants/{tenant}/exports/{export}/archive`

use astrfleet_core::{
    Error, attachment::content_disposition, export::State as ExportState, id::ExportId, policy::Action,
};
use axum::{
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, HeaderValue, header},
    response::{IntoResponse, Response},
};
use serde_json::json;

use crate::{
    app::App,
    extract::{InTenant, may},
    problem::Problem,
    rights::links,
};

/// Download an export
///
/// Where the archives lie in an S3 and its links may be given away, the answer is one, good for some minutes.
#[utoipa::path(
    get, path = "/api/v1/tenants/{tenant}/exports/{export}/archive", tag = "exports", operation_id = "export_download",
    params(("tenant" = String, Path, description = "Id or name"), ("export" = String, Path, description = "`exp_…`")),
    responses(
        (status = 200, description = "The archive", content_type = "application/zstd"),
        (status = 307, description = "`Location` has it"),
        (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem),
        (status = 409, body = Problem, description = "It is not done"), (status = 503, body = Problem),
    ),
    security(("access_token" = [])),
)]
#[tracing::instrument(skip_all, name = "export_download")]
pub(super) async fn handler(
    State(app): State<App>,
    of: InTenant<may::TenantExport>,
    Path((_tenant, export)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let tenant = &of.tenant.id;
    let export = app.store.exports(tenant).get(&ExportId::parse(&export)?).await?;
    let (ExportState::Done, Some(size)) = (export.state, export.size) else {
        return Err(Error::conflict("this export is not done: look at its state").into());
    };
    let detail = json!({"downloaded": true});
    app.auth.audit(&of.caller, Some(tenant), Action::TenantExport, export.id.as_str(), detail).await?;
    let name = format!("{}.tar.zst", export.id);
    if let Some(link) = links::link(&app, &export.blob_key(), &name).await? {
        return Ok(link);
    }
    let content = app.blobs.get(&export.blob_key()).await?;
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/zstd"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(size));
    headers.insert(
        header::CONTENT_DISPOSITION,
        HeaderValue::from_str(&content_disposition(&name)).map_err(Error::internal)?,
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-store"));
    Ok((headers, Body::from_stream(content)).into_response())
}
