//! Texts that people type: names, addresses, labels. What is refused here reaches no log, no shell and no page.

use crate::error::Error;

/// A name for people: 1 to `max` characters, no control characters, no blank ends.
///
/// # Errors
/// [`Error::Invalid`] that says which rule was broken.
pub fn display_name(field: &'static str, text: &str, max: usize) -> Result<String, Error> {
    // Before the ends are cut off: a line break there is no slip of a hand.
    if text.chars().any(|character| character.is_control() || is_bidi_override(character)) {
        return Err(Error::invalid(field, "must not contain control characters"));
    }
    let text = text.trim();
    if text.is_empty() || text.chars().count() > max {
        return Err(Error::invalid(field, format!("must have 1 to {max} characters")));
    }
    Ok(text.to_owned())
}

/// A DNS label (RFC 1123): it becomes a host name. 1 to 63 of a-z, 0-9 and `-`, not at the ends.
///
/// # Errors
/// [`Error::Invalid`].
pub fn dns_label(field: &'static str, text: &str) -> Result<String, Error> {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let well_formed =
        (1..=63).contains(&text.len()) && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-');
    if well_formed {
        Ok(text.to_owned())
    } else {
        Err(Error::invalid(
            field,
            "must be 1 to 63 of a-z, 0-9 and -, not beginning or ending with -: it becomes a host name",
        ))
    }
}

/// Where an end user writes: `api`, or the bot's name of a channel. 1 to 32 of a-z, 0-9, `_` and `-`.
///
/// # Errors
/// [`Error::Invalid`].
pub fn channel(field: &'static str, text: &str) -> Result<(), Error> {
    let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-".contains(&byte);
    if (1..=32).contains(&text.len()) && text.bytes().all(good) {
        return Ok(());
    }
    Err(Error::invalid(field, "must be 1 to 32 of a-z, 0-9, _ and -"))
}

/// An e-mail address, in lower case: two that differ by case alone are the same one.
///
/// Only what is certain is checked; whether it exists only a mail to it can tell.
///
/// # Errors
/// [`Error::Invalid`].
pub fn email(field: &'static str, text: &str) -> Result<String, Error> {
    let text = text.trim().to_lowercase();
    let refused = || Error::invalid(field, "must be an e-mail address such as ada@example.com");
    let (local, domain) = text.rsplit_once('@').ok_or_else(refused)?;
    let plain = |part: &str| {
        !part.is_empty() && !part.chars().any(|character| character.is_control() || character.is_whitespace())
    };
    let labels = domain.split('.').all(|label| !label.is_empty() && !label.starts_with('-') && !label.ends_with('-'));
    if text.len() > 254 || local.len() > 64 || !plain(local) || local.contains('@') || !plain(domain) || !labels {
        return Err(refused());
    }
    Ok(text)
}

/// The longest `Idempotency-Key`.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 255;

/// An `Idempotency-Key`, chosen by a program: 1 to [`IDEMPOTENCY_KEY_BYTES_MAX`] visible ASCII characters.
///
/// # Errors
/// [`Error::Invalid`].
pub fn idempotency_key(text: &str) -> Result<(), Error> {
    if (1..=IDEMPOTENCY_KEY_BYTES_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(());
    }
    let reason = format!("must have 1 to {IDEMPOTENCY_KEY_BYTES_MAX} visible ASCII characters");
    Err(Error::invalid("Idempotency-Key", reason))
}

/// Characters that make a text read differently from what it is.
fn is_bidi_override(character: char) -> bool {
    matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::{display_name, dns_label, email, idempotency_key};

    #[test]
    fn an_address_is_the_same_in_any_case() {
        assert_eq!(email("email", " Ada@Example.COM ").unwrap(), "ada@example.com");
        for bad in ["", "ada", "@example.com", "ada@", "a b@example.com", "ada@ex..com", "ada\n@example.com", "a@b@c"] {
            assert!(email("email", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_label_is_a_host_name() {
        for good in ["a", "acme", "acme-2"] {
            assert!(dns_label("name", good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "../x", "ä", &"x".repeat(64)] {
            assert!(dns_label("name", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_name_cannot_hide_anything() {
        assert_eq!(display_name("name", " Käse 客服 ", 20).unwrap(), "Käse 客服");
        for bad in ["", " ", "a\u{0}b", "a\nb", "\r\na", "a\u{202e}b"] {
            assert!(display_name("name", bad, 20).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_key_is_what_a_header_can_hold_unchanged() {
        for good in ["k", "0191-a:b/c", &"k".repeat(255)] {
            assert!(idempotency_key(good).is_ok(), "{good}");
        }
        for bad in ["", " ", "a b", "schlüssel", "a\tb", &"k".repeat(256)] {
            assert!(idempotency_key(bad).is_err(), "{bad:?}");
        }
    }
}
