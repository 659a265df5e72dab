//! How one process of the platform proves to another that it is one of us, and says for whom it speaks: a header, signed
//! with a key that is derived from `JWT_SECRET`, good for one method, one address and half a minute.
//!
//! The body is not signed: whoever can change it on the way sits between our own processes.

use std::{fmt::Write, net::IpAddr, time::Duration};

use astrfleet_core::{
    Result,
    api_key::Scope,
    id::{ApiKeyId, LoginId, TenantId, UserId},
    policy::Caller,
    time::Timestamp,
};
use aws_lc_rs::hmac;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderName, HeaderValue, Method};

use crate::{config::AuthConfig, secrets::Secrets};

/// The header.
pub const IDENTITY: HeaderName = HeaderName::from_static("x-astrfleet-identity");
/// How long one is good for; clocks of different machines may differ by as much.
pub const LIFETIME: Duration = Duration::from_secs(30);

const VERSION: &str = "1";
const NOTHING: &str = "-";
/// Ours have some 250 bytes; what is longer is not looked at.
const LENGTH_MAX: usize = 1_024;

/// What one process tells another about a call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// On whose behalf, where somebody has proven who they are.
    pub caller: Option<Caller>,
    /// Where their request came from; none where the call is the platform's own.
    pub client: Option<IpAddr>,
    /// Their request was counted against their tenant's limit already.
    pub counted: bool,
}

impl Identity {
    /// The platform's own call, on nobody's behalf.
    #[must_use]
    pub fn is_own(&self) -> bool {
        *self == Self::default()
    }
}

/// Signs and checks. Processes with the same secret understand each other.
pub struct Signer {
    /// The first signs; all are believed.
    keys: Vec<hmac::Key>,
}

impl Signer {
    /// With the secret, and the one before it while it is still configured.
    ///
    /// # Errors
    /// [`astrfleet_core::Error::Internal`].
    pub fn new(config: &AuthConfig) -> Result<Self> {
        let secrets = [Some(&config.jwt_secret), config.previous_jwt_secret.as_ref()];
        let key = |secret: &secrecy::SecretString| {
            let bytes = Secrets::new(secret.clone()).derive("identity between roles")?;
            Ok(hmac::Key::new(hmac::HMAC_SHA256, &bytes))
        };
        Ok(Self { keys: secrets.into_iter().flatten().map(key).collect::<Result<_>>()? })
    }

    /// The header of a call with this method to this path and query, made at `now`.
    #[must_use]
    pub fn sign(&self, identity: &Identity, method: &Method, target: &str, now: Timestamp) -> HeaderValue {
        let mut text = format!("{VERSION} {} ", now.seconds());
        identity.write(&mut text);
        if let Some(key) = self.keys.first() {
            let tag = tag(key, &text, method, target);
            text.push(' ');
            URL_SAFE_NO_PAD.encode_string(tag.as_ref(), &mut text);
        }
        HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(NOTHING))
    }

    /// What the header says, if it is one of ours, for this call, and still good at `now`.
    #[must_use]
    pub fn verify(&self, header: &HeaderValue, method: &Method, target: &str, now: Timestamp) -> Option<Identity> {
        let text = header.to_str().ok().filter(|text| text.len() <= LENGTH_MAX)?;
        let (said, shown) = text.rsplit_once(' ')?;
        let shown = URL_SAFE_NO_PAD.decode(shown).ok()?;
        let signed = message(said, method, target);
        // Compares in constant time.
        self.keys.iter().find(|key| hmac::verify(key, signed.as_bytes(), &shown).is_ok())?;
        let mut words = said.split(' ');
        if words.next() != Some(VERSION) {
            return None;
        }
        let made_at: i64 = words.next()?.parse().ok()?;
        let lifetime = i64::try_from(LIFETIME.as_secs()).unwrap_or(i64::MAX);
        if now.seconds().abs_diff(made_at) > lifetime.unsigned_abs() {
            return None;
        }
        Identity::read(words)
    }
}

impl Identity {
    fn write(&self, text: &mut String) {
        match &self.caller {
            None => text.push_str(NOTHING),
            Some(Caller::User { id, platform_admin, login }) => {
                let login = login.as_ref().map_or(NOTHING, LoginId::as_str);
                let _ = write!(text, "user,{id},{},{login}", u8::from(*platform_admin));
            }
            Some(Caller::Key { id, tenant, scopes }) => {
                let _ = write!(text, "key,{id},{tenant}");
                for scope in scopes {
                    text.push(',');
                    text.push_str(scope_name(*scope));
                }
            }
        }
        match self.client {
            None => text.push_str(" -"),
            Some(client) => {
                let _ = write!(text, " {client}");
            }
        }
        text.push_str(if self.counted { " counted" } else { " -" });
    }

    fn read<'a>(mut words: impl Iterator<Item = &'a str>) -> Option<Self> {
        let caller = match words.next()? {
            NOTHING => None,
            text => Some(caller(text)?),
        };
        let client = match words.next()? {
            NOTHING => None,
            text => Some(text.parse().ok()?),
        };
        let counted = match words.next()? {
            NOTHING => false,
            "counted" => true,
            _ => return None,
        };
        words.next().is_none().then_some(Self { caller, client, counted })
    }
}

fn caller(text: &str) -> Option<Caller> {
    let mut parts = text.split(',');
    match parts.next()? {
        "user" => {
            let id = UserId::parse(parts.next()?).ok()?;
            let platform_admin = match parts.next()? {
                "1" => true,
                "0" => false,
                _ => return None,
            };
            let login = match parts.next()? {
                NOTHING => None,
                login => Some(LoginId::parse(login).ok()?),
            };
            parts.next().is_none().then_some(Caller::User { id, platform_admin, login })
        }
        "key" => {
            let id = ApiKeyId::parse(parts.next()?).ok()?;
            let tenant = TenantId::parse(parts.next()?).ok()?;
            let scopes = parts.map(scope).collect::<Option<Vec<_>>>()?;
            Some(Caller::Key { id, tenant, scopes })
        }
        _ => None,
    }
}

