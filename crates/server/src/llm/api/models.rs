//! `GET /llm/v1/models`

use axum::{Json, extract::State};
use http::HeaderMap;
use serde_json::{Value, json};

use crate::{
    app::App,
    llm::{demo, error::OpenAiError},
};

/// The models that a bot may ask for
#[utoipa::path(
    get, path = "/llm/v1/models", tag = "models", operation_id = "list_models",
    responses((status = 200, body = Value), (status = 401, body = Value)),
    security(("virtual_key" = [])),
)]
pub(in crate::llm) async fn handler(State(app): State<App>, headers: HeaderMap) -> Result<Json<Value>, OpenAiError> {
    app.llm.bot_of(&headers).await?;
    let name = if app.config.llm.upstreams.is_empty() { demo::MODEL } else { app.config.llm.model.as_str() };
    Ok(Json(
        json!({"object": "list", "data": [{"id": name, "object": "model", "created": 0, "owned_by": "astrfleet"}]}),
    ))
}
