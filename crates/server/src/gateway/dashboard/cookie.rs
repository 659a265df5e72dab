//! What a person's browser shows at a bot's own host: who they are and whose bot it is for, signed. It is no credential
//! anywhere else.

use std::time::Duration;

use astrfleet_core::{
    Result,
    id::{LoginId, TenantId, UserId},
    time::Timestamp,
};
use aws_lc_rs::hmac;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, header};
use serde::{Deserialize, Serialize};

use super::tickets::Ticket;
use crate::secrets::Secrets;

/// How long it is good for, if nothing ends it before.
pub const LIFETIME: Duration = Duration::from_hours(12);
/// Ours are far shorter.
const LENGTH_MAX: usize = 1_024;
/// Cookies of our name that are looked at in one request.
const TRIED_MAX: usize = 4;

/// What it says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pass {
    /// Whose bot.
    #[serde(rename = "t")]
    pub tenant: TenantId,
    /// Who.
    #[serde(rename = "u")]
    pub user: UserId,
    /// Ends with this login.
    #[serde(rename = "l")]
    pub login: Option<LoginId>,
    /// And at this moment, in seconds since 1970.
    #[serde(rename = "e")]
    expires: i64,
}

/// Makes and reads them.
#[derive(Debug)]
pub struct Cookies {
    key: hmac::Key,
    secure: bool,
}

impl Cookies {
    /// `secure`: users come by https.
    ///
    /// # Errors
    /// [`astrfleet_core::Error::Internal`].
    pub fn new(secrets: &Secrets, secure: bool) -> Result<Self> {
        Ok(Self { key: hmac::Key::new(hmac::HMAC_SHA256, &secrets.derive("dashboard cookies")?), secure })
    }

    /// `__Host-` makes browsers refuse one that another host of the domain sets.
    fn name(&self) -> &'static str {
        if self.secure { "__Host-astrfleet" } else { "astrfleet" }
    }

    /// The `Set-Cookie` for whoever held `ticket`.
    pub fn set(&self, ticket: Ticket, now: Timestamp) -> String {
        let Ticket { tenant, user, login } = ticket;
        let pass = Pass { tenant, user, login, expires: now.plus(LIFETIME).seconds() };
        let said = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&pass).unwrap_or_default());
        let tag = URL_SAFE_NO_PAD.encode(hmac::sign(&self.key, said.as_bytes()));
        self.line(&format!("{said}.{tag}"), LIFETIME.as_secs())
    }

    /// The `Set-Cookie` that takes it away.
    pub fn clear(&self) -> String {
        self.line("", 0)
    }

    fn line(&self, value: &str, age_s: u64) -> String {
        let secure = if self.secure { "; Secure" } else { "" };
        format!("{}={value}; Path=/; Max-Age={age_s}; HttpOnly; SameSite=Strict{secure}", self.name())
    }

    /// The pass to this tenant's bot that a request shows, if it shows one that is good at `now`. Another host of the
    /// domain can add cookies of our name, so the others are looked at, too.
    pub fn read(&self, headers: &HeaderMap, tenant: &TenantId, now: Timestamp) -> Option<Pass> {
        headers
            .get_all(header::COOKIE)
            .iter()
            .filter_map(|line| line.to_str().ok())
            .flat_map(|line| line.split(';'))
            .filter_map(|pair| pair.trim().split_once('='))
            .filter(|(name, _)| *name == self.name())
            .take(TRIED_MAX)
            .find_map(|(_, value)| {
                self.verify(value).filter(|pass| pass.tenant == *tenant && now.seconds() < pass.expires)
            })
    }

    fn verify(&self, value: &str) -> Option<Pass> {
        if value.len() > LENGTH_MAX {
            return None;
        }
        let (said, tag) = value.split_once('.')?;
        let tag = URL_SAFE_NO_PAD.decode(tag).ok()?;
        // Compares in constant time.
        hmac::verify(&self.key, said.as_bytes(), &tag).ok()?;
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(said).ok()?).ok()
    }
}

#[cfg(test)]
mod tests {
    use astrfleet_core::{
        id::{TenantId, UserId},
        time::Timestamp,
    };
    use http::{HeaderMap, HeaderValue, header};

    use super::{Cookies, LIFETIME};
    use crate::{gateway::dashboard::tickets::Ticket, secrets::Secrets};

    const NOW: Timestamp = Timestamp::from_micros(1_795_402_721_000_042);

    fn cookies(secret: &str, secure: bool) -> Cookies {
        Cookies::new(&Secrets::new(secret.into()), secure).unwrap()
    }

    fn tenant(digit: char) -> TenantId {
        TenantId::parse(&format!("ten_{}", digit.to_string().repeat(32))).unwrap()
    }

    fn set(cookies: &Cookies) -> String {
        let user = UserId::parse("usr_0123456789abcdef0123456789abcdef").unwrap();
        cookies.set(Ticket { tenant: tenant('1'), user, login: None }, NOW)
    }

    fn shown(line: &str) -> HeaderMap {
        let pair = line.split(';').next().unwrap();
        let value = HeaderValue::from_str(&format!("other=1; astrfleet=x.y; {pair}")).unwrap();
        HeaderMap::from_iter([(header::COOKIE, value)])
    }

    #[test]
    fn a_pass_is_good_for_one_bot_until_its_time_is_over() {
        let cookies = cookies("a secret of at least 32 characters", false);
        let shown = shown(&set(&cookies));
        assert!(cookies.read(&shown, &tenant('1'), NOW).is_some());
        assert!(cookies.read(&shown, &tenant('2'), NOW).is_none(), "another bot");
        assert!(cookies.read(&shown, &tenant('1'), NOW.plus(LIFETIME)).is_none(), "too old");
        assert!(cookies.read(&HeaderMap::new(), &tenant('1'), NOW).is_none());
    }

    #[test]
    fn a_pass_cannot_be_made_up() {
        let shown = shown(&set(&cookies("another secret of at least 32 chars", false)));
        assert!(cookies("a secret of at least 32 characters", false).read(&shown, &tenant('1'), NOW).is_none());
    }

    #[test]
    fn it_is_for_one_host_and_no_script() {
        let line = set(&cookies("a secret of at least 32 characters", true));
        assert!(line.starts_with("__Host-astrfleet="), "{line}");
        for word in ["; HttpOnly", "; SameSite=Strict", "; Secure", "; Path=/"] {
            assert!(line.contains(word), "{line} lacks {word}");
        }
        assert!(!line.contains("Domain"), "{line}");
    }
}
