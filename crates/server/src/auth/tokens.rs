//! Access tokens: short-lived, signed, and good for nothing but this platform. The algorithm is pinned: what a token
//! says of it is never believed.

use astrfleet_core::{
    Error, Result,
    id::{LoginId, UserId},
    time::Timestamp,
    user::User,
};
use jsonwebtoken::{Algorithm, Header, Validation};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use super::keys::{Jwks, SigningKey};

/// Who makes them.
const ISSUER: &str = "astrfleet";
/// Whom they are for.
const AUDIENCE: &str = "astrfleet";
/// Ours have some 400 bytes; what is longer is not looked at.
const LENGTH_MAX: usize = 2_048;

/// What a token says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Claims {
    iss: String,
    aud: String,
    /// Who.
    pub sub: UserId,
    /// The login that it belongs to.
    pub sid: LoginId,
    /// Whether they administered the platform when it was made. For others to read: we look it up.
    pub adm: bool,
    /// When it was made, in seconds since 1970.
    pub iat: i64,
    /// After this it is worth nothing, in seconds since 1970.
    pub exp: i64,
    jti: String,
}

/// Makes and reads them.
pub struct Tokens {
    /// The first signs.
    keys: Vec<SigningKey>,
    validation: Validation,
}

impl Tokens {
    /// With the key that signs, and those that are still believed.
    #[must_use]
    pub fn new(keys: Vec<SigningKey>) -> Self {
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.set_issuer(&[ISSUER]);
        validation.set_audience(&[AUDIENCE]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        // By our own clock, below.
        validation.validate_exp = false;
        Self { keys, validation }
    }

    /// A token of `user` in `login` from `now` to `until`. `id` is different for each.
    ///
    /// # Errors
    /// [`Error::Internal`].
    pub fn sign(
        &self,
        user: &User,
        login: &LoginId,
        now: Timestamp,
        until: Timestamp,
        id: String,
    ) -> Result<SecretString> {
        let key = self.keys.first().ok_or_else(|| Error::internal("there is no key to sign tokens with"))?;
        let claims = Claims {
            iss: ISSUER.to_owned(),
            aud: AUDIENCE.to_owned(),
            sub: user.id.clone(),
            sid: login.clone(),
            adm: user.platform_admin,
            iat: now.seconds(),
            exp: until.seconds(),
            jti: id,
        };
        let header = Header { kid: Some(key.kid.clone()), ..Header::new(Algorithm::EdDSA) };
        let token = jsonwebtoken::encode(&header, &claims, &key.encoding).map_err(Error::internal)?;
        Ok(token.into())
    }

    /// A signed statement, which nobody takes for a token: it has neither an audience nor an end.
    ///
    /// # Errors
    /// [`Error::Internal`].
    pub fn attest(&self, kind: &str, claims: &serde_json::Value) -> Result<String> {
        let key = self.keys.first().ok_or_else(|| Error::internal("there is no key to sign statements with"))?;
        let header = Header { kid: Some(key.kid.clone()), typ: Some(kind.to_owned()), ..Header::new(Algorithm::EdDSA) };
        jsonwebtoken::encode(&header, claims, &key.encoding).map_err(Error::internal)
    }

    /// What a token says, if it is one of ours and still good at `now`.
    #[must_use]
    pub fn verify(&self, token: &str, now: Timestamp) -> Option<Claims> {
        if token.len() > LENGTH_MAX {
            return None;
        }
        let kid = jsonwebtoken::decode_header(token).ok()?.kid?;
        let key = self.keys.iter().find(|key| key.kid == kid)?;
        let claims = jsonwebtoken::decode::<Claims>(token, &key.decoding, &self.validation).ok()?.claims;
        (now.seconds() < claims.exp).then_some(claims)
    }

    /// For others to verify with.
    #[must_use]
    pub fn jwks(&self) -> Jwks {
        Jwks { keys: self.keys.iter().map(SigningKey::jwk).collect() }
    }
}

#[cfg(test)]
mod tests {
    use astrfleet_core::{
        id::{LoginId, UserId},
        time::Timestamp,
        user::User,
    };
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    use secrecy::ExposeSecret;

    use super::{SigningKey, Tokens};
    use crate::secrets::Secrets;

    const NOW: Timestamp = Timestamp::from_micros(1_795_402_721_000_042);

    fn key(secret: &str) -> SigningKey {
        SigningKey::derive(&Secrets::new(secret.into())).unwrap()
    }

    fn ada() -> User {
        User {
            id: UserId::parse("usr_0123456789abcdef0123456789abcdef").unwrap(),
            email: "ada@example.com".into(),
            display_name: "Ada".into(),
            platform_admin: true,
            disabled: false,
            created_at: NOW,
            updated_at: NOW,
            version: 1,
        }
    }

    fn sign(tokens: &Tokens) -> String {
        let login = LoginId::parse("log_0123456789abcdef0123456789abcdef").unwrap();
        let until = NOW.plus(std::time::Duration::from_mins(15));
        tokens.sign(&ada(), &login, NOW, until, "one".into()).unwrap().expose_secret().to_owned()
    }

    #[test]
    fn a_token_is_good_until_its_time_is_over() {
        let tokens = Tokens::new(vec![key("a secret of at least 32 characters")]);
        let token = sign(&tokens);
        assert_eq!(tokens.verify(&token, NOW).unwrap().sub, ada().id);
        assert!(tokens.verify(&token, NOW.plus(std::time::Duration::from_secs(899))).is_some());
        assert!(tokens.verify(&token, NOW.plus(std::time::Duration::from_mins(15))).is_none());
    }

    #[test]
    fn the_secret_before_still_verifies_and_never_signs() {
        let before = Tokens::new(vec![key("the old secret of 32 characters or so")]);
        let token = sign(&before);
        let after = || key("the new secret of 32 characters or so");
        let rotated = Tokens::new(vec![after(), key("the old secret of 32 characters or so")]);
        assert!(rotated.verify(&token, NOW).is_some());
        assert!(before.verify(&sign(&rotated), NOW).is_none());
        assert!(Tokens::new(vec![after()]).verify(&token, NOW).is_none());
        assert_eq!(rotated.jwks().keys.len(), 2);
    }

    #[test]
    fn a_forged_token_is_refused() {
        let tokens = Tokens::new(vec![key("a secret of at least 32 characters")]);
        let token = sign(&tokens);
        let parts: Vec<&str> = token.split('.').collect();
        let kid = &tokens.keys[0].kid;
        let header = |text: &str| URL_SAFE_NO_PAD.encode(text);
        let none = header(&format!(r#"{{"alg":"none","kid":"{kid}"}}"#));
        let hmac = header(&format!(r#"{{"alg":"HS256","kid":"{kid}"}}"#));
        let claims = String::from_utf8(URL_SAFE_NO_PAD.decode(parts[1]).unwrap()).unwrap();
        let other_user = URL_SAFE_NO_PAD.encode(claims.replace("usr_0", "usr_1"));
        for forged in [
            format!("{none}.{}.", parts[1]),
            format!("{hmac}.{}.{}", parts[1], parts[2]),
            format!("{}.{other_user}.{}", parts[0], parts[2]),
            format!("{}.{}.", parts[0], parts[1]),
            format!("{}.{}", parts[0], parts[1]),
            "x".repeat(5_000),
            String::new(),
        ] {
            assert!(tokens.verify(&forged, NOW).is_none(), "{forged}");
        }
    }
}
