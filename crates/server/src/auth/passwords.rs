//! Passwords: argon2id, a bounded number at a time, on threads of their own. An address that nobody has costs the same
//! time as one that somebody has.

use std::{sync::Arc, time::Duration};

use argon2::{Algorithm, Argon2, Params, PasswordHash, PasswordHasher, PasswordVerifier, Version};
use astrfleet_core::{Error, Result, ports::Rng};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::{OnceCell, Semaphore};

/// The OWASP Password Storage Cheat Sheet's second choice for Argon2id: 19 MiB, 2 passes, 1 lane
/// (<https://cheatsheetseries.owasp.org/cheatsheets/Password_Storage_Cheat_Sheet.html#argon2id>).
const MEMORY_KIB: u32 = 19 * 1_024;
const PASSES: u32 = 2;
const LANES: u32 = 1;
/// Each takes its memory and a core.
const AT_A_TIME: usize = 4;
/// How long one may wait for its turn.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// In characters. Below it, guessing is too easy; beyond it, nobody types.
const LENGTH: std::ops::RangeInclusive<usize> = 12..=256;

/// Refuses what is no good as a password. There is no rule on its characters.
///
/// # Errors
/// [`Error::Invalid`].
pub fn check(field: &'static str, password: &SecretString) -> Result<()> {
    if LENGTH.contains(&password.expose_secret().chars().count()) {
        return Ok(());
    }
    Err(Error::invalid(field, format!("must have {} to {} characters", LENGTH.start(), LENGTH.end())))
}

/// Hashes and compares.
pub struct Passwords {
    rng: Arc<dyn Rng>,
    turns: Arc<Semaphore>,
    /// Of no password at all, for addresses that nobody has.
    nobodys: OnceCell<String>,
}

impl Passwords {
    /// With salts from `rng`.
    #[must_use]
    pub fn new(rng: Arc<dyn Rng>) -> Self {
        Self { rng, turns: Arc::new(Semaphore::new(AT_A_TIME)), nobodys: OnceCell::new() }
    }

    /// The hash of a password, as a PHC string.
    ///
    /// # Errors
    /// [`Error::TooMany`] where too many are being hashed already.
    pub async fn hash(&self, password: SecretString) -> Result<String> {
        let mut salt = [0; 16];
        self.rng.fill(&mut salt);
        self.in_turn(move || {
            let hash: PasswordHash = argon2id()?
                .hash_password_with_salt(password.expose_secret().as_bytes(), &salt)
                .map_err(|error| Error::internal(error.to_string()))?;
            Ok(hash.to_string())
        })
        .await
    }

    /// Whether `password` is the one of `hash`. Without a hash it never is, after the same time.
    ///
    /// # Errors
    /// [`Error::TooMany`] where too many are being compared already; [`Error::Internal`] for a hash that cannot be read.
    pub async fn verify(&self, password: SecretString, hash: Option<String>) -> Result<bool> {
        let nobodys = self.nobodys.get_or_try_init(|| self.hash("nobody's".into())).await?;
        let known = hash.is_some();
        let hash = hash.unwrap_or_else(|| nobodys.clone());
        self.in_turn(move || {
            let hash = PasswordHash::new(&hash).map_err(|error| Error::internal(error.to_string()))?;
            Ok(argon2id()?.verify_password(password.expose_secret().as_bytes(), &hash).is_ok() && known)
        })
        .await
    }

    async fn in_turn<T: Send + 'static>(&self, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        let turn = tokio::time::timeout(WAIT_MAX, Arc::clone(&self.turns).acquire_owned());
        let Ok(turn) = turn.await else {
            return Err(Error::TooMany { what: "logins at the moment", retry_after: WAIT_MAX });
        };
        let turn = turn.map_err(Error::internal)?;
        tokio::task::spawn_blocking(move || {
            let done = work();
            drop(turn);
            done
        })
        .await
        .map_err(Error::internal)?
    }
}

fn argon2id() -> Result<Argon2<'static>> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None).map_err(|error| Error::internal(error.to_string()))?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use astrfleet_core::ports::testing::CountingRng;

    use super::{Passwords, check};

    #[tokio::test]
    async fn only_the_right_password_of_somebody_known_passes() {
        let passwords = Passwords::new(Arc::new(CountingRng::default()));
        let hash = passwords.hash("correct horse battery".into()).await.unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        assert!(passwords.verify("correct horse battery".into(), Some(hash.clone())).await.unwrap());
        assert!(!passwords.verify("wrong horse battery".into(), Some(hash)).await.unwrap());
        assert!(!passwords.verify("nobody's".into(), None).await.unwrap());
    }

    #[test]
    fn length_is_the_only_rule() {
        assert!(check("password", &"0123456789ab".into()).is_ok());
        assert!(check("password", &"密".repeat(12).into()).is_ok());
        for bad in [String::new(), "0123456789a".to_owned(), "x".repeat(257)] {
            assert!(check("password", &bad.into()).is_err());
        }
    }
}
