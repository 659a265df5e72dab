//! RFC 9457 problem details. The only place that turns our errors into status codes, and the one that logs them.

use std::error::Error as StdError;

use astrfleet_core::{Error, message::Failure};
use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::openapi::{Content, OpenApi, RefOr};

use crate::context;

const MEDIA_TYPE: &str = "application/problem+json";

/// The body of every answer that is not a success.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Problem {
    /// Where the code is explained.
    #[serde(rename = "type")]
    pub kind: String,
    /// The HTTP status, repeated for logs and proxies.
    pub status: u16,
    /// Stable: programs may match on it. Listed in `docs/errors.md`.
    pub code: String,
    /// For people: the status in words.
    pub title: String,
    /// For people: what happened, and what to do now.
    pub detail: String,
    /// The field that is wrong, where one is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// Names this request in our logs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// When the same may succeed, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_s: Option<u64>,
}

/// Says in a description of the API which media type every problem has (RFC 9457 §3).
pub fn name_media_type(document: &mut OpenApi) {
    let items = document.paths.paths.values_mut();
    let operations = items
        .flat_map(|item| [&mut item.get, &mut item.put, &mut item.post, &mut item.patch, &mut item.delete])
        .flatten();
    for response in operations.flat_map(|operation| operation.responses.responses.values_mut()) {
        let RefOr::T(response) = response else { continue };
        let is_problem = response.content.get("application/json").is_some_and(|content| match content {
            RefOr::T(Content { schema: Some(RefOr::Ref(schema)), .. }) => schema.ref_location.ends_with("/Problem"),
            _ => false,
        });
        if is_problem && let Some(content) = response.content.swap_remove("application/json") {
            response.content.insert(MEDIA_TYPE.to_owned(), content);
        }
    }
}

/// Every code, its status, and what it means: the source of `docs/errors.md`.
pub const CODES: &[(&str, u16, &str)] = &[
    ("invalid", 400, "A field has a value that cannot be; `field` names it and `detail` says what would be right."),
    ("malformed", 400, "The request is not what its headers say: not JSON, for instance."),
    ("unauthenticated", 401, "No credential, or one that is wrong, expired or revoked. Log in, or send an API key."),
    ("quota_exceeded", 402, "An amount of the plan is used up. `detail` says which, and when it is refilled."),
    ("forbidden", 403, "Known, but not allowed to. `detail` says what it would take."),
    ("not_found", 404, "There is no such thing, or the caller may not know that there is."),
    ("method_not_allowed", 405, "This path has other methods."),
    ("request_timeout", 408, "The request did not arrive in time."),
    ("conflict", 409, "The thing is in a state that does not allow this. `detail` says which."),
    ("stale", 412, "Somebody else changed it since it was read. Read it again."),
    ("too_large", 413, "More than is taken in. `detail` says how much is."),
    ("unsupported_media_type", 415, "The body has a type that is not understood here."),
    ("idempotency_key_reused", 422, "The `Idempotency-Key` was used before with another request."),
    ("too_many", 429, "Too often. `retry_after_s` says when it may succeed."),
    ("internal", 500, "An error of ours, logged under `request_id`: tell it to whoever runs the platform."),
    ("bad_gateway", 502, "What we asked on your behalf gave an answer that makes no sense."),
    ("unavailable", 503, "A part that is needed does not answer. Nothing was changed: try again."),
    ("timeout", 504, "What we asked on your behalf did not answer in time."),
    ("model_failed", 502, "The model gave no answer to this message. Send it again."),
    ("no_answer", 502, "The bot ended without an answer to this message."),
    ("answer_too_large", 502, "The bot's answer was longer than is taken from a bot."),
    ("answer_timeout", 504, "The bot took too long for its answer. Send the message again."),
    (
        "bot_unavailable",
        503,
        "The bot did not become ready in time. Look at the instance; then send the message again.",
    ),
    ("not_sent", 502, "The IM platform, or the bot, did not take this. `detail` says what is known; send it again."),
    ("attachment_missing", 404, "The content of a file of this message is gone. Upload it again."),
    ("files_unavailable", 503, "The files of this message could not be read in time. Send the message again."),
    ("stopped", 409, "Somebody stopped this message before there was an answer."),
    ("blocked", 403, "This message is not let through to the bot: its end user is blocked, for instance."),
];

