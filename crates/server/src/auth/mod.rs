//! Role `auth`: who somebody is, and what they may do.
//!
//! `service` proves callers, `logins` gives people their tokens, `api_keys` gives programs theirs, `people` keeps users;
//! one endpoint a file in `api`. A secret is shown once, to whoever asked for it, and stored as a hash.

mod api;
mod api_keys;
mod audit;
mod keys;
mod logins;
mod loops;
mod passwords;
mod people;
mod service;
mod throttle;
mod tokens;

use utoipa_axum::router::OpenApiRouter;

use crate::{app::App, loops::Loop};
pub use api_keys::{API_KEY_PREFIX, NewApiKey};
pub use audit::SYSTEM;
pub use logins::Login;
pub use people::{NewUser, UserChange};
pub use service::Service;

/// The routes of this role.
pub fn routes() -> OpenApiRouter<App> {
    api::routes()
}

/// The loops of this role.
pub fn loops(app: &App) -> Vec<Loop> {
    loops::all(app)
}

/// The SHA-256 of a secret: what is stored of it.
pub(crate) fn hash(secret: &str) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, secret.as_bytes()).as_ref());
    hash
}
