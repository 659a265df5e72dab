//! Logins: an access token for a quarter of an hour, and a refresh token for the next one. Each refresh token is good
//! for one use; a second use means that two hold it, and ends the whole login.

use std::net::IpAddr;

use astrfleet_core::{
    Error, Result,
    id::{LoginId, UserId},
    ports::BusEvent,
    user::{RefreshToken, User},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use secrecy::{ExposeSecret, SecretString};

use super::{Service, hash, passwords};
use crate::{config::seconds, extract::place};

/// What a refresh token begins with.
const REFRESH_PREFIX: &str = "afr_";
/// An access token's own id is cut from so many random bytes.
const TOKEN_ID_BYTES: usize = 12;
/// What whoever cannot refresh is told.
const LOGIN_OVER: Error = Error::Unauthenticated { reason: "this login is over: log in again" };
/// What whoever cannot log in is told. It does not say which of the two was wrong.
const WRONG: Error = Error::Unauthenticated { reason: "the e-mail address or the password is wrong" };

/// What somebody gets who logs in. Shown once.
pub struct Login {
    /// Whose.
    pub user: User,
    /// To be sent with each request.
    pub access_token: SecretString,
    /// For the next access token.
    pub refresh_token: SecretString,
    /// How long the access token is good for.
    pub expires_in_s: u64,
}

impl Service {
    /// Lets somebody in by password.
    ///
    /// # Errors
    /// [`Error::Unauthenticated`]; [`Error::TooMany`] after too many failures.
    pub async fn log_in(&self, email: &str, password: SecretString, peer: Option<IpAddr>) -> Result<Login> {
        let email = email.trim().to_lowercase();
        let keys = throttle_keys(&email, peer);
        let user = match self.base.store.users().by_email(&email).await {
            Ok((user, hash)) => Some((user, hash)),
            Err(Error::NotFound { .. }) => None,
            Err(error) => return Err(error),
        };
        let (user, hash) = user.unzip();
        let right = self.is_right(password, hash, &keys).await?;
        match user {
            Some(user) if right && !user.disabled => self.begin_login(user).await,
            _ => {
                // One who is disabled costs the same time, and learns the same.
                self.throttle.failed(&*self.base.limiter, &keys, self.base.clock.now());
                Err(WRONG)
            }
        }
    }

    /// Begins a login of somebody who has proven who they are.
    ///
    /// # Errors
    /// What the store says.
    pub async fn begin_login(&self, user: User) -> Result<Login> {
        let login = self.base.ids.login();
        self.hand_out(user, &login).await
    }

    /// Exchanges a refresh token for the next one.
    ///
    /// # Errors
    /// [`Error::Unauthenticated`].
    pub async fn refresh(&self, refresh_token: &SecretString) -> Result<Login> {
        let tokens = self.base.store.refresh_tokens();
        let now = self.base.clock.now();
        let token = match tokens.by_hash(&hash(refresh_token.expose_secret())).await {
            Ok(token) => token,
            Err(Error::NotFound { .. }) => return Err(LOGIN_OVER),
            Err(error) => return Err(error),
        };
        if token.revoked_at.is_some() || token.expires_at <= now {
            return Err(LOGIN_OVER);
        }
        if token.used_at.is_some() || !tokens.take(&token.id, now).await? {
            tracing::warn!(user_id = %token.user, login_id = %token.login, "a refresh token came twice: its login is ended");
            self.end_login(&token.login).await?;
            return Err(LOGIN_OVER);
        }
        let user = self.base.store.users().get(&token.user).await?;
        if user.disabled {
            return Err(LOGIN_OVER);
        }
        self.hand_out(user, &token.login).await
    }

    /// Ends a login: its tokens are worth nothing from here on.
    ///
    /// # Errors
    /// What the store says.
    pub async fn end_login(&self, login: &LoginId) -> Result<()> {
        self.base.store.refresh_tokens().revoke_login(login, self.base.clock.now()).await?;
        self.publish(BusEvent::LoginEnded(login.clone()));
        Ok(())
    }

    /// Ends all logins of somebody. Returns how many.
    ///
    /// # Errors
    /// What the store says.
    pub async fn end_logins(&self, user: &UserId) -> Result<usize> {
        let ended = self.base.store.refresh_tokens().revoke_user(user, self.base.clock.now()).await?;
        let count = ended.len();
        for login in ended {
            self.publish(BusEvent::LoginEnded(login));
        }
        Ok(count)
    }

    /// Gives somebody another password, which ends all their logins, and begins a new one.
    ///
    /// # Errors
    /// [`Error::Invalid`] where the old one is wrong or the new one is no good; [`Error::TooMany`] after too many
    /// failures.
    pub async fn change_password(
        &self,
        user: &UserId,
        old: SecretString,
        new: SecretString,
        peer: Option<IpAddr>,
    ) -> Result<Login> {
        passwords::check("new_password", &new)?;
        let users = self.base.store.users();
        let user = users.get(user).await?;
        let (_, hash) = users.by_email(&user.email).await?;
        let keys = throttle_keys(&user.email, peer);
        if !self.is_right(old, Some(hash), &keys).await? {
            self.throttle.failed(&*self.base.limiter, &keys, self.base.clock.now());
            return Err(Error::invalid("old_password", "is not your password"));
        }
        self.set_password(&user.id, new).await?;
        let user = users.get(&user.id).await?;
        self.begin_login(user).await
    }

    /// Sets a password and ends all logins that were made with the one before it.
    pub(super) async fn set_password(&self, user: &UserId, password: SecretString) -> Result<()> {
        let hash = self.passwords.hash(password).await?;
        self.base.store.users().set_password(user, &hash, self.base.clock.now()).await?;
        self.end_logins(user).await?;
        Ok(())
    }

    /// Compares, for those who need not wait. Looked at twice: many can ask at once before the first has failed.
    async fn is_right(&self, password: SecretString, hash: Option<String>, keys: &[String]) -> Result<bool> {
        self.throttle.check(keys, self.base.clock.now())?;
        let right = self.passwords.verify(password, hash).await?;
        self.throttle.check(keys, self.base.clock.now())?;
        Ok(right)
    }

    async fn hand_out(&self, user: User, login: &LoginId) -> Result<Login> {
        let config = &self.base.config.auth;
        let now = self.base.clock.now();
        let mut id = [0; TOKEN_ID_BYTES];
        self.base.rng.fill(&mut id);
        let until = now.plus(seconds(config.access_token_ttl_s));
        let access_token = self.tokens.sign(&user, login, now, until, URL_SAFE_NO_PAD.encode(id))?;
        let refresh_token = self.random_secret(REFRESH_PREFIX);
        let stored = RefreshToken {
            id: self.base.ids.refresh_token(),
            login: login.clone(),
            user: user.id.clone(),
            hash: hash(refresh_token.expose_secret()),
            expires_at: now.plus(seconds(config.refresh_token_ttl_s)),
            used_at: None,
            revoked_at: None,
        };
        self.base.store.refresh_tokens().insert(&stored).await?;
        Ok(Login { user, access_token, refresh_token, expires_in_s: config.access_token_ttl_s })
    }

    /// A secret with 256 random bits that says what it is.
    pub(crate) fn random_secret(&self, prefix: &str) -> SecretString {
        let mut random = [0; 32];
        self.base.rng.fill(&mut random);
        format!("{prefix}{}", URL_SAFE_NO_PAD.encode(random)).into()
    }
}

/// By what failures are counted.
fn throttle_keys(email: &str, peer: Option<IpAddr>) -> Vec<String> {
    // Hashed: a key has a bounded length, whatever was sent.
    let email = URL_SAFE_NO_PAD.encode(hash(email));
    [Some(format!("of {email}")), peer.map(|peer| format!("from {}", place(peer)))].into_iter().flatten().collect()
}
