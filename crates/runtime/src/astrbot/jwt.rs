//! Tokens of a bot's own API, minted by us: it believes any name that is signed with its secret. Such a token may do
//! everything with the bot, so it never leaves us; and it never names `astrbot`, which is an administrator wherever a configuration forgot to say otherwise.

use std::{fmt::Write as _, time::Duration};

use astrfleet_core::{
    error::{Error, Result},
    time::Timestamp,
};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;

/// For as long as a clock of ours may be behind the bot's: it refuses what has expired, and whoever could read a token on its
/// way could read the secret, too.
const LIFETIME: Duration = Duration::from_hours(24);
const RESERVED: &str = "astrbot";

#[derive(Serialize)]
struct Claims<'a> {
    username: &'a str,
    exp: i64,
}

/// A token for `person`, good from `now` on.
pub(super) fn mint(secret: &SecretString, person: &str, now: Timestamp) -> Result<SecretString> {
    let claims = Claims { username: &username(person), exp: now.plus(LIFETIME).seconds() };
    let key = EncodingKey::from_secret(secret.expose_secret().as_bytes());
    encode(&Header::new(Algorithm::HS256), &claims, &key).map(SecretString::from).map_err(Error::internal)
}

/// The bot's name of a person: their own, with what the bot uses to separate names (`!`, `:`) and all else that is
/// unusual written as `%21`. No two persons share one, and nobody is `astrbot`.
pub(super) fn username(person: &str) -> String {
    let reserved = person.eq_ignore_ascii_case(RESERVED);
    let mut name = String::with_capacity(person.len());
    for (position, letter) in person.chars().enumerate() {
        let plain = letter.is_alphanumeric() || matches!(letter, '_' | '-' | '.' | '@' | '+' | '=' | ' ');
        if plain && !(reserved && position == 0) {
            name.push(letter);
            continue;
        }
        for byte in letter.encode_utf8(&mut [0; 4]).bytes() {
            // Writing to a text cannot fail.
            let _ = write!(name, "%{byte:02X}");
        }
    }
    if name.is_empty() { "%".to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use astrfleet_core::time::Timestamp;
    use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode};
    use proptest::prelude::*;
    use secrecy::ExposeSecret;

    use super::{mint, username};

    #[test]
    fn is_what_the_bot_expects() {
        let token = mint(&"secret".into(), "alice", Timestamp::from_micros(1_000_000_000)).unwrap();
        let mut validation = Validation::new(Algorithm::HS256);
        validation.validate_exp = false;
        let key = DecodingKey::from_secret(b"secret");
        let claims = decode::<serde_json::Value>(token.expose_secret(), &key, &validation).unwrap().claims;
        assert_eq!(claims, serde_json::json!({"username": "alice", "exp": 87_400}));
    }

    #[test]
    fn ordinary_names_stay_as_they_are() {
        for name in ["alice", "张三", "a.b+c@example.com", "user_7-x"] {
            assert_eq!(username(name), name);
        }
        assert_eq!(username("a!b:c"), "a%21b%3Ac");
    }

    proptest! {
        #[test]
        fn nobody_is_the_administrator_and_nobody_is_somebody_else(one in "(?i)astrbot|[a-c!:%é]{0,3}|\\PC{0,9}", other in "(?i)astrbot|[a-c!:%é]{0,3}") {
            let names = (username(&one), username(&other));
            prop_assert!(!names.0.eq_ignore_ascii_case("astrbot") && !names.0.is_empty());
            prop_assert!(!names.0.contains(['!', ':', '/']));
            prop_assert_eq!(names.0 == names.1, one == other);
        }
    }
}
