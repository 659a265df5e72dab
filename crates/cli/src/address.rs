//! Addresses of the public API. Whatever a person typed stays the one part of an address that it was meant as: every part
//! and every value is percent-encoded here, and nowhere else.

use std::fmt;

/// The address of something below `/api/v1`, part by part.
pub fn at<const N: usize>(parts: [&str; N]) -> String {
    parts.iter().fold("/api/v1".to_owned(), |address, part| format!("{address}/{}", encoded(part)))
}

/// What follows an address: `?name=value&…`, or nothing.
#[derive(Clone, Debug, Default)]
pub struct Query(String);

impl Query {
    /// With this value too.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.0.push(if self.0.is_empty() { '?' } else { '&' });
        self.0.push_str(name);
        self.0.push('=');
        self.0.push_str(&encoded(value));
        self
    }

    /// With this value too, where there is one.
    pub fn and(self, name: &str, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }
}

impl fmt::Display for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What RFC 3986 does not call unreserved is written as its bytes.
fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut encoded, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => encoded.push(char::from(byte)),
            byte => {
                use fmt::Write as _;
                let _ = write!(encoded, "%{byte:02X}");
            }
        }
        encoded
    })
}

#[cfg(test)]
mod tests {
    use super::{Query, at};

    #[test]
    fn what_was_typed_stays_one_part() {
        assert_eq!(at(["tenants", "a/b?c#d%e", "usage"]), "/api/v1/tenants/a%2Fb%3Fc%23d%25e/usage");
    }

    #[test]
    fn what_is_looked_for_stays_one_value() {
        let query =
            Query::default().with("q", "a&b=订").and("cursor", None).and("from", Some("2026-11-01T00:00:00+02:00"));
        assert_eq!(query.to_string(), "?q=a%26b%3D%E8%AE%A2&from=2026-11-01T00%3A00%3A00%2B02%3A00");
        assert_eq!(Query::default().to_string(), "");
    }
}
