//! `GET /tenants/{tenant}/instance/config`

use axum::{Json, extract::State, response::IntoResponse};
use serde_json::Value;

use crate::{
    app::App,
    extract::{InTenant, etag, may},
    problem::Problem,
};

/// The bot's configuration
///
/// As the bot itself has it now. What belongs to the platform, and every secret, is `"***"`.
#[utoipa::path(
    get, path = "/api/v1/tenants/{tenant}/instance/config", tag = "instance", operation_id = "get_instance_config",
    params(("tenant" = String, Path, description = "Id or name")),
    responses(
        (status = 200, body = Object, headers(("ETag" = String, description = "For `If-Match` of a change"))),
        (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem),
        (status = 409, body = Problem, description = "The bot is not ready"), (status = 503, body = Problem),
    ),
    security(("access_token" = []), ("api_key" = [])),
)]
pub(in crate::manager) async fn handler(
    State(app): State<App>,
    of: InTenant<may::InstanceRead>,
) -> Result<impl IntoResponse, Problem> {
    let config = app.manager.client(&of.tenant)?.config().await?;
    Ok((etag(version(&config)), Json(config)))
}

/// The configuration has no version of its own: its content is one.
pub(super) fn version(config: &Value) -> i64 {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, config.to_string().as_bytes());
    let first = digest.as_ref().iter().take(8).fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    // One bit less, so that it is never negative.
    i64::try_from(first >> 1).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::version;

    #[test]
    fn another_content_is_another_version() {
        let (one, other) = (json!({"a": 1, "b": [2]}), json!({"a": 1, "b": [3]}));
        assert_eq!(version(&one), version(&one.clone()));
        assert_ne!(version(&one), version(&other));
    }
}
