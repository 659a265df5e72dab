//! Calls between processes of the platform: who this process is ([`Replica`]), how one process proves to another that it
//! is one of us and for whom it speaks ([`Signer`], [`FromFleet`]), and how it calls it ([`Peers`]).
//!
//! Internal routes stand under `/internal/v1/`, are in no description of the API, and every handler of one takes
//! [`FromFleet`]. A gateway never passes one on from outside.

mod api;
mod extract;
mod identity;
mod peers;

use std::collections::BTreeSet;

use astrfleet_core::{Error, Result, id::ReplicaId};
use serde::Serialize;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;

pub use self::{
    extract::{FromFleet, Shown, Vouched, layer},
    identity::{IDENTITY, Identity, LIFETIME, Signer},
    peers::{Body, Peers, read_json},
};
use crate::{app::App, config::ServerConfig, gateway, manager, message, role::Role};

/// What the path of every internal route begins with.
pub const PREFIX: &str = "/internal/";

/// One process of the platform, from its start to its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Replica {
    /// `rep_…`: another one after every start.
    pub id: ReplicaId,
    /// What other processes reach it at: `http://host:port`.
    pub url: String,
}

impl Replica {
    /// As configured; else at the address that it listens on.
    ///
    /// # Errors
    /// [`Error::Invalid`] where the configured address is none.
    pub fn new(id: ReplicaId, config: &ServerConfig) -> Result<Self> {
        let advertised = config.serve.advertise.trim_end_matches('/');
        if !advertised.is_empty() {
            gateway::check_address(advertised).map_err(|reason| Error::invalid("serve.advertise", reason))?;
            return Ok(Self { id, url: advertised.to_owned() });
        }
        Ok(Self { id, url: format!("http://{}", gateway::loopback(config.gateway.listen)) })
    }
}

/// The internal routes of a process with these roles.
pub fn routes(roles: &BTreeSet<Role>) -> OpenApiRouter<App> {
    roles.iter().fold(api::routes(), |routes, role| routes.merge(routes_of(*role)))
}

/// The internal routes of one role.
fn routes_of(role: Role) -> OpenApiRouter<App> {
    match role {
        Role::Manager => manager::internal_routes(),
        Role::Message => message::internal_routes(),
        Role::Gateway | Role::Auth | Role::Tenant | Role::Session | Role::Llm => OpenApiRouter::new(),
    }
}

/// All internal routes, for the tests that walk them.
pub fn description() -> OpenApi {
    routes(&Role::ALL.into()).into_openapi()
}
