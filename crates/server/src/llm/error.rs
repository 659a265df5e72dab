//! OpenAI's shape of an error: what a bot's client library understands.

use astrfleet_core::Error;
use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use serde_json::json;

use crate::problem::Problem;

/// An error of the model gateway.
#[derive(Debug)]
pub struct OpenAiError {
    /// The HTTP status.
    pub status: u16,
    /// OpenAI's `code`.
    pub code: String,
    /// For people.
    pub message: String,
    /// When the same may succeed, in seconds.
    pub retry_after_s: Option<u64>,
    /// A provider's own words instead.
    body: Option<Bytes>,
}

impl OpenAiError {
    /// One of ours.
    pub(super) fn new(status: u16, code: &str, message: impl Into<String>) -> Self {
        Self { status, code: code.to_owned(), message: message.into(), retry_after_s: None, body: None }
    }

    /// With one of the problems' codes, which says the status.
    pub(super) fn coded(code: &'static str, message: impl Into<String>) -> Self {
        Problem::new(code, message).into()
    }

    /// With a `Retry-After`.
    pub(super) fn retry_after(self, seconds: u64) -> Self {
        Self { retry_after_s: Some(seconds), ..self }
    }

    /// As a provider said it.
    pub(super) fn from_provider(status: StatusCode, body: Bytes) -> Self {
        Self { body: Some(body), ..Self::new(status.as_u16(), "model_failed", "the model refused this request") }
    }

    /// As JSON.
    pub(super) fn body(&self) -> Bytes {
        if let Some(body) = &self.body {
            return body.clone();
        }
        let kind = match self.status {
            402 => "insufficient_quota",
            429 => "requests",
            424 | 500.. => "server_error",
            _ => "invalid_request_error",
        };
        let body = json!({"error": {"message": self.message, "type": kind, "code": self.code, "param": null}});
        body.to_string().into()
    }
}

impl From<Problem> for OpenAiError {
    fn from(problem: Problem) -> Self {
        // The names by which client libraries know what to do.
        let code = match problem.code.as_str() {
            "quota_exceeded" => "insufficient_quota",
            "too_many" => "rate_limit_exceeded",
            "unauthenticated" => "invalid_api_key",
            other => other,
        };
        Self { retry_after_s: problem.retry_after_s, ..Self::new(problem.status, code, problem.detail) }
    }
}

impl From<Error> for OpenAiError {
    fn from(error: Error) -> Self {
        Problem::from(error).into()
    }
}

impl IntoResponse for OpenAiError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, [(header::CONTENT_TYPE, "application/json")], self.body()).into_response();
        if let Some(seconds) = self.retry_after_s {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