fn scope_name(scope: Scope) -> &'static str {
    match scope {
        Scope::Chat => "chat",
        Scope::Instance => "instance",
    }
}

fn scope(name: &str) -> Option<Scope> {
    [Scope::Chat, Scope::Instance].into_iter().find(|scope| scope_name(*scope) == name)
}

fn tag(key: &hmac::Key, said: &str, method: &Method, target: &str) -> hmac::Tag {
    hmac::sign(key, message(said, method, target).as_bytes())
}

/// Neither a method nor an address has a line break in it.
fn message(said: &str, method: &Method, target: &str) -> String {
    [said, "\n", method.as_str(), "\n", target].concat()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;

    const NOW: Timestamp = Timestamp::from_micros(1_795_402_721_000_042);
    const TARGET: &str = "/internal/v1/live/ten_1/msg_2?a=b";

    fn signer(secret: &str, previous: Option<&str>) -> Signer {
        let key = |secret: &str| {
            let bytes = Secrets::new(secret.into()).derive("identity between roles").unwrap();
            hmac::Key::new(hmac::HMAC_SHA256, &bytes)
        };
        Signer { keys: [Some(secret), previous].into_iter().flatten().map(key).collect() }
    }

    fn identities() -> Vec<Identity> {
        let digits = "0".repeat(32);
        let user = UserId::parse(&format!("usr_{digits}")).unwrap();
        let login = LoginId::parse(&format!("log_{digits}")).unwrap();
        let key = ApiKeyId::parse(&format!("key_{digits}")).unwrap();
        let tenant = TenantId::parse(&format!("ten_{digits}")).unwrap();
        let callers = [
            None,
            Some(Caller::User { id: user.clone(), platform_admin: true, login: None }),
            Some(Caller::User { id: user, platform_admin: false, login: Some(login) }),
            Some(Caller::Key { id: key.clone(), tenant: tenant.clone(), scopes: Vec::new() }),
            Some(Caller::Key { id: key, tenant, scopes: vec![Scope::Instance, Scope::Chat] }),
        ];
        let clients = [None, Some([203, 0, 113, 9].into()), Some(Ipv6Addr::LOCALHOST.into())];
        let mut all = Vec::new();
        for caller in callers {
            for client in clients {
                for counted in [false, true] {
                    all.push(Identity { caller: caller.clone(), client, counted });
                }
            }
        }
        all
    }

    #[test]
    fn what_is_said_arrives() {
        let signer = signer("one secret of at least 32 characters", None);
        for identity in identities() {
            let header = signer.sign(&identity, &Method::GET, TARGET, NOW);
            assert_eq!(signer.verify(&header, &Method::GET, TARGET, NOW), Some(identity), "{header:?}");
        }
    }

    #[test]
    fn it_is_good_for_one_call_and_a_short_time() {
        let signer = signer("one secret of at least 32 characters", None);
        let header = signer.sign(&Identity::default(), &Method::GET, TARGET, NOW);
        let verify = |method, target, now| signer.verify(&header, &method, target, now);
        assert!(verify(Method::GET, TARGET, NOW.plus(LIFETIME)).is_some());
        assert!(verify(Method::GET, TARGET, NOW.minus(LIFETIME)).is_some(), "another clock");
        let late = LIFETIME + Duration::from_secs(1);
        assert!(verify(Method::GET, TARGET, NOW.plus(late)).is_none());
        assert!(verify(Method::GET, TARGET, NOW.minus(late)).is_none());
        assert!(verify(Method::POST, TARGET, NOW).is_none());
        assert!(verify(Method::GET, "/internal/v1/live/ten_1/msg_2?a=c", NOW).is_none());
    }

    #[test]
    fn two_secrets_are_good_while_one_replaces_the_other() {
        let (old, new) = ("an old secret of at least 32 characters", "a new secret of at least 32 characters");
        let sign = |signer: &Signer| signer.sign(&Identity::default(), &Method::GET, TARGET, NOW);
        let accepts =
            |signer: &Signer, header: HeaderValue| signer.verify(&header, &Method::GET, TARGET, NOW).is_some();
        let (before, during, after) = (signer(old, None), signer(new, Some(old)), signer(new, None));
        assert!(accepts(&during, sign(&before)) && accepts(&during, sign(&during)));
        assert!(accepts(&after, sign(&during)) && !accepts(&after, sign(&before)));
    }

    #[test]
    fn nothing_else_is_believed() {
        let signer = signer("one secret of at least 32 characters", None);
        let good = signer.sign(&identities()[3], &Method::GET, TARGET, NOW);
        let good = good.to_str().unwrap();
        for at in 0..good.len() {
            let mut bytes = good.as_bytes().to_vec();
            bytes[at] = if bytes[at] == b'1' { b'2' } else { b'1' };
            let Ok(changed) = HeaderValue::from_bytes(&bytes) else { continue };
            assert!(signer.verify(&changed, &Method::GET, TARGET, NOW).is_none(), "{changed:?}");
        }
        for text in ["", "-", "1 2 - - -", "1", " ", &"1 ".repeat(600)] {
            let header = HeaderValue::from_str(text).unwrap();
            assert!(signer.verify(&header, &Method::GET, TARGET, NOW).is_none(), "{text:?}");
        }
    }
}
