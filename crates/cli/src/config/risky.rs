//! Settings that each are fine and together are not, or not for long: said at the start, by `config check` and by `doctor`.
//! Nothing here keeps anybody from starting.

use std::collections::BTreeSet;

use astrfleet_server::role::Role;

use super::Config;

/// Roles whose processes others reach by the address that they tell of themselves: they hold leases under it.
const TELL_THEIR_ADDRESS: [Role; 2] = [Role::Message, Role::Manager];
/// Webhooks are tried for 28 hours; what they are told from has to last longer.
const EVENTS_KEPT_S_MIN: u64 = 2 * 24 * 60 * 60;

impl Config {
    /// What is risky about a process with these roles; without them, about any process with this configuration. A sentence
    /// each, which says what to set.
    pub fn risks(&self, roles: Option<&BTreeSet<Role>>) -> Vec<String> {
        let has_all = roles.is_none_or(|roles| roles.len() == Role::ALL.len());
        let is_apart = !has_all || !self.gateway.remote.is_empty();
        let has = |role: &Role| roles.is_none_or(|roles| roles.contains(role));
        let mut risks = Vec::new();
        if is_apart && self.redis.host.is_empty() {
            risks.push(
                "the roles run in several processes and there is no Redis: changes and revocations reach the other \
                 processes late, and each counts rate limits for itself; set REDIS_HOST"
                    .to_owned(),
            );
        }
        if is_apart && self.blobs.endpoint.is_empty() {
            risks.push(format!(
                "the roles run in several processes and attachments lie in {}: set blobs.endpoint to an S3, unless all of \
                 the processes have that folder",
                self.data.dir.display()
            ));
        }
        let listen = self.gateway.listen;
        let is_everywhere = listen.ip().is_unspecified() && self.serve.advertise.is_empty();
        if is_apart && is_everywhere && TELL_THEIR_ADDRESS.iter().any(has) {
            risks.push(format!(
                "other processes are told to reach this one at its loopback address, since it listens on {listen}: set \
                 serve.advertise (ASTRFLEET__SERVE__ADVERTISE) to the address at which they do, such as \
                 http://10.0.0.7:{}",
                listen.port()
            ));
        }
        let forwarded = self.gateway.max_forwarded_body_bytes;
        for (key, size) in [
            ("gateway.max_attachment_bytes", self.gateway.max_attachment_bytes),
            ("llm.max_request_bytes", self.llm.max_request_bytes),
        ] {
            if is_apart && size > forwarded {
                risks.push(format!(
                    "{key} is {size}, and a gateway passes on no more than {forwarded} bytes: set \
                     gateway.max_forwarded_body_bytes to at least as much"
                ));
            }
        }
        if self.events.retention_s < EVENTS_KEPT_S_MIN {
            risks.push(format!(
                "events are kept for {} s, and webhooks are tried for 28 hours: set events.retention_s to at least \
                 {EVENTS_KEPT_S_MIN}, or what happened may be gone before it is told",
                self.events.retention_s
            ));
        }
        risks
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use astrfleet_server::role::Role;

    use crate::config::{Config, Environment, Overrides};

    fn config(variables: &[(&str, &str)]) -> Config {
        let variables = variables.iter().chain(&[("HOME", "/home/ada")]);
        let variables = variables.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Config::load(&Overrides::default(), &Environment::new(variables, false)).unwrap()
    }

    /// What the only sentence says to set, or nothing.
    fn only_risk(config: &Config, roles: Option<&[Role]>) -> Option<String> {
        let roles: Option<BTreeSet<Role>> = roles.map(|roles| roles.iter().copied().collect());
        let mut risks = config.risks(roles.as_ref());
        assert!(risks.len() <= 1, "{risks:?}");
        risks.pop()
    }

    const APART: [(&str, &str); 5] = [
        ("DB_HOST", "db"),
        ("REDIS_HOST", "redis"),
        ("ASTRFLEET__BLOBS__ENDPOINT", "http://s3:9000"),
        ("MINIO_ACCESS_KEY", "key"),
        ("MINIO_SECRET_KEY", "secret"),
    ];

    fn without(names: &[&'static str], more: &[(&'static str, &'static str)]) -> Config {
        let kept = APART.iter().filter(|(name, _)| !names.contains(name)).chain(more);
        config(&kept.copied().collect::<Vec<_>>())
    }

    #[test]
    fn what_comes_with_the_program_is_not_risky() {
        assert_eq!(only_risk(&config(&[]), None), None);
        assert_eq!(only_risk(&config(&[]), Some(&Role::ALL)), None);
        let everywhere = config(&[("ASTRFLEET__GATEWAY__LISTEN", "0.0.0.0:8000")]);
        assert_eq!(only_risk(&everywhere, Some(&Role::ALL)), None, "nobody else has to reach it");
        assert_eq!(only_risk(&without(&[], &[]), Some(&[Role::Message])), None);
    }

    #[test]
    fn each_risk_names_what_to_set() {
        let remote = ("ASTRFLEET__GATEWAY__REMOTE__AUTH", "http://auth:8000");
        let everywhere = ("ASTRFLEET__GATEWAY__LISTEN", "0.0.0.0:8000");
        let s3: [&str; 3] = ["ASTRFLEET__BLOBS__ENDPOINT", "MINIO_ACCESS_KEY", "MINIO_SECRET_KEY"];
        let apart: Option<&[Role]> = Some(&[Role::Message]);
        for (config, roles, named) in [
            (without(&["REDIS_HOST"], &[]), apart, "REDIS_HOST"),
            (without(&["REDIS_HOST"], &[remote]), None, "REDIS_HOST"),
            (without(&s3, &[]), apart, "blobs.endpoint"),
            (without(&[], &[everywhere]), apart, "serve.advertise"),
            (without(&[], &[everywhere, remote]), None, "serve.advertise"),
            (
                without(&[], &[("ASTRFLEET__GATEWAY__MAX_ATTACHMENT_BYTES", "50000000")]),
                apart,
                "gateway.max_forwarded_body_bytes",
            ),
            (
                without(&[], &[("ASTRFLEET__LLM__MAX_REQUEST_BYTES", "50000000")]),
                apart,
                "gateway.max_forwarded_body_bytes",
            ),
            (config(&[("ASTRFLEET__EVENTS__RETENTION_S", "172799")]), Some(&Role::ALL), "events.retention_s"),
        ] {
            let risk = only_risk(&config, roles).unwrap_or_default();
            assert!(risk.contains(named), "{named}: {risk:?}");
        }
        let advertised = ("ASTRFLEET__SERVE__ADVERTISE", "http://10.0.0.7:8000");
        assert_eq!(only_risk(&without(&[], &[everywhere, advertised]), apart), None);
        assert_eq!(only_risk(&without(&[], &[everywhere]), Some(&[Role::Gateway])), None, "asked at `gateway.remote`");
    }
}
