//! Proves callers. What was proven is remembered for a short while; a revocation counts at once.

use std::{net::IpAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use astrfleet_core::{
    Error, Result,
    id::{LoginId, TenantId, UserId},
    policy::{Caller, Standing},
    ports::BusEvent,
    time::Timestamp,
};
use futures_util::StreamExt;
use moka::sync::Cache;
use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;

use super::{
    API_KEY_PREFIX, hash,
    keys::{Jwks, SigningKey},
    passwords::Passwords,
    throttle::Throttle,
    tokens::Tokens,
};
use crate::{app::Base, changes::Changes, config::seconds, secrets::Secrets};

/// Callers that are remembered, at the most.
const CALLERS_MAX: u64 = 50_000;
/// Standings that are remembered, at the most.
const STANDINGS_MAX: u64 = 50_000;
/// The local administrator's credential has at least so many characters.
const LOCAL_CREDENTIAL_MIN: usize = 32;
/// What whoever has no good credential is told, whatever is wrong with it.
const REFUSED: Error = Error::Unauthenticated {
    reason: "this credential is wrong, expired or revoked: log in again, or use another API key",
};

/// Proves callers.
pub struct Service {
    pub(super) base: Arc<Base>,
    pub(super) tokens: Tokens,
    pub(super) passwords: Passwords,
    pub(super) throttle: Throttle,
    /// When each API key's use was last noted.
    pub(super) noted_uses: Cache<Box<str>, Timestamp>,
    changes: Changes,
    /// By the SHA-256 of the credential.
    callers: Cache<[u8; 32], Arc<Proven>>,
    standings: Cache<(UserId, TenantId), (Standing, Timestamp)>,
    local_admin: ArcSwapOption<SecretString>,
}

/// A caller, and how long that is believed.
struct Proven {
    caller: Caller,
    read_at: Timestamp,
    until: Timestamp,
}

impl Service {
    /// Derives the keys.
    ///
    /// # Errors
    /// [`Error::Internal`].
    pub fn new(base: Arc<Base>) -> Result<Self> {
        let config = &base.config.auth;
        let mut keys = vec![SigningKey::derive(&base.secrets)?];
        if let Some(previous) = &config.previous_jwt_secret {
            keys.push(SigningKey::derive(&Secrets::new(previous.clone()))?);
        }
        // Times are checked by our own clock: this only lets go of what is certainly old.
        let ttl = seconds(config.cache_ttl_s.max(1));
        Ok(Self {
            tokens: Tokens::new(keys),
            passwords: Passwords::new(Arc::clone(&base.rng)),
            throttle: Throttle::new(config.login_attempts, seconds(config.login_window_s)),
            noted_uses: Cache::builder().max_capacity(CALLERS_MAX).time_to_idle(Duration::from_mins(10)).build(),
            changes: Changes::new(ttl),
            callers: Cache::builder().max_capacity(CALLERS_MAX).time_to_live(ttl).build(),
            standings: Cache::builder().max_capacity(STANDINGS_MAX).time_to_live(ttl).build(),
            local_admin: ArcSwapOption::empty(),
            base,
        })
    }

    /// Who holds this credential: an access token, an API key, or the local administrator's credential (from a
    /// loopback address alone).
    ///
    /// # Errors
    /// [`Error::Unauthenticated`].
    pub async fn authenticate(&self, credential: &str, peer: Option<IpAddr>) -> Result<Caller> {
        if let Some(caller) = self.authenticate_cached(credential) {
            return Ok(caller);
        }
        let now = self.base.clock.now();
        let (caller, until) = if credential.starts_with(API_KEY_PREFIX) {
            self.prove_api_key(credential, now).await?
        } else if let Some(caller) = self.prove_local_admin(credential, peer).await? {
            // Not remembered: it counts for some peers alone.
            return Ok(caller);
        } else {
            self.prove_token(credential, now).await?
        };
        let until = until.min(now.plus(seconds(self.base.config.auth.cache_ttl_s)));
        self.callers.insert(hash(credential), Arc::new(Proven { caller: caller.clone(), read_at: now, until }));
        Ok(caller)
    }

    /// Who holds this credential, if that was found out a moment ago. Neither waits nor looks anywhere but into
    /// memory; `None` says nothing: ask [`Service::authenticate`].
    #[must_use]
    pub fn authenticate_cached(&self, credential: &str) -> Option<Caller> {
        let proven = self.callers.get(&hash(credential))?;
        let changed = match &proven.caller {
            Caller::User { id, login, .. } => {
                self.changes.since(id.as_str(), proven.read_at)
                    || login.as_ref().is_some_and(|login| self.changes.since(login.as_str(), proven.read_at))
            }
            Caller::Key { id, .. } => self.changes.since(id.as_str(), proven.read_at),
        };
        (!changed && self.base.clock.now() < proven.until).then(|| proven.caller.clone())
    }

    /// What a caller is to a tenant.
    ///
    /// # Errors
    /// What the store says.
    pub async fn standing(&self, caller: &Caller, tenant: &TenantId) -> Result<Standing> {
        match caller {
            Caller::User { platform_admin: true, .. } => Ok(Standing::Platform),
            Caller::User { id, .. } => self.member_standing(id, tenant).await,
            Caller::Key { tenant: own, scopes, .. } if own == tenant => Ok(Standing::Key(scopes.clone())),
            Caller::Key { .. } => Ok(Standing::Stranger),
        }
    }

    async fn member_standing(&self, user: &UserId, tenant: &TenantId) -> Result<Standing> {
        let key = (user.clone(), tenant.clone());
        let now = self.base.clock.now();
        if let Some((standing, read_at)) = self.standings.get(&key)
            && now.since(read_at) < seconds(self.base.config.auth.cache_ttl_s)
            && !self.changes.since(user.as_str(), read_at)
        {
            return Ok(standing);
        }
        match self.base.store.members(tenant).get(user).await {
            Ok(member) => {
                let standing = Standing::Member(member.role);
                self.standings.insert(key, (standing.clone(), now));
                Ok(standing)
            }
            // Strangers are not remembered: whoever is made a member is one at once, and nobody can fill our memory.
            Err(Error::NotFound { .. }) => Ok(Standing::Stranger),
            Err(error) => Err(error),
        }
    }

    /// Lets whoever shows `credential` from this machine act as the first platform administrator, until the process
    /// ends. The credential is kept in memory alone.
    ///
    /// # Errors
    /// [`Error::Invalid`] for one that could be guessed; [`Error::NotFound`] where there is no administrator yet.
    pub async fn enable_local_admin(&self, credential: SecretString) -> Result<()> {
        if credential.expose_secret().len() < LOCAL_CREDENTIAL_MIN {
            return Err(Error::invalid("credential", format!("must have at least {LOCAL_CREDENTIAL_MIN} characters")));
        }
        self.base.store.users().first_admin().await?;
        self.local_admin.store(Some(Arc::new(credential)));
        Ok(())
    }

    /// Signs a statement of ours, which `kind` names, for anybody to verify with [`Service::jwks`]: a JWS. It is no token.
    ///
    /// # Errors
    /// [`Error::Internal`].
    pub fn attest(&self, kind: &str, claims: &serde_json::Value) -> Result<String> {
        self.tokens.attest(kind, claims)
    }

    /// The public halves of the keys that sign our tokens.
    #[must_use]
    pub fn jwks(&self) -> Jwks {
        self.tokens.jwks()
    }

    /// Listens to what is changed, here and in other processes, until the process ends.
    pub fn listen(self: &Arc<Self>) {
        let (service, mut events) = (Arc::clone(self), self.base.bus_events());
        self.base.tasks.spawn(async move {
            while let Some(event) = events.next().await {
                service.heard(&event);
            }
        });
    }

    /// Tells everybody, and counts at once here.
    pub fn publish(&self, event: BusEvent) {
        self.heard(&event);
        self.base.bus.publish(event);
    }

    fn heard(&self, event: &BusEvent) {
        let now = self.base.clock.now();
        match event {
            BusEvent::LoginEnded(login) => self.changes.note(login.as_str(), now),
            BusEvent::KeyRevoked(key) => self.changes.note(key.as_str(), now),
            BusEvent::MembershipChanged(user) => self.changes.note(user.as_str(), now),
            BusEvent::Missed => self.changes.note_all(now),
            BusEvent::InstanceChanged { .. }
            | BusEvent::TenantChanged(_)
            | BusEvent::SessionChanged(..)
            | BusEvent::MessageAccepted(..)
            | BusEvent::QueueReleased(_) => {}
        }
    }

    async fn prove_token(&self, token: &str, now: Timestamp) -> Result<(Caller, Timestamp)> {
        let claims = self.tokens.verify(token, now).ok_or(REFUSED)?;
        let caller = self.prove_user(&claims.sub, &claims.sid).await?;
        Ok((caller, Timestamp::from_micros(claims.exp.saturating_mul(1_000_000))))
    }

    /// The signature is right: whether the person may still come in, and what they are today, is looked up.
    async fn prove_user(&self, user: &UserId, login: &LoginId) -> Result<Caller> {
        let user = match self.base.store.users().get(user).await {
            Ok(user) if !user.disabled => user,
            Ok(_) | Err(Error::NotFound { .. }) => return Err(REFUSED),
            Err(error) => return Err(error),
        };
        if !self.base.store.refresh_tokens().login_lasts(login).await? {
            return Err(REFUSED);
        }
        Ok(Caller::User { id: user.id, platform_admin: user.platform_admin, login: Some(login.clone()) })
    }

    async fn prove_api_key(&self, secret: &str, now: Timestamp) -> Result<(Caller, Timestamp)> {
        let key = match self.base.store.system("find an API key by its hash").api_key_by_hash(&hash(secret)).await {
            Ok(key) if key.is_valid(now) => key,
            Ok(_) | Err(Error::NotFound { .. }) => return Err(REFUSED),
            Err(error) => return Err(error),
        };
        self.note_use(&key, now);
        let until = key.expires_at.unwrap_or(Timestamp::from_micros(i64::MAX));
        Ok((Caller::Key { id: key.id, tenant: key.tenant_id, scopes: key.scopes }, until))
    }

    async fn prove_local_admin(&self, credential: &str, peer: Option<IpAddr>) -> Result<Option<Caller>> {
        let Some(known) = self.local_admin.load_full() else { return Ok(None) };
        let same = bool::from(known.expose_secret().as_bytes().ct_eq(credential.as_bytes()));
        if !same || !peer.is_some_and(|peer| peer.to_canonical().is_loopback()) {
            return Ok(None);
        }
        let admin = self.base.store.users().first_admin().await?;
        Ok(Some(Caller::User { id: admin.id, platform_admin: true, login: None }))
    }
}
