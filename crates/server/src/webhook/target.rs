//! The address that a tenant gave: what of it can be checked before anything is sent.

use std::net::IpAddr;

use astrfleet_core::{Error, Result, webhook::URL_BYTES_MAX};
use http::Uri;

use super::address::is_public;
use crate::config::WebhooksConfig;

/// Where to send to.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) uri: Uri,
    pub(super) host: Host,
    pub(super) port: u16,
}

/// Who is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Host {
    /// To be looked up anew each time.
    Name(String),
    /// Given as it is.
    Address(IpAddr),
}

impl Target {
    /// Reads an address.
    ///
    /// # Errors
    /// [`Error::Invalid`] that says what would be right.
    pub(super) fn read(url: &str, config: &WebhooksConfig) -> Result<Self> {
        let refused = |reason: &str| Err(Error::invalid("url", reason));
        if url.len() > URL_BYTES_MAX {
            return refused("must have at most 2048 bytes");
        }
        let Ok(uri) = url.parse::<Uri>() else { return refused("must be an address such as https://example.com/hook") };
        let Some(authority) = uri.authority().filter(|_| !url.contains('#')) else {
            return refused("must be a whole address such as https://example.com/hook, without a fragment");
        };
        if authority.as_str().contains('@') {
            return refused("must not hold a user or a password: what we send is signed");
        }
        let default_port = match uri.scheme_str() {
            Some("https") => 443,
            Some("http") if config.allow_http => 80,
            _ => return refused("must begin with https://"),
        };
        let text = authority.host();
        let host = match text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            Ok(address) if !config.allow_private && !is_public(address) => {
                return refused("must not be an address of a private network");
            }
            Ok(address) => Host::Address(address),
            Err(_) if is_name(text) => Host::Name(text.to_ascii_lowercase()),
            Err(_) => return refused("must name a host, such as https://example.com/hook"),
        };
        let port = match authority.as_str().strip_prefix(text).and_then(|rest| rest.strip_prefix(':')) {
            None => Some(default_port),
            Some(port) => port.parse().ok().filter(|port| *port != 0),
        };
        let Some(port) = port else { return refused("must have a port that there is") };
        Ok(Self { uri, host, port })
    }
}

/// Letters, digits and hyphens in labels (RFC 1123), so that no resolver makes something else of it.
fn is_name(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let name = text.strip_suffix('.').unwrap_or(text);
    name.len() <= 253 && name.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::{Host, Target};
    use crate::config::WebhooksConfig;

    fn config() -> WebhooksConfig {
        WebhooksConfig {
            timeout_s: 15,
            allow_private: false,
            allow_http: false,
            max_per_tenant: 20,
            pending_max: 1_000,
            concurrency: 4,
            concurrency_per_webhook: 2,
            secret_overlap_s: 86_400,
            disable_after_s: 432_000,
            retention_s: 604_800,
        }
    }

    #[test]
    fn what_leads_elsewhere_is_refused() {
        for bad in [
            "",
            "example.com/hook",
            "/hook",
            "http://example.com/hook",
            "ftp://example.com",
            "file:///etc/passwd",
            "https://",
            "https:///hook",
            "https://user:password@example.com/",
            "https://example.com@evil.example/",
            "https://example.com/#fragment",
            "https://example.com:0/",
            "https://example.com:99999/",
            "https://127.0.0.1/",
            "https://[::1]/",
            "https://[::ffff:10.0.0.1]/",
            "https://169.254.169.254/latest/meta-data",
            "https://exa mple.com/",
            "https://exämple.com/",
            "https://-example.com/",
            "https://example..com/",
            &format!("https://example.com/{}", "x".repeat(2_048)),
        ] {
            assert!(Target::read(bad, &config()).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_address_is_read() {
        let target = Target::read("https://Hooks.Example.com/a?b=c", &config()).unwrap();
        assert_eq!((target.host, target.port), (Host::Name("hooks.example.com".to_owned()), 443));
        let target = Target::read("https://[2606:4700::1111]:8443/a", &config()).unwrap();
        assert_eq!((target.host, target.port), (Host::Address("2606:4700::1111".parse().unwrap()), 8443));
        let open = WebhooksConfig { allow_private: true, allow_http: true, ..config() };
        let target = Target::read("http://127.0.0.1:4711", &open).unwrap();
        assert_eq!((target.host, target.port), (Host::Address("127.0.0.1".parse().unwrap()), 4711));
        assert_eq!(Target::read("http://example.com", &open).unwrap().port, 80);
    }
}
