//! Who is asking, and whether they may.

use std::{collections::HashMap, marker::PhantomData, sync::Arc};

use astrfleet_core::{
    Error,
    id::{LoginId, UserId},
    policy::{Caller, Standing, authorise},
    ports::{Limit, Verdict},
    tenant::Tenant,
};
use axum::{
    RequestPartsExt,
    extract::{FromRequestParts, Path},
    http::{HeaderMap, header, request::Parts},
};

use super::{
    may::May,
    peer::{peer, take_anonymous},
};
use crate::{app::App, config::seconds, context, internal::Vouched, problem::Problem};

/// Somebody who has proven who they are.
#[derive(Clone, Debug)]
pub struct Authenticated(pub Caller);

/// The credential of a request: a bearer token, or an API key in `X-API-Key`.
#[must_use]
pub fn credential(headers: &HeaderMap) -> Option<&str> {
    let bearer = |value: &'static str| headers.get(value).and_then(|value| value.to_str().ok());
    bearer(header::AUTHORIZATION.as_str())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim())
        .or_else(|| bearer("x-api-key"))
        .filter(|credential| !credential.is_empty())
}

impl FromRequestParts<App> for Authenticated {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        if let Some(caller) = parts.extensions.get::<Vouched>().and_then(|vouched| vouched.caller.as_ref()) {
            context::note(|known| known.actor = Some(caller.actor().to_owned()));
            return Ok(Self(caller.clone()));
        }
        let peer = peer(&parts.extensions);
        let Some(credential) = credential(&parts.headers) else {
            take_anonymous(app, peer)?;
            return Err(Error::Unauthenticated {
                reason: "log in and send the access token, or send an API key, as `Authorization: Bearer …`",
            }
            .into());
        };
        let caller = match app.auth.authenticate(credential, peer).await {
            // Whoever tries credentials out gets no further than whoever has none.
            Err(refused @ Error::Unauthenticated { .. }) => {
                take_anonymous(app, peer)?;
                return Err(refused.into());
            }
            outcome => outcome?,
        };
        context::note(|known| known.actor = Some(caller.actor().to_owned()));
        Ok(Self(caller))
    }
}

/// Somebody who has logged in: no API key.
#[derive(Clone, Debug)]
pub struct Person {
    /// Who.
    pub id: UserId,
    /// The login; none for the local administrator's credential.
    pub login: Option<LoginId>,
    /// The same, as the audit log wants it.
    pub caller: Caller,
}

impl FromRequestParts<App> for Person {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let Authenticated(caller) = Authenticated::from_request_parts(parts, app).await?;
        match &caller {
            Caller::User { id, login, .. } => Ok(Self { id: id.clone(), login: login.clone(), caller }),
            Caller::Key { .. } => {
                let reason = "an API key has no login and no password: log in (a tenant admin can revoke the key)";
                Err(Error::Forbidden { reason: reason.to_owned() }.into())
            }
        }
    }
}

/// A caller who may do `A` in the tenant that the path names (`{tenant}`: id or name).
#[derive(Clone, Debug)]
pub struct InTenant<A> {
    /// The only tenant whose things this request may reach.
    pub tenant: Arc<Tenant>,
    /// Who asks.
    pub caller: Caller,
    /// What they are to the tenant.
    pub standing: Standing,
    action: PhantomData<A>,
}

impl<A: May> FromRequestParts<App> for InTenant<A> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let Authenticated(caller) = Authenticated::from_request_parts(parts, app).await?;
        let Path(path) = parts.extract::<Path<HashMap<String, String>>>().await.map_err(|_| no_tenant())?;
        let name = path.get("tenant").ok_or_else(no_tenant)?;
        let tenant = app.tenant.resolve(name).await?;
        let standing = app.auth.standing(&caller, &tenant.id).await?;
        authorise(&standing, A::ACTION)?;
        context::note(|known| known.tenant = Some(tenant.id.clone()));
        // What came through a gateway was counted there.
        if !parts.extensions.get::<Vouched>().is_some_and(|vouched| vouched.counted) {
            take(app, tenant.id.as_str(), app.config.gateway.rate_limit_per_minute)?;
        }
        Ok(Self { tenant, caller, standing, action: PhantomData })
    }
}

/// A caller who may do `A` on the platform as a whole.
#[derive(Clone, Debug)]
pub struct OnPlatform<A> {
    /// Who asks.
    pub caller: Caller,
    action: PhantomData<A>,
}

impl<A: May> FromRequestParts<App> for OnPlatform<A> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let Authenticated(caller) = Authenticated::from_request_parts(parts, app).await?;
        match caller {
            Caller::User { platform_admin: true, .. } => {
                authorise(&Standing::Platform, A::ACTION)?;
                Ok(Self { caller, action: PhantomData })
            }
            Caller::User { .. } | Caller::Key { .. } => {
                Err(Error::Forbidden { reason: "this takes a platform administrator".to_owned() }.into())
            }
        }
    }
}

fn no_tenant() -> Error {
    Error::NotFound { what: "tenant" }
}

/// Takes one of the requests of `key`, and notes what is left for the `RateLimit` header.
pub(super) fn take(app: &App, key: &str, per_minute: u32) -> Result<(), Error> {
    let limit = Limit { amount: per_minute, per: seconds(60) };
    let verdict = app.limiter.take(key, limit);
    context::note(|known| known.rate = Some((limit, verdict)));
    match verdict {
        Verdict::Allowed { .. } => Ok(()),
        Verdict::Refused { retry_after } => Err(Error::TooMany { what: "requests", retry_after }),
    }
}
