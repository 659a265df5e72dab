//! Every route of a bot's own API, and whether people may use it through us. What stands in no row is refused: a route
//! that a newer bot brings is looked at first.
//!
//! Written for AstrBot 4.29.3, whose own description is in `tests/dashboard/`; a test holds the two together. Where
//! several rows fit a path, the strictest counts: in which order the bot looks at its routes does not matter then.

use http::Method;

use super::rows::ROWS;

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is passed on.
    Allowed,
    /// A bot in a container of its own may have it, where its plan says so. Here is none, so it is refused: the
    /// sentence says why.
    ByPlan(&'static str),
    /// It is refused: the sentence says why.
    Never(&'static str),
}

/// One row: a method, a template (`{*name}` stands for several parts of a path), and what becomes of it.
pub type Row = (&'static str, &'static str, Verdict);

/// The plugin that connects a bot to the platform is the platform's: rows beside those of the bot's own description.
const OF_THE_BRIDGE: &[Row] = &[
    ("DELETE", "/api/v1/plugins/astrfleet_bridge", BRIDGE),
    ("PUT", "/api/v1/plugins/astrfleet_bridge/config", BRIDGE),
    ("PUT", "/api/v1/plugins/astrfleet_bridge/log-level", BRIDGE),
    ("PATCH", "/api/v1/plugins/astrfleet_bridge/enabled", BRIDGE),
    ("POST", "/api/v1/plugins/astrfleet_bridge/reload", BRIDGE),
    ("POST", "/api/v1/plugins/astrfleet_bridge/source", BRIDGE),
    ("POST", "/api/v1/plugins/astrfleet_bridge/update", BRIDGE),
];

const BRIDGE: Verdict = Verdict::Never(
    "This plugin connects the bot to the platform, which places it and keeps it on. / 此插件连接机器人与平台，由平台安装并保持启用。",
);
const UNKNOWN: Verdict = Verdict::Never("This function of the bot is not offered here. / 此处不提供机器人的该功能。");

/// What becomes of a request with this method to this path, its percent-encoding undone.
pub fn verdict(method: &Method, path: &str) -> Verdict {
    let method = if method == Method::HEAD { "GET" } else { method.as_str() };
    if !path.starts_with("/api") {
        // The pages themselves. The bot looks at nothing but the path's first letters, and so do we.
        return if method == "GET" { Verdict::Allowed } else { UNKNOWN };
    }
    let path = path.strip_suffix('/').unwrap_or(path);
    ROWS.iter()
        .chain(OF_THE_BRIDGE)
        .filter(|(row, template, _)| *row == method && fits(template, path))
        .map(|(.., verdict)| *verdict)
        .max_by_key(strictness)
        .unwrap_or(UNKNOWN)
}

fn strictness(verdict: &Verdict) -> u8 {
    match verdict {
        Verdict::Allowed => 0,
        Verdict::ByPlan(_) => 1,
        Verdict::Never(_) => 2,
    }
}

/// Whether a path is one of a template's.
fn fits(template: &str, path: &str) -> bool {
    let template: Vec<&str> = template.trim_end_matches('/').split('/').collect();
    let path: Vec<&str> = path.split('/').collect();
    parts_fit(&template, &path)
}

fn parts_fit(template: &[&str], path: &[&str]) -> bool {
    match (template, path) {
        ([], []) => true,
        ([first, rest @ ..], [_, ..]) if first.starts_with("{*") => {
            (1..=path.len()).any(|length| parts_fit(rest, &path[length..]))
        }
        ([first, rest @ ..], [part, others @ ..]) => {
            let same = if first.starts_with('{') { !part.is_empty() } else { first == part };
            same && parts_fit(rest, others)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use http::Method;

    use super::{ROWS, Verdict, verdict};

    /// The bot's own description: a method and a template a line.
    const DESCRIBED: &str = include_str!("../../../tests/dashboard/astrbot-4.29.3-routes.txt");
    /// Of it, what is refused; walks through the proxy read it, too.
    const REFUSED: &str = include_str!("../../../tests/dashboard/astrbot-4.29.3-refused.txt");
    /// What the bot has and does not describe: web sockets, its own description, and what its pages still ask for by
    /// older names.
    const UNDESCRIBED: [(&str, &str); 8] = [
        ("GET", "/api/v1/live-chat/ws"),
        ("GET", "/api/v1/unified-chat/ws"),
        ("GET", "/api/v1/chat/ws"),
        ("GET", "/api/v1/openapi.json"),
        ("GET", "/api/stat/version"),
        ("GET", "/api/stat/start-time"),
        ("GET", "/api/stat/versions"),
        ("GET", "/api/file/{token}"),
    ];

    #[test]
    fn every_route_has_one_row_and_every_row_its_route() {
        let rows: Vec<(String, String)> =
            ROWS.iter().map(|(method, template, _)| ((*method).to_owned(), template.replace("{*", "{"))).collect();
        let described = DESCRIBED.lines().filter_map(|line| line.split_once(' '));
        let routes: BTreeSet<(String, String)> =
            described.chain(UNDESCRIBED).map(|(method, template)| (method.to_owned(), template.to_owned())).collect();
        let listed: BTreeSet<_> = rows.iter().cloned().collect();
        assert_eq!(listed.len(), rows.len(), "a row stands there twice");
        let missing: Vec<_> = routes.difference(&listed).collect();
        let unknown: Vec<_> = listed.difference(&routes).collect();
        assert!(missing.is_empty() && unknown.is_empty(), "without a row: {missing:#?}; without a route: {unknown:#?}");
    }

    #[test]
    fn what_is_refused_is_what_the_walks_expect() {
        let refused: Vec<String> = ROWS
            .iter()
            .filter(|(.., verdict)| *verdict != Verdict::Allowed)
            .map(|(method, template, _)| format!("{method} {}", template.replace("{*", "{")))
            .filter(|route| DESCRIBED.lines().any(|line| line == route))
            .collect();
        assert_eq!(refused, REFUSED.lines().collect::<Vec<_>>());
    }

    #[test]
    fn every_refusal_is_a_sentence() {
        for (method, template, verdict) in ROWS {
            if let Verdict::Never(why) | Verdict::ByPlan(why) = verdict {
                assert!(why.len() > 30 && why.contains(". / "), "{method} {template}: {why}");
            }
        }
    }

    #[test]
    fn what_runs_code_or_holds_the_platforms_keys_is_refused() {
        for (method, path) in [
            (Method::POST, "/api/v1/pip/install"),
            (Method::POST, "/api/v1/plugins/install/github"),
            (Method::POST, "/api/v1/plugins/install/upload/"),
            (Method::POST, "/api/v1/plugins/some/update"),
            (Method::POST, "/api/v1/plugins/extensions/some/reload"),
            (Method::POST, "/api/v1/mcp/servers"),
            (Method::PUT, "/api/v1/mcp/servers/a/b"),
            (Method::POST, "/api/v1/updates/core"),
            (Method::POST, "/api/v1/system/restart"),
            (Method::POST, "/api/v1/backups/upload/chunk"),
            (Method::POST, "/api/v1/backups/a/b.zip/import"),
            (Method::GET, "/api/v1/backups/a.zip"),
            (Method::GET, "/api/v1/logs/export"),
            (Method::OPTIONS, "/api/v1/personas"),
            (Method::POST, "/Api/v1/pip/install"),
            (Method::POST, "/api/v1/pip/install/"),
            (Method::POST, "/api/v1/auth/login"),
            (Method::POST, "/api/v1/api-keys"),
            (Method::PUT, "/api/v1/skills/a/files/b/c.py"),
            (Method::POST, "/api/update/pip-install"),
            (Method::POST, "/api/plugin/install"),
            (Method::GET, "/api/v2/anything"),
            (Method::GET, "/api"),
            (Method::GET, "/apix"),
            (Method::POST, "/"),
            (Method::PATCH, "/api/v1/plugins/astrfleet_bridge/enabled"),
            (Method::POST, "/api/v1/plugins/astrfleet_bridge/reload/"),
            (Method::DELETE, "/api/v1/plugins/astrfleet_bridge"),
            (Method::from_bytes(b"BREW").unwrap(), "/api/v1/personas"),
        ] {
            assert_ne!(verdict(&method, path), Verdict::Allowed, "{method} {path}");
        }
    }

    #[test]
    fn what_people_need_is_passed_on() {
        for (method, path) in [
            (Method::GET, "/"),
            (Method::HEAD, "/assets/index.js"),
            (Method::POST, "/api/v1/chat"),
            (Method::GET, "/api/v1/unified-chat/ws"),
            (Method::POST, "/api/v1/personas"),
            (Method::POST, "/api/v1/bots"),
            (Method::PATCH, "/api/v1/providers/own/model/enabled"),
            (Method::PUT, "/api/v1/system-config"),
            (Method::GET, "/api/v1/stats/start-time"),
            (Method::GET, "/api/v1/plugins"),
        ] {
            assert_eq!(verdict(&method, path), Verdict::Allowed, "{method} {path}");
        }
    }
}
