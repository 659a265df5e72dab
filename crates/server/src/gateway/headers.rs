//! What happens to headers on the way through. Pure: no I/O, no policy.

use std::net::{IpAddr, SocketAddr};

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CONNECTION, HOST, UPGRADE},
    uri::PathAndQuery,
};

use super::{
    listen::Peer,
    trace::{REQUEST_ID, TRACEPARENT},
    upstream::Upstream,
};
use crate::{idempotency::IDEMPOTENCY_KEY, internal::IDENTITY};

/// Headers of ours that no client may send: they are removed before anybody reads them.
pub const PRIVATE_PREFIX: &str = "x-astrfleet-";

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// What is for whoever answers, so that a client cannot end it here by naming it in `Connection` (RFC 9110 §7.6.1 forbids
/// that): a request whose key was read here would be repeated without it.
const FOR_THE_UPSTREAM: [HeaderName; 4] = [HOST, IDEMPOTENCY_KEY, REQUEST_ID, TRACEPARENT];

/// What to change in a request that is passed on, besides what RFC 9110 §7.6 demands.
#[derive(Clone, Debug)]
pub struct HeaderEdits {
    /// What the upstream is told as `Host`, the client's becoming `X-Forwarded-Host`; `None` keeps the client's.
    pub host: Option<HeaderValue>,
    /// `http` or `https`: how the client came, for `X-Forwarded-Proto`.
    pub scheme: HeaderValue,
    /// Whether the peer may tell us who its client was. Only for proxies of our own; everybody else's
    /// `Forwarded`, `X-Forwarded-*` and `X-Real-IP` are thrown away.
    pub trust_forwarded: bool,
    /// Headers to remove.
    pub remove: Vec<HeaderName>,
    /// Headers to set, whatever the client sent under the same name.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Another path and query than the client's.
    pub path: Option<PathAndQuery>,
    /// Whether a WebSocket may be opened through us.
    pub websocket: bool,
}

