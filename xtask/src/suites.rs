//! `make test`: runs every suite, shows its output as it comes, and ends with a table of durations and one line that adds
//! up what the runners themselves said. The exit code decides; a suite that said nothing at its end counts as failed.

use std::{
    fmt::Write as _,
    fs,
    io::{BufRead as _, BufReader, pipe},
    path::Path,
    process::{Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    errand::{Workspace, run as errand, spelled, timed},
    needs, previous,
};

/// What is run once more on the second PostgreSQL.
const STORE_SUITES: [&str; 7] = [
    "store_contract",
    "store_accepts",
    "store_servers",
    "store_silence",
    "row_security",
    "messages_by_month",
    "previous_release",
];
/// What is run once more on PostgreSQL, Redis and S3: whatever stands on a platform, by package and folder…
const PLATFORM_PACKAGES: [(&str, &str); 2] = [("astrfleet-server", "crates/server"), ("astrfleet", "crates/cli")];
/// …and what makes platforms of its own…
const PLATFORM_SUITES: (&str, [&str; 2]) = ("astrfleet-testkit", ["messages", "manager_killed"]);
/// …but for what stands on them in every run.
const ON_SERVERS_ALWAYS: [&str; 3] = ["fleet", "faults", "upgrade"];
/// How `testkit` is told so (`backends::BACKENDS`).
const BACKENDS: (&str, &str) = ("ASTRFLEET_TEST_BACKENDS", "servers");
/// How `testkit` is told which one (`parts::POSTGRES_VERSION`).
const POSTGRES_VERSION: &str = "ASTRFLEET_TEST_POSTGRES";

/// What one runner said at its end.
#[derive(Debug, Clone, Default, PartialEq)]
struct Suite {
    name: String,
    passed: u32,
    failed: u32,
    ignored: u32,
    /// As the runner measured it.
    took: Duration,
    /// False for a suite that began and never gave its result: it crashed or was killed.
    is_finished: bool,
}

/// Meets the needs, runs the suites, prints the table; fails when any suite failed, crashed or left a test out.
pub fn run(workspace: &Workspace, filter: &[String]) -> Result<()> {
    needs::meet(workspace, filter)?;
    if previous::is_needed(filter) {
        previous::build(workspace)?;
    }
    let (outcome, took) = timed(|| run_all(workspace, filter));
    let (suites, good) = outcome?;

    println!("\n{:>9}  {:>6}  {:>6}", "seconds", "passed", "failed");
    for suite in suites.iter().filter(|suite| suite.passed + suite.failed > 0 || !suite.is_finished) {
        let note = if suite.is_finished { "" } else { "  (ended without a result)" };
        println!("{:>9.1}  {:>6}  {:>6}  {}{note}", suite.took.as_secs_f64(), suite.passed, suite.failed, suite.name);
    }
    println!("{:>9.1}  all, with building", took.as_secs_f64());

    let passed: u32 = suites.iter().map(|suite| suite.passed).sum();
    let failed: u32 = suites.iter().map(|suite| suite.failed + u32::from(!suite.is_finished)).sum();
    let ignored: u32 = suites.iter().map(|suite| suite.ignored).sum();
    let sum = format!("{passed} passed, {failed} failed");
    fs::write(workspace.target.join("test-summary.txt"), format!("{sum}\n")).context("cannot write the summary")?;
    println!("{sum}");
    if !good || failed > 0 {
        bail!("the tests failed");
    }
    if ignored > 0 {
        bail!("{ignored} test(s) were left out: a test runs or is deleted");
    }
    if filter.is_empty() && passed == 0 {
        bail!("no test ran");
    }
    Ok(())
}

fn run_all(workspace: &Workspace, filter: &[String]) -> Result<(Vec<Suite>, bool)> {
    let mut suites = Vec::new();
    // Named, so that it is the same whatever else is installed, and so that the table can say which it was.
    let first = needs::first_postgresql();
    let on_first = |command: &mut Command| {
        if let Some(version) = &first {
            command.env(POSTGRES_VERSION, version);
        }
    };
    let mut cargo = workspace.cargo();
    on_first(&mut cargo);
    cargo.args(["test", "--locked", "--no-fail-fast"]);
    if !filter.iter().any(|word| word == "-p" || word.starts_with("--package")) {
        cargo.arg("--workspace");
    }
    cargo.args(filter);
    let mut good = watch(&mut cargo, |line| read_cargo(line, &mut suites))?.success();
    if let Some(version) = &first {
        let on_postgresql = |suite: &&mut Suite| {
            let name = suite.name.trim_start_matches("tests/").split(['.', '/']).next().unwrap_or_default();
            STORE_SUITES.contains(&name)
        };
        for suite in suites.iter_mut().filter(on_postgresql) {
            let _ = write!(suite.name, " (PostgreSQL {version})");
        }
    }
    if filter.is_empty() {
        let mut store = workspace.cargo();
        // The whole workspace also here: for one package alone cargo would build its libraries anew, with fewer features.
        store.args(["test", "--locked", "--no-fail-fast", "--workspace"]);
        for suite in STORE_SUITES {
            store.args(["--test", suite]);
        }
        store.env(POSTGRES_VERSION, needs::SECOND_POSTGRESQL);
        let before = suites.len();
        good &= watch(&mut store, |line| read_cargo(line, &mut suites))?.success();
        for suite in &mut suites[before..] {
            let _ = write!(suite.name, " (PostgreSQL {})", needs::SECOND_POSTGRESQL);
        }
    }
    // What the table adds to the name of what ran there.
    let on_servers = format!(" (PostgreSQL {}, Redis, S3)", first.as_deref().unwrap_or("of PATH"));
    if filter.is_empty() {
        let mut platforms = workspace.cargo();
        platforms.args(["test", "--locked", "--no-fail-fast"]);
        for (package, folder) in PLATFORM_PACKAGES {
            platforms.args(["--package", package]);
            for suite in suites_in(&workspace.root.join(folder).join("tests"))? {
                platforms.args(["--test", &suite]);
            }
        }
        let (package, of_package) = PLATFORM_SUITES;
        platforms.args(["--package", package]);
        for suite in of_package {
            platforms.args(["--test", suite]);
        }
        platforms.env(BACKENDS.0, BACKENDS.1);
        on_first(&mut platforms);
        let before = suites.len();
        good &= watch(&mut platforms, |line| read_cargo(line, &mut suites))?.success();
        for suite in &mut suites[before..] {
            suite.name.push_str(&on_servers);
        }
    }
    if filter.is_empty() && needs::has_browser_tests(workspace) {
        errand(workspace.cargo().args(["build", "--workspace", "--bins", "--locked"]))?;
        for servers in [false, true] {
            let mut browser = Suite { name: "e2e (Chromium)".to_owned(), ..Suite::default() };
            let mut node = Command::new("npm");
            on_first(&mut node);
            node.current_dir(workspace.root.join("e2e"))
                .args(["test", "--silent"])
                .env("ASTRFLEET_BIN", workspace.target.join("debug").join("astrfleet"));
            if servers {
                node.env(BACKENDS.0, BACKENDS.1);
                browser.name.push_str(&on_servers);
            }
            let (status, took) = timed(|| watch(&mut node, |line| read_node(line, &mut browser)));
            browser.took = took;
            good &= status?.success();
            suites.push(browser);
        }
    }
    Ok((suites, good))
}

/// The suites in a folder `tests` that are to run once more.
fn suites_in(folder: &Path) -> Result<Vec<String>> {
    let mut suites = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        let is_suite = path.extension().is_some_and(|extension| extension == "rs") || path.join("main.rs").exists();
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if is_suite && !ON_SERVERS_ALWAYS.contains(&&*name) {
            suites.push(name);
        }
    }
    suites.sort_unstable();
    Ok(suites)
}

