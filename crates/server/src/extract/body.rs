//! JSON bodies: a limit on their size, no unknown fields (the types say `deny_unknown_fields`), and errors that say
//! where.

use axum::{
    Json,
    extract::{FromRequest, Request, rejection::JsonRejection},
};
use serde::de::DeserializeOwned;

use crate::{app::App, problem::Problem};

/// The body, read.
pub struct Body<T>(pub T);

impl<T: DeserializeOwned> FromRequest<App> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        match Json::<T>::from_request(request, app).await {
            Ok(Json(body)) => Ok(Self(body)),
            Err(rejection) => Err(problem(&rejection, app.config.gateway.max_body_bytes)),
        }
    }
}

fn problem(rejection: &JsonRejection, limit_bytes: u64) -> Problem {
    match rejection {
        JsonRejection::JsonDataError(_) => {
            // The text is "Failed to deserialize …: path: cause": the cause is for the caller.
            let text = rejection.body_text();
            let cause = text.split_once(": ").map_or(text.as_str(), |(_, cause)| cause);
            Problem { field: Some("body".to_owned()), ..Problem::new("invalid", format!("body: {cause}")) }
        }
        JsonRejection::JsonSyntaxError(_) => {
            Problem::new("malformed", format!("the body is not JSON: {}", rejection.body_text()))
        }
        JsonRejection::MissingJsonContentType(_) => {
            Problem::new("unsupported_media_type", "send JSON, and say so: `Content-Type: application/json`")
        }
        rejection if rejection.status() == axum::http::StatusCode::PAYLOAD_TOO_LARGE => {
            Problem::new("too_large", format!("the body is larger than {limit_bytes} bytes"))
        }
        rejection => Problem::new("malformed", rejection.body_text()),
    }
}
