//! Tokens for the peers: a JSON Web Token of each tenant, signed with HS256. Ours come from the platform itself.

use std::{
    fs,
    path::Path,
    process::Command,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::errand::output;

/// What the peers verify tokens with: of 32 characters, good for nothing else.
pub const SECRET: &str = "0123456789abcdef0123456789abcdef";

const HOUR_S: u64 = 3600;

/// A token of `tenant` that is good for an hour.
pub fn good(tenant: &str, folder: &Path) -> Result<String> {
    signed(tenant, now_s()? + HOUR_S, folder)
}

/// A token of `tenant` that was good an hour ago.
pub fn expired(tenant: &str, folder: &Path) -> Result<String> {
    signed(tenant, now_s()? - HOUR_S, folder)
}

/// `token` with another signature.
pub fn forged(token: &str) -> String {
    let Some((message, signature)) = token.rsplit_once('.') else { return String::new() };
    let turned: String = signature.chars().map(|sign| if sign == 'A' { 'B' } else { 'A' }).collect();
    format!("{message}.{turned}")
}

fn signed(tenant: &str, until_s: u64, folder: &Path) -> Result<String> {
    let head = json!({ "alg": "HS256", "typ": "JWT", "kid": "h1" });
    let claims = json!({
        "iss": "bench", "aud": "api", "sub": format!("member@{tenant}"), "tenant": tenant,
        "scope": "bots:read bots:write", "iat": until_s - HOUR_S, "exp": until_s,
    });
    let part = |value: &Value| base64url(value.to_string().as_bytes());
    let message = format!("{}.{}", part(&head), part(&claims));
    let file = folder.join("message");
    fs::write(&file, &message)?;
    let printed = output(Command::new("openssl").args(["dgst", "-sha256", "-hmac", SECRET]).arg(&file))?;
    let code = bytes_of_hex(printed.trim().rsplit(' ').next().unwrap_or_default());
    Ok(format!("{message}.{}", base64url(&code.with_context(|| format!("openssl says {printed:?}"))?)))
}

#[expect(
    clippy::disallowed_methods,
    reason = "the peers look at their clock too: nothing here is tested with another one"
)]
fn now_s() -> Result<u64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())
}

fn bytes_of_hex(text: &str) -> Option<Vec<u8>> {
    text.as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect::<Option<Vec<u8>>>()
        .filter(|bytes| bytes.len() == 32)
}

/// RFC 4648 §5, without padding.
fn base64url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_written_as_the_rfc_has_them() {
        // RFC 4648 §10, without padding.
        for (bytes, text) in [("", ""), ("f", "Zg"), ("fo", "Zm8"), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64url(bytes.as_bytes()), text);
        }
        assert_eq!(base64url(&[0xfb, 0xff]), "-_8");
    }

    #[test]
    fn another_signature_is_another_one_everywhere() {
        assert_eq!(forged("head.claims.ABCA"), "head.claims.BAAB");
    }
}
