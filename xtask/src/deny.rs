//! cargo-deny: licences, origins, bans, advisories, by the rules in `deny.toml`. Gets the tool when it is missing.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;

use crate::errand::{Workspace, output, run as errand, succeeds};

/// The version whose rules `deny.toml` is written for.
const VERSION: &str = "0.20.2";

/// Runs every check of cargo-deny; the advisories only when their database can be fetched, and says so when it cannot.
pub fn run(workspace: &Workspace) -> Result<()> {
    let tool = tool(workspace)?;
    let deny = || {
        let mut command = Command::new(&tool);
        command.current_dir(&workspace.root).env("GIT_TERMINAL_PROMPT", "0");
        command.args(["--log-level", "error"]);
        command
    };
    errand(deny().args(["check", "--hide-inclusion-graph", "bans", "licenses", "sources"]))?;

    println!("  fetching the advisory database");
    let fetched = deny()
        .args(["fetch", "db"])
        .env("GIT_HTTP_LOW_SPEED_LIMIT", "1000")
        .env("GIT_HTTP_LOW_SPEED_TIME", "20")
        .output()
        .is_ok_and(|output| output.status.success());
    if !fetched {
        println!(
            "  warning: advisories NOT checked: their database (github.com/RustSec/advisory-db) cannot be reached"
        );
        return Ok(());
    }
    errand(deny().args(["check", "advisories"]))
}

/// The tool on the PATH when it is the right one, or our own copy, built when there is none.
///
/// The copy is built without optimisation: that takes a minute less and costs two seconds a run. The wheel on `PyPI` is no
/// way around the build: its newest version cannot read what today's cargo writes.
fn tool(workspace: &Workspace) -> Result<PathBuf> {
    let on_path = Path::new("cargo-deny");
    if succeeds(on_path, &["--version"]) && output(Command::new(on_path).arg("--version"))?.contains(VERSION) {
        return Ok(on_path.to_owned());
    }
    let folder = workspace.tools().join(format!("cargo-deny-{VERSION}"));
    let own = folder.join("bin").join("cargo-deny");
    if !succeeds(&own, &["--version"]) {
        println!("  building cargo-deny {VERSION} once, into {}", folder.display());
        errand(
            workspace
                .cargo()
                .args(["install", "cargo-deny", "--version", VERSION, "--locked", "--debug", "--root"])
                .arg(&folder)
                .env("CARGO_PROFILE_DEV_DEBUG", "false")
                .env_remove("CARGO_TARGET_DIR"),
        )?;
    }
    Ok(own)
}