impl Default for HeaderEdits {
    fn default() -> Self {
        Self {
            host: None,
            scheme: HeaderValue::from_static("http"),
            trust_forwarded: false,
            remove: Vec::new(),
            set: Vec::new(),
            path: None,
            websocket: true,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    EndToEnd,
    HopByHop,
    Forwarded,
}

/// The headers that end at each hop (RFC 9110 §7.6.1, and those of the proxy itself), `Expect`, which we answer
/// ourselves, and those that say who was here before us.
fn kind(name: &str) -> Kind {
    match name {
        "connection"
        | "keep-alive"
        | "proxy-connection"
        | "proxy-authenticate"
        | "proxy-authorization"
        | "te"
        | "transfer-encoding"
        | "upgrade"
        | "expect" => Kind::HopByHop,
        "forwarded" | "x-real-ip" => Kind::Forwarded,
        _ if name.starts_with("x-forwarded-") => Kind::Forwarded,
        _ => Kind::EndToEnd,
    }
}

/// Removes what only we may say. Gives back the one thing that may be from us: who reads it checks that.
pub(super) fn scrub(headers: &mut HeaderMap) -> Option<HeaderValue> {
    let is_private = |name: &str| name.starts_with(PRIVATE_PREFIX);
    if !headers.keys().any(|name| is_private(name.as_str())) {
        return None;
    }
    let shown = headers.remove(&IDENTITY);
    remove_where(headers, is_private);
    shown
}

/// Makes a client's headers those of our own request. `upstream` stands in for a missing `Host` (HTTP/1.0).
pub(super) fn outward(headers: &mut HeaderMap, edits: &HeaderEdits, peer: &Peer, upstream: &Upstream, websocket: bool) {
    let client =
        if edits.trust_forwarded { appended(headers, &peer.forwarded_for) } else { peer.forwarded_for.clone() };
    hop_by_hop(headers, !edits.trust_forwarded);
    for name in &edits.remove {
        headers.remove(name);
    }
    if websocket {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    }
    headers.insert(FORWARDED_FOR, client);
    if !edits.trust_forwarded || !headers.contains_key(&FORWARDED_PROTO) {
        headers.insert(FORWARDED_PROTO, edits.scheme.clone());
    }
    if let Some(host) = edits.host.clone()
        && let Some(theirs) = headers.insert(HOST, host)
        && (!edits.trust_forwarded || !headers.contains_key(&FORWARDED_HOST))
    {
        headers.insert(FORWARDED_HOST, theirs);
    }
    if !headers.contains_key(HOST)
        && let Ok(host) = HeaderValue::try_from(upstream.to_string())
    {
        headers.insert(HOST, host);
    }
    for (name, value) in &edits.set {
        headers.insert(name.clone(), value.clone());
    }
}

/// Makes an upstream's headers those of our own answer.
pub(super) fn inward(headers: &mut HeaderMap) {
    hop_by_hop(headers, false);
}

/// Whether the header ends at this hop whatever `Connection` says.
pub(super) fn is_hop_by_hop(name: &HeaderName) -> bool {
    kind(name.as_str()) == Kind::HopByHop
}

/// The client, as a proxy of our own names it that stands before us: the last address of the last `X-Forwarded-For`. What
/// comes before that is the client's own word.
pub(super) fn forwarded_client(headers: &HeaderMap) -> Option<IpAddr> {
    let last = headers.get_all(&FORWARDED_FOR).iter().next_back()?.to_str().ok()?;
    let last = last.rsplit(',').next()?.trim();
    let bare = last.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(last);
    let address = bare.parse().ok().or_else(|| last.parse().ok().map(|address: SocketAddr| address.ip()))?;
    Some(IpAddr::to_canonical(&address))
}

/// Removes what a `Connection` header names, but for what it must not name.
pub(super) fn remove_listed(headers: &mut HeaderMap, connection: &HeaderValue) {
    let Ok(listed) = connection.to_str() else { return };
    for name in listed.split(',').filter_map(|name| name.trim().parse::<HeaderName>().ok()) {
        if !FOR_THE_UPSTREAM.contains(&name) {
            headers.remove(name);
        }
    }
}

/// The request asks to become a WebSocket (RFC 6455 §4.1).
pub(super) fn wants_websocket(headers: &HeaderMap) -> bool {
    headers.get(UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
        && headers.get_all(CONNECTION).iter().any(|value| lists(value, "upgrade"))
}

fn hop_by_hop(headers: &mut HeaderMap, forwarded: bool) {
    if headers.contains_key(CONNECTION) {
        let listing: Vec<HeaderValue> =
            headers.get_all(CONNECTION).iter().filter(|value| names_headers(value.as_bytes())).cloned().collect();
        headers.remove(CONNECTION);
        for value in &listing {
            remove_listed(headers, value);
        }
    }
    remove_where(headers, |name| match kind(name) {
        Kind::HopByHop => true,
        Kind::Forwarded => forwarded,
        Kind::EndToEnd => false,
    });
}

/// `close` and `keep-alive` are all that most clients ever say.
pub(super) fn names_headers(value: &[u8]) -> bool {
    !value.eq_ignore_ascii_case(b"keep-alive") && !value.eq_ignore_ascii_case(b"close")
}

/// Looks through all names first: most requests have nothing to remove, and looking allocates nothing.
fn remove_where(headers: &mut HeaderMap, unwanted: impl Fn(&str) -> bool) {
    if !headers.keys().any(|name| unwanted(name.as_str())) {
        return;
    }
    let names: Vec<HeaderName> = headers.keys().filter(|name| unwanted(name.as_str())).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

pub(super) fn lists(value: &HeaderValue, word: &str) -> bool {
    value.to_str().is_ok_and(|value| {
        value.split(',').any(|item| item.split(';').next().is_some_and(|item| item.trim().eq_ignore_ascii_case(word)))
    })
}

/// Whom the request came through, `last` being the one that we see.
fn appended(headers: &HeaderMap, last: &HeaderValue) -> HeaderValue {
    let all: Vec<&[u8]> = headers.get_all(&FORWARDED_FOR).iter().chain([last]).map(HeaderValue::as_bytes).collect();
    HeaderValue::from_bytes(&all.join(&b", "[..])).unwrap_or_else(|_| last.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse::<HeaderValue>().unwrap()))
            .collect()
    }

    fn peer() -> Peer {
        Peer::new("203.0.113.9:4711".parse().unwrap())
    }

    fn upstream() -> Upstream {
        Upstream::Name("127.0.0.1:6185".into())
    }

    #[test]
    fn hop_by_hop_headers_and_those_named_in_connection_stay_behind() {
        let mut headers = map(&[
            ("host", "a.example"),
            ("connection", "keep-alive, X-Hop, host"),
            ("x-hop", "1"),
            ("keep-alive", "timeout=5"),
            ("te", "gzip"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("proxy-authorization", "Basic x"),
            ("proxy-connection", "keep-alive"),
            ("expect", "100-continue"),
            ("accept", "*/*"),
        ]);
        outward(&mut headers, &HeaderEdits::default(), &peer(), &upstream(), false);
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["accept", "host", "x-forwarded-for", "x-forwarded-proto"]);
    }

    #[test]
    fn a_stranger_cannot_say_who_he_is() {
        let spoofed = [
            ("host", "a.example"),
            ("forwarded", "for=1.1.1.1"),
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "evil"),
            ("x-forwarded-prefix", "/x"),
            ("x-real-ip", "1.1.1.1"),
        ];
        let mut headers = map(&spoofed);
        outward(&mut headers, &HeaderEdits::default(), &peer(), &upstream(), false);
        assert_eq!(headers["x-forwarded-for"], "203.0.113.9");
        assert_eq!(headers["x-forwarded-proto"], "http");
        assert!(
            ["forwarded", "x-real-ip", "x-forwarded-prefix", "x-forwarded-host"]
                .iter()
                .all(|name| !headers.contains_key(*name))
        );

        let mut headers = map(&spoofed);
        let trusting = HeaderEdits { trust_forwarded: true, ..HeaderEdits::default() };
        outward(&mut headers, &trusting, &peer(), &upstream(), false);
        assert_eq!(headers["x-forwarded-for"], "1.1.1.1, 203.0.113.9");
        assert_eq!(headers["x-forwarded-proto"], "https");
        let mut headers = map(&[("x-forwarded-for", "6.6.6.6"), ("x-forwarded-for", "1.1.1.1")]);
        outward(&mut headers, &trusting, &peer(), &upstream(), false);
        assert_eq!(headers["x-forwarded-for"], "6.6.6.6, 1.1.1.1, 203.0.113.9", "our proxy's own word stays the last");
    }

    #[test]
    fn the_client_is_whom_our_own_proxy_saw() {
        let client = |lines: &[&str]| {
            let lines: Vec<_> = lines.iter().map(|line| ("x-forwarded-for", *line)).collect();
            forwarded_client(&map(&lines)).map(|client| client.to_string())
        };
        for (lines, expected) in [
            (&["198.51.100.7"][..], "198.51.100.7"),
            (&["6.6.6.6, 198.51.100.7"], "198.51.100.7"),
            (&["6.6.6.6", "198.51.100.7"], "198.51.100.7"),
            (&["198.51.100.7:4711"], "198.51.100.7"),
            (&["2001:db8::7"], "2001:db8::7"),
            (&["[2001:db8::7]"], "2001:db8::7"),
            (&["[2001:db8::7]:4711"], "2001:db8::7"),
            (&["::ffff:198.51.100.7"], "198.51.100.7"),
        ] {
            assert_eq!(client(lines).as_deref(), Some(expected), "{lines:?}");
        }
        for wrong in [&[][..], &[""], &["unknown"], &["198.51.100.7, "], &["198.51.100.7", "_hidden"], &["a.example"]] {
            assert_eq!(client(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn what_is_for_whoever_answers_cannot_be_taken_off_on_the_way() {
        let kept =
            [("host", "a.example"), ("idempotency-key", "one"), ("x-request-id", "req_1"), ("traceparent", "00-1")];
        let mut headers = map(&kept);
        headers.insert(CONNECTION, HeaderValue::from_static("Idempotency-Key, x-request-id, TraceParent, host"));
        outward(&mut headers, &HeaderEdits::default(), &peer(), &upstream(), false);
        for (name, value) in kept {
            assert_eq!(headers[name], value);
        }
    }

    #[test]
    fn edits_win_over_the_client() {
        let mut headers = map(&[("host", "a.example"), ("authorization", "Bearer theirs"), ("cookie", "a=b")]);
        let edits = HeaderEdits {
            host: Some(HeaderValue::from_static("bot.local")),
            remove: vec![http::header::COOKIE],
            set: vec![(http::header::AUTHORIZATION, HeaderValue::from_static("Bearer ours"))],
            ..HeaderEdits::default()
        };
        outward(&mut headers, &edits, &peer(), &upstream(), false);
        assert_eq!(headers["host"], "bot.local");
        assert_eq!(headers["x-forwarded-host"], "a.example");
        assert_eq!(headers["authorization"], "Bearer ours");
        assert!(!headers.contains_key("cookie"));
    }

    #[test]
    fn a_missing_host_is_the_upstreams() {
        let mut headers = HeaderMap::new();
        outward(&mut headers, &HeaderEdits::default(), &peer(), &upstream(), false);
        assert_eq!(headers["host"], "127.0.0.1:6185");
    }

    #[test]
    fn our_own_headers_are_not_taken_from_strangers() {
        let mut headers = map(&[("x-astrfleet-tenant", "ten_other"), ("x-other", "1")]);
        assert_eq!(scrub(&mut headers), None);
        assert_eq!(headers, map(&[("x-other", "1")]));
        let mut headers = map(&[(IDENTITY.as_str(), "signed?"), ("x-astrfleet-tenant", "ten_other")]);
        assert_eq!(scrub(&mut headers).unwrap(), "signed?");
        assert!(headers.is_empty(), "what may be from us goes no further by itself");
    }

    #[test]
    fn a_websocket_is_recognised_in_any_case() {
        assert!(wants_websocket(&map(&[("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket")])));
        assert!(!wants_websocket(&map(&[("connection", "keep-alive"), ("upgrade", "websocket")])));
        assert!(!wants_websocket(&map(&[("connection", "upgrade"), ("upgrade", "h2c")])));
    }
}
