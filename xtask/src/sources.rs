//! What the text of a file says that neither the compiler nor clippy can judge: unfinished work, and calls that belong
//! behind another wall. Only rules that a plain search can hold up honestly: the rest is for the reader.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, bail};

use crate::errand::Workspace;

/// Past this many lines, look for the second subject in a file.
const LINES_MAX: usize = 500;

/// A text that may stand only in some places.
struct Rule {
    /// Pieces of the text, joined before the search, so that this file does not break its own rules.
    text: &'static [&'static str],
    /// Folders or files where it may stand. Tests, testkit and xtask may do as they like.
    allowed: &'static [&'static str],
    /// What to say to whoever wrote it elsewhere.
    reason: &'static str,
}

const RULES: &[Rule] = &[
    Rule { text: &["sqlx", "::"], allowed: &["crates/store"], reason: "only store has SQL: add a method to its port" },
    Rule {
        text: &["process", "::Command"],
        allowed: &["crates/runtime"],
        reason: "only runtime starts processes: go through its port",
    },
    Rule {
        text: &["Status", "Code"],
        allowed: &["crates/server", "crates/runtime", "crates/cli"],
        reason: "below the server nobody knows status codes: return an Error",
    },
    Rule { text: &["kube", "::"], allowed: &["crates/runtime"], reason: "only runtime talks to Kubernetes" },
];

/// Marks of unfinished work: never, nowhere.
const UNFINISHED: &[&[&str]] = &[
    &["TO", "DO"],
    &["FIX", "ME"],
    &["XX", "X:"],
    &["dbg", "!("],
    &["todo", "!("],
    &["unimplemented", "!("],
    &["<<<<", "<<< "],
];

/// Fails with one line for each finding; long files only get a warning.
pub fn run(workspace: &Workspace) -> Result<()> {
    let mut wrong = Vec::new();
    for path in workspace.files()? {
        if !is_source(&path) {
            continue;
        }
        let text = fs::read_to_string(workspace.root.join(&path))
            .with_context(|| format!("cannot read {}", path.display()))?;
        wrong.extend(findings(&path, &text));
        let lines = text.lines().count();
        if path.extension().is_some_and(|ending| ending == "rs") && lines > LINES_MAX {
            println!("  warning: {} has {lines} lines: look for the second subject in it", path.display());
        }
    }
    for line in &wrong {
        eprintln!("  {line}");
    }
    if !wrong.is_empty() {
        bail!("{} finding(s) in the sources", wrong.len());
    }
    Ok(())
}

/// What people write by hand here. Lock files and what is generated from elsewhere are not read.
fn is_source(path: &Path) -> bool {
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    let by_hand = matches!(
        ending,
        "rs" | "toml" | "sql" | "py" | "ts" | "js" | "mjs" | "sh" | "yml" | "yaml" | "md" | "html" | "css"
    );
    by_hand || path.file_name().is_some_and(|name| name == "Makefile")
}

fn findings(path: &Path, text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let is_rust = path.extension().is_some_and(|ending| ending == "rs");
    let is_product = is_rust && path.starts_with("crates") && !path.starts_with("crates/testkit") && is_in_src(path);
    for (number, line) in text.lines().enumerate() {
        let place = || format!("{}:{}", path.display(), number + 1);
        for mark in UNFINISHED {
            let mark = mark.concat();
            if contains_word(line, &mark) {
                wrong.push(format!("{}: {mark} is unfinished work", place()));
            }
        }
        if !is_product {
            continue;
        }
        for rule in RULES {
            if !rule.allowed.iter().any(|folder| path.starts_with(folder))
                && contains_word(code(line), &rule.text.concat())
            {
                wrong.push(format!("{}: `{}`: {}", place(), rule.text.concat(), rule.reason));
            }
        }
    }
    if is_product && !text.starts_with("//!") {
        wrong.push(format!(
            "{}: begin with `//!`: what the module is for and what must not happen in it",
            path.display()
        ));
    }
    wrong
}

fn is_in_src(path: &Path) -> bool {
    path.components().nth(2).is_some_and(|part| part.as_os_str() == "src")
}

/// The line without what follows `//`.
fn code(line: &str) -> &str {
    line.split_once("//").map_or(line, |(code, _)| code)
}

/// Whether the line has the text, not as the tail of a longer word.
fn contains_word(line: &str, text: &str) -> bool {
    line.match_indices(text).any(|(at, _)| {
        !line[..at].chars().next_back().is_some_and(|before| before.is_alphanumeric() || before == '_')
            && (!text.ends_with(char::is_alphanumeric)
                || !line[at + text.len()..].chars().next().is_some_and(|after| after.is_alphanumeric() || after == '_'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> usize {
        findings(Path::new(path), text).len()
    }

    #[test]
    fn sql_outside_the_store_is_found_and_inside_it_is_not() {
        let text = concat!("//! A module.\nlet pool = sqlx", "::PgPool::connect(url);\n");
        assert_eq!(found("crates/server/src/app.rs", text), 1);
        assert_eq!(found("crates/store/src/db.rs", text), 0);
        assert_eq!(found("crates/server/tests/journey.rs", text), 0);
        assert_eq!(found("crates/testkit/src/lib.rs", text), 0);
    }

    #[test]
    fn a_comment_may_name_what_the_code_may_not() {
        assert_eq!(found("crates/core/src/error.rs", concat!("//! No Status", "Code here.\n")), 0);
        assert_eq!(found("crates/core/src/error.rs", concat!("//! Errors.\nuse http::Status", "Code;\n")), 1);
    }

    #[test]
    fn unfinished_work_is_found_everywhere_but_not_inside_words() {
        assert_eq!(found("README.md", concat!("- TO", "DO: write this\n")), 1);
        assert_eq!(found("xtask/src/main.rs", concat!("    dbg", "!(path);\n")), 1);
        assert_eq!(found("README.md", "MASTODON, a TODOS list and a methodology\n"), 0);
    }

    #[test]
    fn a_module_says_what_it_is_for() {
        assert_eq!(found("crates/core/src/ids.rs", "use std::fmt;\n"), 1);
        assert_eq!(found("crates/core/src/ids.rs", "//! Ids.\nuse std::fmt;\n"), 0);
    }
}
