//! Which host a request is for: a bot's own dashboard, or the API. Pure.

use http::{HeaderMap, Uri, header};

use crate::config::GatewayConfig;

/// The hosts of this platform.
#[derive(Clone, Debug)]
pub struct Hosts {
    /// What follows a tenant's name: `.localhost`
    below: String,
    /// The host of `public_url`, which is never a bot's.
    own: String,
}

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Site<'host> {
    /// The API.
    Api,
    /// The dashboard of the bot of the tenant with this name, if there is one.
    Dashboard(&'host str),
}

impl Hosts {
    /// As configured.
    pub fn new(config: &GatewayConfig) -> Self {
        let own = config.public_url.split_once("://").map_or("", |(_, rest)| rest);
        let own = own.split('/').next().unwrap_or_default();
        Self {
            below: format!(".{}", config.dashboard_domain.to_ascii_lowercase()),
            own: without_port(own).to_ascii_lowercase(),
        }
    }

    /// Where a request wants to go.
    pub fn site<'host>(&self, host: &'host str) -> Site<'host> {
        let name = without_port(host);
        let Some(split) = name.len().checked_sub(self.below.len()).filter(|split| *split > 0) else {
            return Site::Api;
        };
        match (name.get(..split), name.get(split..)) {
            (Some(tenant), Some(below))
                if below.eq_ignore_ascii_case(&self.below) && !name.eq_ignore_ascii_case(&self.own) =>
            {
                Site::Dashboard(tenant)
            }
            _ => Site::Api,
        }
    }
}

/// The host that a request names: in its target, or in `Host`. Empty where it names none.
pub fn named<'request>(uri: &'request Uri, headers: &'request HeaderMap) -> &'request str {
    match uri.authority() {
        Some(authority) => authority.as_str(),
        None => headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default(),
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::{Hosts, Site};

    fn hosts(domain: &str, own: &str) -> Hosts {
        Hosts { below: format!(".{domain}"), own: own.to_owned() }
    }

    #[test]
    fn one_label_before_the_domain_is_a_tenants() {
        let hosts = hosts("localhost", "");
        for (host, site) in [
            ("acme.localhost:8000", Site::Dashboard("acme")),
            ("ACME.LocalHost", Site::Dashboard("ACME")),
            ("localhost:8000", Site::Api),
            (".localhost", Site::Api),
            ("127.0.0.1:8000", Site::Api),
            ("[::1]:8000", Site::Api),
            ("acme.localhost.example.com", Site::Api),
            ("a.b.localhost", Site::Dashboard("a.b")),
            ("é.localhost", Site::Dashboard("é")),
            ("", Site::Api),
        ] {
            assert_eq!(hosts.site(host), site, "{host}");
        }
    }

    #[test]
    fn the_platforms_own_host_is_no_bots() {
        let hosts = hosts("bots.example.com", "api.bots.example.com");
        assert_eq!(hosts.site("api.bots.example.com"), Site::Api);
        assert_eq!(hosts.site("acme.bots.example.com:443"), Site::Dashboard("acme"));
    }
}
