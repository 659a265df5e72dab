//! Signatures as Standard Webhooks has them (<https://github.com/standard-webhooks/standard-webhooks>): HMAC-SHA256 over
//! `id.timestamp.body`, `v1,` and base64, one for each secret, with a blank between.

use astrfleet_core::{Error, Result, ports::Rng};
use aws_lc_rs::hmac;
use base64::{Engine, engine::general_purpose::STANDARD};
use secrecy::{ExposeSecret, SecretString};

/// What a secret begins with.
pub(super) const SECRET_PREFIX: &str = "whsec_";
/// Between 24 and 64, as the standard wants it.
const SECRET_BYTES: usize = 32;

/// A secret that nobody can guess.
pub(super) fn new_secret(rng: &dyn Rng) -> SecretString {
    let mut random = [0; SECRET_BYTES];
    rng.fill(&mut random);
    format!("{SECRET_PREFIX}{}", STANDARD.encode(random)).into()
}

/// The value of `webhook-signature`.
///
/// # Errors
/// [`Error::Internal`] for what is no secret of ours.
pub(super) fn signatures(secrets: &[SecretString], id: &str, timestamp_s: i64, body: &[u8]) -> Result<String> {
    let each = secrets.iter().map(|secret| signature(secret, id, timestamp_s, body));
    Ok(each.collect::<Result<Vec<_>>>()?.join(" "))
}

fn signature(secret: &SecretString, id: &str, timestamp_s: i64, body: &[u8]) -> Result<String> {
    let key = secret.expose_secret().strip_prefix(SECRET_PREFIX).and_then(|key| STANDARD.decode(key).ok());
    let key = hmac::Key::new(hmac::HMAC_SHA256, &key.ok_or_else(|| Error::internal("not a secret of a webhook"))?);
    let mut context = hmac::Context::with_key(&key);
    context.update(format!("{id}.{timestamp_s}.").as_bytes());
    context.update(body);
    Ok(format!("v1,{}", STANDARD.encode(context.sign())))
}

#[cfg(test)]
mod tests {
    use astrfleet_core::ports::testing::CountingRng;
    use secrecy::ExposeSecret;

    use super::{new_secret, signatures};

    /// The one that the standard's own libraries are tested with.
    #[test]
    fn the_vector_of_the_standard() {
        let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".into();
        let signed =
            signatures(&[secret], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#).unwrap();
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn each_secret_signs() {
        let rng = CountingRng::default();
        let secrets = [new_secret(&rng), new_secret(&rng)];
        assert!(secrets[0].expose_secret().len() == 50 && secrets[0].expose_secret() != secrets[1].expose_secret());
        let both = signatures(&secrets, "evt_1", 7, b"{}").unwrap();
        let one = signatures(&secrets[1..], "evt_1", 7, b"{}").unwrap();
        let (_, second) = both.split_once(' ').unwrap();
        assert_eq!(second, one);
        assert!(signatures(&["another".into()], "evt_1", 7, b"{}").is_err());
    }
}
