//! `POST /api/v1/tenants/{tenant}/attachments`: a file that will go with a message.

use astrfleet_core::{Error, attachment::Attachment};
use axum::{
    Json,
    extract::{
        Multipart, State,
        multipart::{Field, MultipartError, MultipartRejection},
    },
    http::StatusCode,
};
use futures_util::StreamExt;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::{
    app::App,
    extract::{InTenant, may},
    problem::Problem,
};

/// Pieces between the network and the storage.
const PIECES_AHEAD: usize = 4;

/// A form with one file.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "describes the form for the API description")]
pub(super) struct UploadForm {
    /// The file, with its name.
    #[schema(value_type = String, format = Binary)]
    file: String,
}

/// Uploads a file: `multipart/form-data` with one part named `file`.
#[utoipa::path(
    post, path = "/api/v1/tenants/{tenant}/attachments", tag = "attachments", operation_id = "attachment_upload",
    params(("tenant" = String, Path, description = "Id or name")),
    request_body(content = UploadForm, content_type = "multipart/form-data"),
    responses(
        (status = 201, body = Attachment),
        (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 402, body = Problem, description = "The plan's storage is used up"),
        (status = 403, body = Problem), (status = 404, body = Problem),
        (status = 413, body = Problem), (status = 415, body = Problem), (status = 429, body = Problem),
        (status = 503, body = Problem),
    ),
    security(("access_token" = []), ("api_key" = [])),
)]
#[tracing::instrument(skip_all, name = "attachment_upload")]
pub(super) async fn handler(
    State(app): State<App>,
    caller: InTenant<may::AttachmentWrite>,
    form: Result<Multipart, MultipartRejection>,
) -> Result<(StatusCode, Json<Attachment>), Problem> {
    caller.tenant.must_be_served()?;
    let mut form = form.map_err(|_| {
        Problem::new(
            "unsupported_media_type",
            "send the file as a form: `Content-Type: multipart/form-data; boundary=…`",
        )
    })?;
    while let Some(field) = form.next_field().await.map_err(|error| broken(&error))? {
        if field.name() == Some("file") {
            return Ok((StatusCode::CREATED, Json(store(&app, &caller, field).await?)));
        }
    }
    Err(Error::invalid("file", "is missing: send a part of this name").into())
}

async fn store(
    app: &App,
    caller: &InTenant<may::AttachmentWrite>,
    mut field: Field<'_>,
) -> Result<Attachment, Problem> {
    let name = field.file_name().unwrap_or_default().to_owned();
    let said = field.content_type().map(str::to_owned);
    let (pieces, content) = mpsc::channel(PIECES_AHEAD);
    let read = async move {
        loop {
            let piece = match field.chunk().await {
                Ok(None) => return Ok(()),
                Ok(Some(piece)) => Ok(piece),
                Err(error) => Err(error),
            };
            let failed = piece.as_ref().err().map(broken);
            let sent = pieces.send(piece.map_err(|error| std::io::Error::other(error.to_string()))).await;
            match failed {
                Some(problem) => return Err(problem),
                // The storage takes no more, and says why.
                None if sent.is_err() => return Ok(()),
                None => {}
            }
        }
    };
    let keep = app.message.keep_file(&caller.tenant, &name, said.as_deref(), ReceiverStream::new(content).boxed());
    let (read, kept) = tokio::join!(read, keep);
    read?;
    Ok(kept?)
}

fn broken(error: &MultipartError) -> Problem {
    Problem::new("malformed", format!("the form cannot be read: {}", error.body_text()))
}
