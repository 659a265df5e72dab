//! JSON bodies: a limit on their size, no unknown fields (the types say `deny_unknown_fields`), and errors that say
//! where.

use axum::{
    Json,
    body::Bytes,
    extract::{
        FromRequest, Request,
        rejection::{BytesRejection, JsonRejection},
    },
    http::{HeaderMap, StatusCode, header},
};
use serde::de::{DeserializeOwned, IgnoredAny};

use crate::{app::App, problem::Problem};

/// The body, read.
pub struct Body<T>(pub T);

impl<T: DeserializeOwned> FromRequest<App> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        if !is_json(request.headers()) {
            let detail = "send JSON, and say so: `Content-Type: application/json`";
            return Err(Problem::new("unsupported_media_type", detail));
        }
        let limit_bytes = app.config.gateway.max_body_bytes;
        let bytes = Bytes::from_request(request, app).await.map_err(|rejection| unread(&rejection, limit_bytes))?;
        match Json::from_bytes(&bytes) {
            Ok(Json(body)) => Ok(Self(body)),
            Err(rejection) => Err(misread(&rejection, &bytes)),
        }
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
}

fn unread(rejection: &BytesRejection, limit_bytes: u64) -> Problem {
    if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
        return Problem::new("too_large", format!("the body is larger than {limit_bytes} bytes"));
    }
    Problem::new("malformed", rejection.body_text())
}

fn misread(rejection: &JsonRejection, bytes: &[u8]) -> Problem {
    let text = rejection.body_text();
    // serde_json also says "syntax" of JSON that is well formed and begins with something else than the type wants.
    let is_of_another_shape =
        matches!(rejection, JsonRejection::JsonDataError(_)) || serde_json::from_slice::<IgnoredAny>(bytes).is_ok();
    if !is_of_another_shape {
        return Problem::new("malformed", format!("the body is not JSON: {text}"));
    }
    // The text is "Failed to …: path: cause at line 1 column 2": the path and the cause are for the caller.
    let cause = text.split_once(": ").map_or(text.as_str(), |(_, cause)| cause);
    let cause = cause.rsplit_once(" at line ").map_or(cause, |(cause, _)| cause);
    Problem { field: Some("body".to_owned()), ..Problem::new("invalid", format!("body: {cause}")) }
}