impl Problem {
    /// With one of [`CODES`].
    #[must_use]
    pub fn new(code: &'static str, detail: impl Into<String>) -> Self {
        let status = CODES.iter().find(|(known, ..)| *known == code).map_or(500, |(_, status, _)| *status);
        let title = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or("Error");
        context::note(|known| known.error_code = Some(code));
        Self {
            kind: format!("urn:astrfleet:error:{code}"),
            status,
            code: code.to_owned(),
            title: title.to_owned(),
            detail: detail.into(),
            field: None,
            request_id: context::current().map(|context| context.request_id().to_owned()),
            retry_after_s: None,
        }
    }
}

impl Problem {
    /// Of a message that has no answer. Its stream began with a success, so this stands in an event of it.
    #[must_use]
    pub fn of_failure(failure: &Failure) -> Self {
        let code = CODES.iter().map(|(code, ..)| *code).find(|code| *code == failure.code).unwrap_or("model_failed");
        Self::new(code, failure.detail.clone())
    }
}

impl Problem {
    /// What somebody else answered with a status and a few words: the framework, for instance.
    #[must_use]
    pub fn of_status(status: StatusCode, text: &str, allowed: Option<&str>) -> Self {
        let detail = match (status, allowed) {
            (StatusCode::NOT_FOUND, _) => {
                "there is nothing at this path: `GET /openapi.json` lists what there is".into()
            }
            (StatusCode::METHOD_NOT_ALLOWED, Some(allowed)) => format!("this path has other methods: {allowed}"),
            (status, _) if text.is_empty() || status.is_server_error() => status.to_string(),
            _ => text.to_owned(),
        };
        let known = CODES.iter().find(|(_, known, _)| *known == status.as_u16());
        let same = known.map(|(code, ..)| *code).filter(|code| !["invalid", "idempotency_key_reused"].contains(code));
        let similar = if status.is_client_error() { "malformed" } else { "internal" };
        Self::new(same.unwrap_or(similar), detail)
    }
}

/// An error with all that led to it, on one line, for the log.
#[must_use]
pub fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let detail = error.to_string();
        match error {
            Error::Invalid { field, reason } => {
                Self { field: Some(field.to_owned()), ..Self::new("invalid", format!("{field} {reason}")) }
            }
            Error::Unauthenticated { .. } => Self::new("unauthenticated", detail),
            Error::Forbidden { .. } => Self::new("forbidden", detail),
            Error::Blocked => Self::new("blocked", detail),
            Error::NotFound { .. } => Self::new("not_found", detail),
            Error::Conflict { .. } => Self::new("conflict", detail),
            Error::Stale { .. } => Self::new("stale", detail),
            Error::KeyReused => Self::new("idempotency_key_reused", detail),
            Error::TooLarge { .. } => Self::new("too_large", detail),
            Error::TooMany { retry_after, .. } => {
                // Rounded up: who waits that long is not refused again.
                let seconds = u64::try_from(retry_after.as_millis().div_ceil(1_000)).unwrap_or(u64::MAX).max(1);
                Self { retry_after_s: Some(seconds), ..Self::new("too_many", detail) }
            }
            Error::QuotaExceeded { .. } => Self::new("quota_exceeded", detail),
            Error::Unavailable { what, source } => {
                tracing::warn!(
                    error_code = "unavailable",
                    part = what,
                    error = chain(&*source),
                    "a part did not answer"
                );
                Self::new("unavailable", detail)
            }
            Error::Internal { source } => {
                tracing::error!(error_code = "internal", error = chain(&*source), "a defect of ours");
                Self::new("internal", detail)
            }
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_string(&self).unwrap_or_default();
        let mut response = (status, [(header::CONTENT_TYPE, MEDIA_TYPE)], body).into_response();
        if let Some(seconds) = self.retry_after_s {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