/// Runs a command with both its outputs in one stream, in order, and shows each line and hands it on.
fn watch(command: &mut Command, mut see: impl FnMut(&str)) -> Result<ExitStatus> {
    let line = spelled(command);
    println!("  $ {line}");
    let (reader, writer) = pipe().context("cannot make a pipe")?;
    command.stdin(Stdio::null()).stdout(writer.try_clone().context("cannot share a pipe")?).stderr(writer);
    let mut child = command.spawn().with_context(|| format!("cannot start `{line}`"))?;
    // The command holds our ends of the pipe: only when they are closed does the reader see the end.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    for bytes in BufReader::new(reader).split(b'\n') {
        let bytes = bytes.context("cannot read what a suite prints")?;
        let text = String::from_utf8_lossy(&bytes);
        println!("{text}");
        see(&text);
    }
    child.wait().with_context(|| format!("cannot wait for `{line}`"))
}

/// Cargo's own `Running …` and `Doc-tests …` open a suite, libtest's `test result: …` closes it.
fn read_cargo(line: &str, suites: &mut Vec<Suite>) {
    let text = line.trim_start();
    if let Some(what) = text.strip_prefix("Running ").filter(|_| line.starts_with(' ')) {
        suites.push(Suite { name: suite_name(what), ..Suite::default() });
    } else if let Some(what) = text.strip_prefix("Doc-tests ").filter(|_| line.starts_with(' ')) {
        suites.push(Suite { name: format!("{what} (examples in docs)"), ..Suite::default() });
    } else if let Some(result) = line.strip_prefix("test result: ") {
        // The examples in docs of a crate come in two rounds when some of them cannot be merged: the second adds up.
        let Some(suite) = suites.last_mut() else { return };
        suite.passed += counted(result, " passed");
        suite.failed += counted(result, " failed");
        suite.ignored += counted(result, " ignored");
        suite.is_finished = true;
        if let Some(seconds) =
            result.rsplit_once("finished in ").and_then(|(_, took)| took.trim_end_matches('s').parse().ok())
        {
            suite.took += Duration::try_from_secs_f64(seconds).unwrap_or_default();
        }
    }
}

