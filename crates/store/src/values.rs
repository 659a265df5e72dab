//! How values stand in columns: enums as the words that the API uses, hashes in hex, moments as microseconds.

use std::borrow::Cow;

use astrfleet_core::{Error, Result, time::Timestamp};
use serde::{Serialize, de::DeserializeOwned};

/// The word of an enum.
pub(crate) fn word<T: Serialize>(value: &T) -> Result<String> {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => Ok(word),
        Ok(_) => Err(Error::internal("a value that is not a word")),
        Err(source) => Err(Error::internal(source)),
    }
}

/// Reads the word of an enum. One that we do not know was written by a newer version of us: never guess.
pub(crate) fn read_word<T: DeserializeOwned>(column: &'static str, word: String) -> Result<T> {
    serde_json::from_value(serde_json::Value::String(word))
        .map_err(|source| Error::internal(format!("column {column}: {source}")))
}

/// Reads JSON.
pub(crate) fn read_json<T: DeserializeOwned>(column: &'static str, text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|source| Error::internal(format!("column {column}: {source}")))
}

/// Reads an id.
pub(crate) fn read_id<T>(column: &'static str, text: &str, parse: impl FnOnce(&str) -> Result<T>) -> Result<T> {
    parse(text).map_err(|_| Error::internal(format!("column {column}: not an id")))
}

/// Reads a whole number into a narrower type.
pub(crate) fn read_number<T: TryFrom<i64>>(column: &'static str, number: i64) -> Result<T> {
    T::try_from(number).map_err(|_| Error::internal(format!("column {column}: {number} is out of range")))
}

/// Reads a moment that may be missing.
pub(crate) fn moment(micros: Option<i64>) -> Option<Timestamp> {
    micros.map(Timestamp::from_micros)
}

/// A moment that may be missing.
pub(crate) fn micros(moment: Option<Timestamp>) -> Option<i64> {
    moment.map(Timestamp::micros)
}

/// A text that PostgreSQL can hold too: it has no U+0000.
pub(crate) fn storable(text: &str) -> Cow<'_, str> {
    if text.contains('\0') { Cow::Owned(text.replace('\0', "\u{fffd}")) } else { Cow::Borrowed(text) }
}

/// A number of tokens. One that no model can mean is cut to one that the sum of many can hold.
pub(crate) fn token_count(tokens: u64) -> i64 {
    const MOST: i64 = 1 << 40;
    i64::try_from(tokens).map_or(MOST, |tokens| tokens.min(MOST))
}

/// A hash in hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// Reads a hash.
pub(crate) fn read_hash(column: &'static str, text: &str) -> Result<[u8; 32]> {
    let broken = || Error::internal(format!("column {column}: not a hash"));
    let mut hash = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return Err(broken());
    }
    for (byte, index) in hash.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(&text[index..index + 2], 16).map_err(|_| broken())?;
    }
    Ok(hash)
}

/// SHA-256 in hex.
pub(crate) fn sha256(text: &str) -> String {
    hex(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes()).as_ref())
}

#[cfg(test)]
mod tests {
    use super::{hex, read_hash, sha256};

    #[test]
    fn hashes_are_read_as_they_were_written() {
        let mut hash = [0; 32];
        hash[0] = 0xab;
        hash[31] = 0x0f;
        assert_eq!(read_hash("hash", &hex(&hash)).unwrap(), hash);
        assert!(read_hash("hash", "ab").is_err());
        assert!(read_hash("hash", &"zz".repeat(32)).is_err());
    }

    #[test]
    fn the_digest_is_that_of_the_standard() {
        assert_eq!(sha256("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
