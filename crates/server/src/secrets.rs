//! Every secret that we make ourselves, derived from one: `JWT_SECRET`. So every replica has the same ones, and none
//! is stored. HKDF with SHA-256 (RFC 5869), one label a purpose.

use astrfleet_core::{Error, Result, id::InstanceId};
use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey},
    hkdf, hmac,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use secrecy::{ExposeSecret, SecretString};

/// What a sealed secret begins with: how it was sealed.
const SEALED_PREFIX: &str = "v1:";
/// A kind of keys that bots have: what it begins with, and what it is derived under.
struct BotKey {
    prefix: &'static str,
    label: &'static str,
}

/// For the model gateway.
const LLM: BotKey = BotKey { prefix: "afk-", label: "llm keys" };
/// For the bridge.
const BRIDGE: BotKey = BotKey { prefix: "afb-", label: "bridge tokens" };

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
        self.bot_key(&LLM, instance, version)
    }

    /// Whose virtual key this is, if it is one of ours; whether its version still counts is for the caller to look up.
    #[must_use]
    pub fn read_llm_key(&self, key: &str) -> Option<(InstanceId, u32)> {
        self.read_bot_key(&LLM, key)
    }

    /// What a bot's bridge proves itself with: it names the bot, and is good for nothing else.
    ///
    /// # Errors
    /// [`Error::Internal`].
    pub fn bridge_token(&self, instance: &InstanceId, version: u32) -> Result<SecretString> {
        self.bot_key(&BRIDGE, instance, version)
    }

    /// Whose bridge's token this is, if it is one of ours; whether its version still counts is for the caller to look
    /// up.
    #[must_use]
    pub fn read_bridge_token(&self, token: &str) -> Option<(InstanceId, u32)> {
        self.read_bot_key(&BRIDGE, token)
    }

    fn bot_key(&self, kind: &BotKey, instance: &InstanceId, version: u32) -> Result<SecretString> {
        let tag = hmac::sign(&self.hmac(kind)?, bot_key_text(instance, version).as_bytes());
        let id = instance.as_str().trim_start_matches(InstanceId::PREFIX);
        Ok(format!("{}{id}-{version}-{}", kind.prefix, URL_SAFE_NO_PAD.encode(tag.as_ref())).into())
    }

    fn read_bot_key(&self, kind: &BotKey, key: &str) -> Option<(InstanceId, u32)> {
        let (id, rest) = key.strip_prefix(kind.prefix)?.split_once('-')?;
        let (version, tag) = rest.split_once('-')?;
        let instance = InstanceId::parse(&format!("{}{id}", InstanceId::PREFIX)).ok()?;
        let version = version.parse().ok()?;
        let tag = URL_SAFE_NO_PAD.decode(tag).ok()?;
        // Compares in constant time.
        hmac::verify(&self.hmac(kind).ok()?, bot_key_text(&instance, version).as_bytes(), &tag).ok()?;
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

    /// Makes a secret readable to us alone, for the database: AES-256-GCM with a key derived for `label`. `owner` says
    /// whose it is: sealed for one it cannot be opened for another.
    ///
    /// # Errors
    /// [`Error::Internal`].
    pub fn seal(&self, label: &str, owner: &str, secret: &SecretString) -> Result<String> {
        let mut text = secret.expose_secret().as_bytes().to_vec();
        let nonce = self
            .sealing_key(label)?
            .seal_in_place_append_tag(Aad::from(owner.as_bytes()), &mut text)
            .map_err(|_| Error::internal("a secret could not be sealed"))?;
        let sealed = [nonce.as_ref().as_slice(), &text].concat();
        Ok(format!("{SEALED_PREFIX}{}", URL_SAFE_NO_PAD.encode(sealed)))
    }

    /// What was sealed.
    ///
    /// # Errors
    /// [`Error::Internal`] for what was sealed with another secret or for another owner, or changed since.
    pub fn open(&self, label: &str, owner: &str, sealed: &str) -> Result<SecretString> {
        let broken = || Error::internal("a sealed secret cannot be opened: was JWT_SECRET changed?");
        let bytes = sealed.strip_prefix(SEALED_PREFIX).and_then(|text| URL_SAFE_NO_PAD.decode(text).ok());
        let mut bytes = bytes.ok_or_else(broken)?;
        let (nonce, text) = bytes.split_at_mut_checked(NONCE_LEN).ok_or_else(broken)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| broken())?;
        let opened = self.sealing_key(label)?.open_in_place(nonce, Aad::from(owner.as_bytes()), text);
        let opened = opened.map_err(|_| broken())?;
        Ok(String::from_utf8(opened.to_vec()).map_err(|_| broken())?.into())
    }

    fn sealing_key(&self, label: &str) -> Result<RandomizedNonceKey> {
        RandomizedNonceKey::new(&AES_256_GCM, &self.derive(&format!("seal {label}"))?)
            .map_err(|_| Error::internal("a key could not be made"))
    }

    fn hmac(&self, kind: &BotKey) -> Result<hmac::Key> {
        Ok(hmac::Key::new(hmac::HMAC_SHA256, &self.derive(kind.label)?))
    }
}

fn bot_key_text(instance: &InstanceId, version: u32) -> String {
    format!("{instance} {version}")
}

#[cfg(test)]
mod tests {
    use astrfleet_core::id::InstanceId;
    use secrecy::ExposeSecret;

    use super::Secrets;

    #[test]
    fn what_is_sealed_is_opened_by_us_for_its_owner_alone() {
        let secrets = Secrets::new("0123456789abcdef0123456789abcdef".into());
        let sealed = secrets.seal("test", "whk_1", &"whsec_abc".into()).unwrap();
        assert!(!sealed.contains("abc"));
        assert_ne!(sealed, secrets.seal("test", "whk_1", &"whsec_abc".into()).unwrap(), "never twice the same");
        assert_eq!(secrets.open("test", "whk_1", &sealed).unwrap().expose_secret(), "whsec_abc");
        let other = Secrets::new("another secret of at least 32 characters".into());
        let mut changed = sealed.clone();
        changed.replace_range(9..10, if &changed[9..10] == "A" { "B" } else { "A" });
        for (secrets, label, owner, sealed) in [
            (&other, "test", "whk_1", &sealed),
            (&secrets, "another", "whk_1", &sealed),
            (&secrets, "test", "whk_2", &sealed),
            (&secrets, "test", "whk_1", &changed),
            (&secrets, "test", "whk_1", &"v1:AAAA".to_owned()),
            (&secrets, "test", "whk_1", &"whsec_abc".to_owned()),
        ] {
            assert!(secrets.open(label, owner, sealed).is_err());
        }
    }

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

    #[test]
    fn a_key_of_one_kind_is_none_of_another() {
        let secrets = Secrets::new("0123456789abcdef0123456789abcdef".into());
        let bot = InstanceId::parse("bot_0123456789abcdef0123456789abcdef").unwrap();
        let (key, token) = (secrets.llm_key(&bot, 3).unwrap(), secrets.bridge_token(&bot, 3).unwrap());
        let (key, token) = (key.expose_secret(), token.expose_secret());
        assert_eq!(secrets.read_bridge_token(token), Some((bot, 3)));
        assert_eq!(secrets.read_bridge_token(key), None);
        assert_eq!(secrets.read_bridge_token(&key.replace("afk-", "afb-")), None);
        assert_eq!(secrets.read_llm_key(&token.replace("afb-", "afk-")), None);
    }
}
