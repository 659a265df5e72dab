//! `GET /auth/me`: who am I?

use astrfleet_core::{api_key::ApiKey, member::Membership, policy::Caller, user::User};
use axum::{Json, extract::State};
use serde::Serialize;

use crate::{app::App, extract::Authenticated, problem::Problem};

#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct Me {
    /// The person, where it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<User>,
    /// The API key, where it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    api_key: Option<ApiKey>,
    /// The tenants that the person belongs to.
    memberships: Vec<Membership>,
}

/// Who am I
///
/// The user behind an access token with the tenants that they belong to, or the API key.
#[utoipa::path(
    get, path = "/api/v1/auth/me", tag = "auth", operation_id = "get_me",
    responses((status = 200, body = Me), (status = 401, body = Problem)),
    security(("access_token" = []), ("api_key" = [])),
)]
pub(super) async fn handler(State(app): State<App>, Authenticated(caller): Authenticated) -> Result<Json<Me>, Problem> {
    Ok(Json(match caller {
        Caller::User { id, .. } => Me {
            user: Some(app.auth.user(&id).await?),
            api_key: None,
            memberships: app.store.users().memberships(&id).await?,
        },
        Caller::Key { id, tenant, .. } => {
            Me { user: None, api_key: Some(app.store.api_keys(&tenant).get(&id).await?), memberships: Vec::new() }
        }
    }))
}
