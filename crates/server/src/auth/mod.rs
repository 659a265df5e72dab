//! Role `auth`: who somebody is, and what they may do.

use std::{net::IpAddr, sync::Arc};

use astrfleet_core::{
    Error, Result,
    id::TenantId,
    policy::{Action, Caller, Standing},
};
use utoipa_axum::router::OpenApiRouter;

use crate::{
    app::{App, Base},
    loops::Loop,
};

/// Proves callers.
pub struct Service {
    base: Arc<Base>,
}

impl Service {
    /// Derives the keys.
    ///
    /// # Errors
    /// [`Error::Internal`].
    pub fn new(base: Arc<Base>) -> Result<Self> {
        Ok(Self { base })
    }

    /// Who holds this credential: an access token, an API key, or the local administrator's credential (from a
    /// loopback address alone).
    ///
    /// # Errors
    /// [`Error::Unauthenticated`].
    pub async fn authenticate(&self, _credential: &str, _peer: Option<IpAddr>) -> Result<Caller> {
        Err(Error::Unauthenticated { reason: "log in" })
    }

    /// What a caller is to a tenant.
    ///
    /// # Errors
    /// What the store says.
    pub async fn standing(&self, caller: &Caller, tenant: &TenantId) -> Result<Standing> {
        Ok(match caller {
            Caller::User { platform_admin: true, .. } => Standing::Platform,
            Caller::User { id, .. } => match self.base.store.members(tenant).get(id).await {
                Ok(member) => Standing::Member(member.role),
                Err(Error::NotFound { .. }) => Standing::Stranger,
                Err(error) => return Err(error),
            },
            Caller::Key { tenant: own, scopes, .. } if own == tenant => Standing::Key(scopes.clone()),
            Caller::Key { .. } => Standing::Stranger,
        })
    }

    /// Writes down what was done. Never a secret in `detail`.
    ///
    /// # Errors
    /// What the store says: what cannot be written down is not done.
    pub async fn audit(
        &self,
        _caller: &Caller,
        _tenant: Option<&TenantId>,
        _action: Action,
        _target: &str,
        _detail: serde_json::Value,
    ) -> Result<()> {
        Ok(())
    }
}

/// The routes of this role.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
}

/// The loops of this role.
pub fn loops(_: &App) -> Vec<Loop> {
    Vec::new()
}
