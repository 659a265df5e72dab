//! Every secret that we make ourselves, derived from one: `JWT_SECRET`. So every replica has the same ones, and none
//! is stored. HKDF with SHA-256 (RFC 5869), one label a purpose.

use astrfleet_core::{Error, Result, id::InstanceId};
use aws_lc_rs::{hkdf, hmac};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use secrecy::{ExposeSecret, SecretString};

/// What a virtual key for the model gateway begins with.
const LLM_KEY_PREFIX: &str = "afk-";

/// Derives.
#[derive(Clone)]
pub struct Secrets {
    master: SecretString,
}

impl Secrets {
    /// From `JWT_SECRET`.
    #[must_use]
    pub fn new(master: SecretString) -> Self {
        Self { master }
    }

    /// 32 bytes for a purpose. `label` names the purpose and whom it is for; no two purposes may share one.
    ///
    /// # Errors
    /// [`Error::Internal`].
    pub fn derive(&self, label: &str) -> Result<[u8; 32]> {
        let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, b"astrfleet v1");
        let key = salt.extract(self.master.expose_secret().as_bytes());
        let mut bytes = [0; 32];
        key.expand(&[label.as_bytes()], hkdf::HKDF_SHA256)
            .and_then(|okm| okm.fill(&mut bytes))
            .map_err(|_| Error::internal("a key could not be derived"))?;
        Ok(bytes)
    }

    /// What a bot signs its own tokens with.
    ///
    /// # Errors
    /// [`Error::Internal`].
    pub fn bot_jwt(&self, instance: &InstanceId, version: u32) -> Result<SecretString> {
        let bytes = self.derive(&format!("bot jwt {instance} {version}"))?;
        Ok(bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}")).into())
    }

    /// A bot's virtual key for the model gateway: it names the bot, and proves it.
    ///
    /// # Errors
    /// [`Error::Internal`].
    pub fn llm_key(&self, instance: &InstanceId, version: u32) -> Result<SecretString> {
        let tag = hmac::sign(&self.llm_hmac()?, llm_key_text(instance, version).as_bytes());
        let id = instance.as_str().trim_start_matches(InstanceId::PREFIX);
        Ok(format!("{LLM_KEY_PREFIX}{id}-{version}-{}", URL_SAFE_NO_PAD.encode(tag.as_ref())).into())
    }

    /// Whose virtual key this is, if it is one of ours; whether its version still counts is for the caller to look up.
    #[must_use]
    pub fn read_llm_key(&self, key: &str) -> Option<(InstanceId, u32)> {
        let (id, rest) = key.strip_prefix(LLM_KEY_PREFIX)?.split_once('-')?;
        let (version, tag) = rest.split_once('-')?;
        let instance = InstanceId::parse(&format!("{}{id}", InstanceId::PREFIX)).ok()?;
        let version = version.parse().ok()?;
        let tag = URL_SAFE_NO_PAD.decode(tag).ok()?;
        // Compares in constant time.
        hmac::verify(&self.llm_hmac().ok()?, llm_key_text(&instance, version).as_bytes(), &tag).ok()?;
        Some((instance, version))
    }

    /// What bots say where their model fails: recognisable to us, and not to be made up by a model.
    ///
    /// # Errors
    /// [`Error::Internal`].
    pub fn failure_text(&self) -> Result<String> {
        let bytes = self.derive("failure text")?;
        Ok(format!("The model could not answer. ({})", URL_SAFE_NO_PAD.encode(&bytes[..9])))
    }

    fn llm_hmac(&self) -> Result<hmac::Key> {
        Ok(hmac::Key::new(hmac::HMAC_SHA256, &self.derive("llm keys")?))
    }
}

fn llm_key_text(instance: &InstanceId, version: u32) -> String {
    format!("{instance} {version}")
}

#[cfg(test)]
mod tests {
    use astrfleet_core::id::InstanceId;
    use secrecy::ExposeSecret;

    use super::Secrets;

    #[test]
    fn a_virtual_key_names_its_bot_and_cannot_be_made_up() {
        let secrets = Secrets::new("0123456789abcdef0123456789abcdef".into());
        let bot = InstanceId::parse("bot_0123456789abcdef0123456789abcdef").unwrap();
        let key = secrets.llm_key(&bot, 3).unwrap();
        assert_eq!(secrets.read_llm_key(key.expose_secret()), Some((bot, 3)));
        let other = Secrets::new("another secret of at least 32 characters".into());
        assert_eq!(other.read_llm_key(key.expose_secret()), None);
        assert_eq!(secrets.read_llm_key(&key.expose_secret().replace("-3-", "-4-")), None);
    }
}
