//! OpenAI's shape of an error: what a bot's client library understands.

use astrfleet_core::Error;
use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
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
}

impl From<Error> for OpenAiError {
    fn from(error: Error) -> Self {
        let problem = Problem::from(error);
        // The name by which clients know that more money, not more patience, is needed.
        let code = if problem.code == "quota_exceeded" { "insufficient_quota".to_owned() } else { problem.code };
        Self { status: problem.status, code, message: problem.detail }
    }
}

impl IntoResponse for OpenAiError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let kind = if status.is_client_error() { "invalid_request_error" } else { "server_error" };
        let body = json!({"error": {"message": self.message, "type": kind, "code": self.code, "param": null}});
        (status, Json(body)).into_response()
    }
}
