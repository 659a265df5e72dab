//! `GET /llm/v1/models`

use axum::{Json, extract::State};
use http::HeaderMap;
use serde_json::{Value, json};

use crate::{app::App, llm::error::OpenAiError};

/// The models that a bot may ask for
#[utoipa::path(
    get, path = "/llm/v1/models", tag = "models", operation_id = "list_models",
    responses((status = 200, body = Value), (status = 401, body = Value)),
    security(("virtual_key" = [])),
)]
pub(in crate::llm) async fn handler(State(app): State<App>, headers: HeaderMap) -> Result<Json<Value>, OpenAiError> {
    let models = app.llm.models(&headers).await?;
    let model = |id: &String| json!({"id": id, "object": "model", "created": 0, "owned_by": "astrfleet"});
    Ok(Json(json!({"object": "list", "data": models.iter().map(model).collect::<Vec<_>>()})))
}
