//! The walls between the crates, read from `cargo metadata`: who may know whom, and which crate alone may know a library.
//! What a wall is for stands in `ARCHITECTURE.md`.

use anyhow::{Result, bail};
use serde_json::Value;

use crate::errand::Workspace;

/// A crate of ours and those of ours that it may be built on. In tests, `astrfleet-testkit` is allowed besides.
const ARROWS: &[(&str, &[&str])] = &[
    ("astrfleet-core", &[]),
    ("astrfleet-store", &["astrfleet-core"]),
    ("astrfleet-adapters", &["astrfleet-core"]),
    ("astrfleet-runtime", &["astrfleet-core"]),
    ("astrfleet-server", &["astrfleet-core"]),
    (
        "astrfleet",
        &["astrfleet-core", "astrfleet-store", "astrfleet-adapters", "astrfleet-runtime", "astrfleet-server"],
    ),
    (TESTKIT, &["astrfleet-core", "astrfleet-store", "astrfleet-adapters", "astrfleet-runtime", "astrfleet-server"]),
    (XTASK, &[]),
];

/// Libraries that stay behind one wall: the library, the crates whose product code may name it, and why.
const OWNED: &[(&str, &[&str], &str)] = &[
    ("sqlx", &["astrfleet-store"], "only store has SQL"),
    ("axum", &["astrfleet-server"], "only server speaks HTTP to the world"),
    ("utoipa-axum", &["astrfleet-server"], "only server speaks HTTP to the world"),
    ("hyper", &["astrfleet-server"], "only server speaks HTTP to the world"),
    ("hyper-util", &["astrfleet-server"], "only server speaks HTTP to the world"),
    ("kube", &["astrfleet-runtime"], "only runtime talks to Kubernetes"),
    ("k8s-openapi", &["astrfleet-runtime"], "only runtime talks to Kubernetes"),
    ("redis", &["astrfleet-adapters"], "backends of the bus, the limiter and the cache live in adapters"),
    ("object_store", &["astrfleet-adapters"], "backends of the blobs live in adapters"),
    ("clap", &["astrfleet"], "only cli reads the command line"),
    ("figment", &["astrfleet"], "only cli reads the configuration"),
    ("anyhow", &["astrfleet"], "elsewhere an error has a type"),
];

/// What does I/O by trade, and therefore has no business in core.
const NOT_IN_CORE: &[&str] = &["tokio", "reqwest", "rustix", "socket2", "tempfile", "tower", "tracing-subscriber"];

const TESTKIT: &str = "astrfleet-testkit";
const XTASK: &str = "xtask";

/// Fails with one line for each arrow that does not belong.
pub fn run(workspace: &Workspace) -> Result<()> {
    let wrong = wrong_arrows(&workspace.metadata);
    for line in &wrong {
        eprintln!("  {line}");
    }
    if !wrong.is_empty() {
        bail!("{} arrow(s) through a wall; the walls are drawn in ARCHITECTURE.md", wrong.len());
    }
    Ok(())
}

fn wrong_arrows(metadata: &Value) -> Vec<String> {
    let mut wrong = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let name = text(&package["name"]);
        let Some((_, allowed)) = ARROWS.iter().find(|(from, _)| *from == name) else {
            wrong.push(format!("{name} has no row in xtask/src/arrows.rs: say there what it may know"));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let to = text(&dependency["name"]);
            let in_tests = text(&dependency["kind"]) == "dev";
            if ARROWS.iter().any(|(ours, _)| *ours == to) {
                let is_drawn = allowed.contains(&to) || (in_tests && to == TESTKIT && name != XTASK);
                if !is_drawn {
                    let as_what = if in_tests { " in tests" } else { "" };
                    wrong.push(format!("{name} -> {to}{as_what}"));
                }
                continue;
            }
            if in_tests || name == TESTKIT || name == XTASK {
                continue;
            }
            if let Some((_, owners, reason)) = OWNED.iter().find(|(library, ..)| *library == to)
                && !owners.contains(&name)
            {
                wrong.push(format!("{name} -> {to}: {reason}"));
            }
            if name == "astrfleet-core" && NOT_IN_CORE.contains(&to) {
                wrong.push(format!("{name} -> {to}: core does no I/O"));
            }
        }
    }
    wrong
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn package(name: &str, dependencies: &[(&str, Option<&str>)]) -> Value {
        let dependencies: Vec<Value> =
            dependencies.iter().map(|(name, kind)| json!({ "name": name, "kind": kind })).collect();
        json!({ "packages": [{ "name": name, "dependencies": dependencies }] })
    }

    #[test]
    fn the_arrows_that_are_drawn_pass() {
        let drawn = package("astrfleet-store", &[("astrfleet-core", None), ("sqlx", None), (TESTKIT, Some("dev"))]);
        assert_eq!(wrong_arrows(&drawn), Vec::<String>::new());
    }

    #[test]
    fn siblings_do_not_know_each_other_not_even_in_tests() {
        let drawn = package("astrfleet-server", &[("astrfleet-store", None), ("astrfleet-runtime", Some("dev"))]);
        assert_eq!(
            wrong_arrows(&drawn),
            ["astrfleet-server -> astrfleet-store", "astrfleet-server -> astrfleet-runtime in tests"],
        );
    }

    #[test]
    fn the_testkit_stays_out_of_the_product() {
        assert_eq!(wrong_arrows(&package("astrfleet", &[(TESTKIT, None)])), ["astrfleet -> astrfleet-testkit"]);
        assert_eq!(
            wrong_arrows(&package("astrfleet", &[(TESTKIT, Some("build"))])),
            ["astrfleet -> astrfleet-testkit"]
        );
    }

    #[test]
    fn xtask_knows_none_of_ours() {
        let drawn = package(XTASK, &[("astrfleet-core", None), (TESTKIT, Some("dev")), ("anyhow", None)]);
        assert_eq!(wrong_arrows(&drawn), ["xtask -> astrfleet-core", "xtask -> astrfleet-testkit in tests"]);
    }

    #[test]
    fn a_library_stays_behind_its_wall_except_in_tests() {
        let drawn = package("astrfleet-core", &[("sqlx", None), ("tokio", None), ("axum", Some("dev"))]);
        assert_eq!(
            wrong_arrows(&drawn),
            ["astrfleet-core -> sqlx: only store has SQL", "astrfleet-core -> tokio: core does no I/O"],
        );
    }

    #[test]
    fn a_new_crate_has_to_say_what_it_may_know() {
        assert!(wrong_arrows(&package("astrfleet-extra", &[]))[0].contains("has no row"));
    }
}
