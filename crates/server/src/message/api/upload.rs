//! `POST /api/v1/tenants/{tenant}/attachments`: a file that will go with a message.

use std::io;

use astrfleet_core::{Error, attachment::Attachment, ports::BlobStream};
use axum::{
    Json,
    extract::{
        DefaultBodyLimit, FromRequest, Multipart, Request, State,
        multipart::{Field, MultipartError},
    },
    http::StatusCode,
};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use tokio::sync::mpsc;

use crate::{
    app::App,
    extract::{InTenant, may},
    message::uploads::Place,
    problem::Problem,
};

/// Pieces between the network and the storage.
const PIECES_AHEAD: usize = 4;
/// What a form may have beside its file. Before the first boundary, and in a part's head, all of it is kept in memory.
const FORM_BYTES_MAX: u64 = 1 << 20;

/// A piece of a file; none is its end.
type Piece = Option<io::Result<Bytes>>;

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
    mut request: Request,
) -> Result<(StatusCode, Json<Attachment>), Problem> {
    caller.tenant.must_be_served()?;
    let place = app.message.begin_upload(&caller.tenant.id)?;
    let most = app.config.gateway.max_attachment_bytes.saturating_add(FORM_BYTES_MAX);
    DefaultBodyLimit::max(usize::try_from(most).unwrap_or(usize::MAX)).apply(&mut request);
    let mut form = Multipart::from_request(request, &app).await.map_err(|_| {
        Problem::new(
            "unsupported_media_type",
            "send the file as a form: `Content-Type: multipart/form-data; boundary=…`",
        )
    })?;
    while let Some(field) = form.next_field().await.map_err(|error| broken(&error, most))? {
        if field.name() == Some("file") {
            return Ok((StatusCode::CREATED, Json(store(&app, &caller, field, most, place).await?)));
        }
    }
    Err(Error::invalid("file", "is missing: send a part of this name").into())
}

async fn store(
    app: &App,
    caller: &InTenant<may::AttachmentWrite>,
    mut field: Field<'_>,
    most: u64,
    place: Place,
) -> Result<Attachment, Problem> {
    let name = field.file_name().unwrap_or_default().to_owned();
    let said = field.content_type().map(str::to_owned);
    let (pieces, content) = mpsc::channel(PIECES_AHEAD);
    let read = async move {
        loop {
            let piece = match field.chunk().await {
                Ok(None) => {
                    // The storage takes no more, and says why.
                    pieces.send(None).await.ok();
                    return Ok(());
                }
                Ok(Some(piece)) => Ok(piece),
                Err(error) => Err(error),
            };
            let failed = piece.as_ref().err().map(|error| broken(error, most));
            let sent = pieces.send(Some(piece.map_err(|error| io::Error::other(error.to_string())))).await;
            match failed {
                Some(problem) => return Err(problem),
                None if sent.is_err() => return Ok(()),
                None => {}
            }
        }
    };
    let keep = app.message.keep_file(&caller.tenant, &name, said.as_deref(), whole(content, place));
    let (read, kept) = tokio::join!(read, keep);
    read?;
    Ok(kept?)
}

/// A file as it comes. Where its pieces stop before its end was told, whoever sent it has gone: half a file is none.
fn whole(pieces: mpsc::Receiver<Piece>, place: Place) -> BlobStream {
    let read = stream::unfold(Some((pieces, place)), async |reading| {
        let (mut pieces, place) = reading?;
        match pieces.recv().await {
            Some(Some(piece)) => Some((piece, Some((pieces, place)))),
            Some(None) => None,
            None => Some((Err(io::ErrorKind::UnexpectedEof.into()), None)),
        }
    });
    read.boxed()
}

fn broken(error: &MultipartError, most: u64) -> Problem {
    if error.status() == StatusCode::PAYLOAD_TOO_LARGE {
        return Error::TooLarge { what: "the form", limit_bytes: most }.into();
    }
    Problem::new("malformed", format!("the form cannot be read: {}", error.body_text()))
}
