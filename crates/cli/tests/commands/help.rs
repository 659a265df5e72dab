//! Help pages. They stand in `docs/cli.md`, which `make check` holds to the program; here they are read for what every page
//! must have.

use std::collections::BTreeMap;

use astrfleet_testkit::shell::Shell;

use crate::PROGRAM;

/// The words below `Commands:` of a help page.
fn commands_of(page: &str) -> Vec<String> {
    let list = page.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let names = list.filter_map(|line| line.strip_prefix("  ").filter(|rest| !rest.starts_with(' ')));
    names.filter_map(|rest| rest.split_whitespace().next()).filter(|name| *name != "help").map(str::to_owned).collect()
}

/// The help page of every command, by its words.
pub async fn pages() -> BTreeMap<String, String> {
    let shell = Shell::alone(PROGRAM);
    let mut open: Vec<Vec<String>> = vec![Vec::new()];
    let mut pages = BTreeMap::new();
    while let Some(words) = open.pop() {
        let line: Vec<&str> = words.iter().map(String::as_str).chain(["--help"]).collect();
        let page = shell.run_with(&line, "").await;
        let what = words.join(" ");
        assert_eq!((page.code, &*page.err), (0, ""), "{what}");
        open.extend(commands_of(&page.out).into_iter().map(|name| words.iter().cloned().chain([name]).collect()));
        assert!(pages.insert(what.clone(), page.out).is_none(), "{what} is there twice");
    }
    pages
}

/// The commands that do something by themselves.
pub async fn commands() -> Vec<String> {
    let pages = pages().await;
    // One of the ways to use it has no further command in it.
    let does = |page: &str| {
        let ways = page.lines().skip_while(|line| !line.starts_with("Usage:")).take_while(|line| !line.is_empty());
        ways.into_iter().any(|way| !way.contains(" <COMMAND>"))
    };
    pages.into_iter().filter(|(_, page)| does(page)).map(|(words, _)| words).collect()
}

#[tokio::test]
async fn every_command_has_a_help_page_that_says_what_it_does() {
    let pages = pages().await;
    for (what, page) in &pages {
        let first = page.lines().next().unwrap_or_default();
        assert!(!first.is_empty() && !first.starts_with("Usage:"), "{what} does not say what it does");
        assert!(page.contains("Usage: astrfleet") && page.contains("--json"), "{what}: {page}");
        for line in page.lines().filter(|line| line.starts_with("  ") && line.trim_start().starts_with('-')) {
            // An option and what it does are two columns, or two lines.
            let described = line.trim().contains("  ") || page.contains(&format!("{line}\n          "));
            // A value of one, and what it stands for.
            let described = described || line.trim().starts_with("- ") && line.contains(": ");
            assert!(described, "{what}: without a description: {line}");
        }
    }
    for expected in ["up", "serve", "doctor", "tenant create", "instance logs", "channel add", "chat", "completions"] {
        assert!(pages.contains_key(expected), "{expected} is missing: {:?}", pages.keys());
    }
}
