//! The keys that sign access tokens: Ed25519, derived from `JWT_SECRET`, so that every replica has the same ones and
//! none is stored (ADR 0006). The first signs; all of them verify, which is how one rotates.

use astrfleet_core::{Error, Result};
use aws_lc_rs::{
    digest,
    signature::{Ed25519KeyPair, KeyPair},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{DecodingKey, EncodingKey};
use serde::Serialize;

use crate::secrets::Secrets;

/// The purpose in the derivation. Another text would be another key.
const LABEL: &str = "jwt signing ed25519";

/// One pair of keys.
pub struct SigningKey {
    /// Names the key in the header of each token: the first bytes of the SHA-256 of the public key.
    pub kid: String,
    /// Makes signatures.
    pub encoding: EncodingKey,
    /// Checks them.
    pub decoding: DecodingKey,
    public: Vec<u8>,
}

impl SigningKey {
    /// The one that belongs to this secret.
    ///
    /// # Errors
    /// [`Error::Internal`].
    pub fn derive(secrets: &Secrets) -> Result<Self> {
        let pair = Ed25519KeyPair::from_seed_unchecked(&secrets.derive(LABEL)?)
            .map_err(|error| Error::internal(error.to_string()))?;
        let der = pair.to_pkcs8().map_err(|_| Error::internal("the key that signs tokens could not be made"))?;
        let public = pair.public_key().as_ref().to_vec();
        let hash = digest::digest(&digest::SHA256, &public);
        Ok(Self {
            kid: URL_SAFE_NO_PAD.encode(&hash.as_ref()[..12]),
            encoding: EncodingKey::from_ed_der(der.as_ref()),
            decoding: DecodingKey::from_ed_der(&public),
            public,
        })
    }

    /// The public half, for others to verify with.
    #[must_use]
    pub fn jwk(&self) -> Jwk {
        Jwk {
            kty: "OKP",
            crv: "Ed25519",
            alg: "EdDSA",
            key_use: "sig",
            kid: self.kid.clone(),
            x: URL_SAFE_NO_PAD.encode(&self.public),
        }
    }
}

/// A public key (RFC 8037).
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct Jwk {
    /// The family: `OKP`.
    #[schema(example = "OKP")]
    pub kty: &'static str,
    /// The curve: `Ed25519`.
    #[schema(example = "Ed25519")]
    pub crv: &'static str,
    /// The algorithm: `EdDSA`.
    #[schema(example = "EdDSA")]
    pub alg: &'static str,
    /// What it is for: `sig`.
    #[serde(rename = "use")]
    #[schema(example = "sig")]
    pub key_use: &'static str,
    /// As in the header of the tokens.
    pub kid: String,
    /// The key itself, base64url.
    pub x: String,
}

/// Public keys (RFC 7517).
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct Jwks {
    /// The one that signs now, and the one before it while its tokens still run.
    pub keys: Vec<Jwk>,
}

#[cfg(test)]
mod tests {
    use super::SigningKey;
    use crate::secrets::Secrets;

    #[test]
    fn replicas_with_one_secret_have_one_key() {
        let key = |secret: &str| SigningKey::derive(&Secrets::new(secret.into())).unwrap();
        let (one, same) = (key("0123456789abcdef0123456789abcdef"), key("0123456789abcdef0123456789abcdef"));
        assert_eq!((one.kid.clone(), one.jwk().x), (same.kid.clone(), same.jwk().x));
        assert_ne!(one.kid, key("another secret of at least 32 characters").kid);
    }
}