/// `unittests src/lib.rs (target/debug/deps/astrfleet_core-0123)` is the unit tests of `astrfleet_core`.
fn suite_name(what: &str) -> String {
    let Some((source, binary)) = what.split_once(" (") else { return what.to_owned() };
    let file = binary.trim_end_matches(')').rsplit('/').next().unwrap_or(binary);
    let krate = file.rsplit_once('-').map_or(file, |(name, _)| name);
    match source.strip_prefix("unittests ") {
        Some("src/lib.rs") => krate.to_owned(),
        Some(other) => format!("{krate} ({other})"),
        None => source.to_owned(),
    }
}

/// Node's test runner ends with `# pass 3` or, on a terminal, `ℹ pass 3`.
fn read_node(line: &str, suite: &mut Suite) {
    let Some(text) = line.strip_prefix("# ").or_else(|| line.strip_prefix("ℹ ")) else { return };
    let Some((word, count)) = text.split_once(' ') else { return };
    let Ok(count) = count.trim().parse::<u32>() else { return };
    match word {
        "pass" => {
            suite.passed = count;
            suite.is_finished = true;
        }
        "fail" | "cancelled" => suite.failed += count,
        "skipped" | "todo" => suite.ignored += count,
        _ => {}
    }
}

/// The number that stands before `label`.
fn counted(text: &str, label: &str) -> u32 {
    text.split_once(label)
        .and_then(|(before, _)| before.rsplit(' ').next())
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[&str]) -> Vec<Suite> {
        let mut suites = Vec::new();
        for line in lines {
            read_cargo(line, &mut suites);
        }
        suites
    }

    #[test]
    fn results_are_read_with_their_suites() {
        let suites = read(&[
            "     Running unittests src/lib.rs (target/debug/deps/astrfleet_core-0a1b2c)",
            "running 12 tests",
            "test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.50s",
            "     Running tests/journeys.rs (target/debug/deps/journeys-0a1b2c)",
            "test result: FAILED. 3 passed; 2 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.25s",
            "   Doc-tests astrfleet_core",
            "test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s",
        ]);
        let sums: Vec<_> =
            suites.iter().map(|suite| (&*suite.name, suite.passed, suite.failed, suite.ignored)).collect();
        assert_eq!(
            sums,
            [
                ("astrfleet_core", 12, 0, 0),
                ("tests/journeys.rs", 3, 2, 1),
                ("astrfleet_core (examples in docs)", 1, 0, 0)
            ],
        );
        assert_eq!(suites[0].took, Duration::from_millis(1500));
    }

    #[test]
    fn a_suite_that_crashed_has_no_result() {
        let suites =
            read(&["     Running unittests src/main.rs (target/debug/deps/astrfleet-0a1b)", "running 3 tests"]);
        assert_eq!((&*suites[0].name, suites[0].is_finished), ("astrfleet (src/main.rs)", false));
    }

    #[test]
    fn what_a_test_prints_does_not_open_a_suite() {
        assert_eq!(read(&["Running around (in circles)"]), []);
    }

    #[test]
    fn nodes_summary_is_read() {
        let mut suite = Suite::default();
        for line in ["ok 1 - opens", "# tests 4", "# pass 2", "# fail 1", "# cancelled 1", "# duration_ms 12.5"] {
            read_node(line, &mut suite);
        }
        assert_eq!((suite.passed, suite.failed, suite.is_finished), (2, 2, true));
    }
}
