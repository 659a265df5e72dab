//! `make gen`: the files that are written by a program and committed all the same, so that a change of the API or of the
//! command line shows in review. Nothing here is edited by hand.

use std::{fmt::Write as _, fs, path::Path, process::Command};

use anyhow::{Context as _, Result, bail};

use crate::{
    config_reference,
    errand::{Workspace, output, run as errand, variable},
};

/// One generated file.
struct Generated {
    /// Below the root of the checkout.
    path: &'static str,
    /// All of it.
    text: String,
}

/// Writes every generated file, or with `check` compares and fails when one is stale.
pub fn run(workspace: &Workspace, check: bool) -> Result<()> {
    // All binaries of the workspace at once: the same features, and so the same dependencies, as `cargo test` builds.
    errand(workspace.cargo().args(["build", "--workspace", "--bins", "--locked"]))?;
    let program = workspace.target.join("debug").join("astrfleet");

    let mut stale = Vec::new();
    for Generated { path, text } in
        [openapi(&program)?, configuration(workspace)?, command_line(&program)?, errors(&program)?]
    {
        let full = workspace.root.join(path);
        let present = fs::read_to_string(&full).unwrap_or_default();
        if present == text {
            continue;
        }
        if check {
            stale.push(format!("{path} (line {})", first_difference(&present, &text)));
            continue;
        }
        if let Some(folder) = full.parent() {
            fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        fs::write(&full, text).with_context(|| format!("cannot write {path}"))?;
        println!("  wrote {path}");
    }
    if !stale.is_empty() {
        bail!("stale: {}; run `make gen` and commit what it writes", stale.join(", "));
    }
    Ok(())
}

/// The description of the public API, as the program gives it.
fn openapi(program: &Path) -> Result<Generated> {
    let text = output(astrfleet(program).arg("openapi"))?;
    let description: serde_json::Value =
        serde_json::from_str(&text).context("`astrfleet openapi` printed something that is not JSON")?;
    Ok(Generated { path: "openapi/astrfleet.json", text: format!("{description:#}\n") })
}

/// The manual of the configuration: the comments of the default file.
fn configuration(workspace: &Workspace) -> Result<Generated> {
    let path = "crates/cli/src/config.default.toml";
    let text = fs::read_to_string(workspace.root.join(path)).with_context(|| format!("cannot read {path}"))?;
    Ok(Generated { path: "docs/configuration.md", text: config_reference::markdown(&text)? })
}

/// What the API's answers that are no success mean.
fn errors(program: &Path) -> Result<Generated> {
    let table = output(astrfleet(program).arg("errors"))?;
    let text = format!(
        "<!-- Written by `make gen` from `CODES` in crates/server/src/problem.rs. Change that. -->\n# Errors\n\
         Every answer of `/api/v1` that is not a success is a problem (RFC 9457, `application/problem+json`). Its `code` is \
         stable: programs may match on it.\nIts `detail` says what happened and what to do now, its `field` names what was \
         wrong with the request, and its `request_id` names the request in the platform's log.\n\n{}\n",
        table.trim_end()
    );
    Ok(Generated { path: "docs/errors.md", text })
}

/// Every help page, in the order of the help pages.
fn command_line(program: &Path) -> Result<Generated> {
    let mut text =
        String::from("<!-- Written by `make gen` from the help pages. Change those. -->\n# The command line\n");
    help_pages(program, &mut Vec::new(), &mut text)?;
    Ok(Generated { path: "docs/cli.md", text })
}

fn help_pages(program: &Path, words: &mut Vec<String>, text: &mut String) -> Result<()> {
    let page = output(astrfleet(program).args(&*words).arg("--help"))?;
    let name = [&["astrfleet".to_owned()], words.as_slice()].concat().join(" ");
    let lines: Vec<&str> = page.trim().lines().map(str::trim_end).collect();
    let _ = write!(text, "\n## `{name}`\n```text\n{}\n```\n", lines.join("\n"));
    for word in subcommands(&page) {
        words.push(word);
        help_pages(program, words, text)?;
        words.pop();
    }
    Ok(())
}

/// The words below `Commands:` in a help page of clap.
fn subcommands(page: &str) -> Vec<String> {
    page.lines()
        .skip_while(|line| line.trim_end() != "Commands:")
        .skip(1)
        .take_while(|line| line.is_empty() || line.starts_with(' '))
        .filter_map(|line| line.strip_prefix("  ").filter(|rest| !rest.starts_with(' ')))
        .filter_map(|rest| rest.split_whitespace().next())
        .filter(|word| *word != "help")
        .map(str::to_owned)
        .collect()
}

/// The program in an environment of its own: a help page shows defaults, and those must not be this machine's.
fn astrfleet(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("HOME", "/home/you").env("PATH", variable("PATH").unwrap_or_default());
    command
}

fn first_difference(left: &str, right: &str) -> usize {
    let same = left.lines().zip(right.lines()).take_while(|(left, right)| left == right).count();
    same + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subcommands_are_read_from_a_help_page() {
        let page = "Hosts bots\n\nUsage: astrfleet <COMMAND>\n\nCommands:\n  up      Starts\n  tenant  Tenants, of which\n          \
                    there are many\n  help    Print this\n\nOptions:\n  -h, --help  Print help\n";
        assert_eq!(subcommands(page), ["up", "tenant"]);
        assert_eq!(subcommands("Usage: astrfleet up\n\nOptions:\n  -h\n"), Vec::<String>::new());
    }

    #[test]
    fn the_first_line_that_differs_is_named() {
        assert_eq!(first_difference("a\nb\nc\n", "a\nx\nc\n"), 2);
        assert_eq!(first_difference("", "a\n"), 1);
    }
}
