//! The names that a request goes by in other people's systems: `X-Request-Id`, and W3C Trace Context's `traceparent`.
//! What a client sends is taken over where it is well formed, and replaced by our own where it is not.

use astrfleet_core::id::RequestId;
use http::{HeaderMap, HeaderName, HeaderValue};

/// Names a request in our logs.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Names the trace that a request is a part of.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The id that whoever is in front of us gave, if it can be one: 8 to 64 of `A-Z a-z 0-9 . _ -`.
pub fn given_id(headers: &HeaderMap) -> Option<&HeaderValue> {
    let value = headers.get(REQUEST_ID)?;
    let well_formed = (8..=64).contains(&value.len())
        && value.as_bytes().iter().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(byte));
    well_formed.then_some(value)
}

/// Whether the request says well which trace it belongs to: version, trace, parent, flags, none of them all zeros.
/// See <https://www.w3.org/TR/trace-context/#traceparent-header>.
pub fn has_trace(headers: &HeaderMap) -> bool {
    headers.get(TRACEPARENT).is_some_and(|value| is_trace(value.as_bytes()))
}

fn is_trace(value: &[u8]) -> bool {
    let hex = |part: &[u8]| part.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let some = |part: &[u8]| hex(part) && part.iter().any(|byte| *byte != b'0');
    let [b'0', b'0', b'-', rest @ ..] = value else { return false };
    rest.len() == 52
        && rest[32] == b'-'
        && rest[49] == b'-'
        && some(&rest[..32])
        && some(&rest[33..49])
        && hex(&rest[50..])
}

/// A new trace, begun by the request of this id: the id's own random part names it, so that either is found by the
/// other.
pub fn new_trace(id: &RequestId) -> Option<HeaderValue> {
    let hex = id.as_str().strip_prefix(RequestId::PREFIX)?;
    HeaderValue::try_from(["00-", hex, "-", hex.get(16..)?, "-01"].concat()).ok()
}

#[cfg(test)]
mod tests {
    use astrfleet_core::id::RequestId;
    use http::{HeaderMap, HeaderValue};

    use super::{REQUEST_ID, TRACEPARENT, given_id, has_trace, new_trace};

    fn headers(name: http::HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_str(value).unwrap())])
    }

    #[test]
    fn an_id_that_could_break_a_log_line_is_not_taken_over() {
        for (id, taken) in [
            ("req-12345678", true),
            ("A.b_c-01", true),
            ("short", false),
            ("with space 1", false),
            ("semi;colon;", false),
            (&"x".repeat(65), false),
        ] {
            assert_eq!(given_id(&headers(REQUEST_ID, id)).is_some(), taken, "{id}");
        }
    }

    #[test]
    fn traces_are_taken_over_when_they_are_well_formed() {
        for (value, taken) in [
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", true),
            ("00-00000000000000000000000000000000-b7ad6b7169203331-01", false),
            ("00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01", false),
            ("00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", false),
            ("ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", false),
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331", false),
            ("", false),
        ] {
            assert_eq!(has_trace(&headers(TRACEPARENT, value)), taken, "{value}");
        }
        let id = RequestId::parse("req_0123456789abcdef0123456789abcdef").unwrap();
        let made = HeaderMap::from_iter([(TRACEPARENT, new_trace(&id).unwrap())]);
        assert!(has_trace(&made));
    }
}
