//! `make check`: all that can be judged without running a test. Every part runs, also after another one failed, so that
//! one round tells everything.

use anyhow::{Result, bail};

use crate::{
    arrows, deny,
    errand::{Workspace, run as errand, timed},
    generate, migrations, sources,
};

/// One thing that is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// rustfmt
    Format,
    /// Which crate may know which
    Arrows,
    /// What a file may contain
    Sources,
    /// Whether a migration leaves a database in use alone
    Migrations,
    /// cargo-deny: licences, origins, bans, advisories
    Dependencies,
    /// clippy, pedantic, warnings are errors
    Lints,
    /// rustdoc, warnings are errors
    Docs,
    /// Whether the committed generated files are what `make gen` writes
    Generated,
}

/// The cheap ones first.
const ALL: [Part; 8] = [
    Part::Format,
    Part::Arrows,
    Part::Sources,
    Part::Migrations,
    Part::Dependencies,
    Part::Lints,
    Part::Docs,
    Part::Generated,
];

/// Runs the parts asked for, or all, prints a table, and fails when any of them did.
pub fn run(workspace: &Workspace, asked: &[Part]) -> Result<()> {
    let parts = if asked.is_empty() { &ALL[..] } else { asked };
    let mut table = Vec::new();
    for &part in parts {
        println!("check {}", name(part));
        let (outcome, took) = timed(|| judge(workspace, part));
        if let Err(error) = &outcome {
            eprintln!("error: {error:#}");
        }
        table.push((part, outcome.is_ok(), took));
    }
    println!();
    for (part, good, took) in &table {
        println!("{:>7.1} s  {:<6} {}", took.as_secs_f64(), if *good { "ok" } else { "FAILED" }, name(*part));
    }
    let failed: Vec<&str> = table.iter().filter(|(_, good, _)| !good).map(|(part, ..)| name(*part)).collect();
    if !failed.is_empty() {
        bail!("check failed: {}", failed.join(", "));
    }
    Ok(())
}

fn judge(workspace: &Workspace, part: Part) -> Result<()> {
    match part {
        Part::Format => errand(workspace.cargo().args(["fmt", "--all", "--check"])),
        Part::Arrows => arrows::run(workspace),
        Part::Sources => sources::run(workspace),
        Part::Migrations => migrations::run(workspace),
        Part::Dependencies => deny::run(workspace),
        Part::Lints => errand(workspace.cargo().args([
            "clippy",
            "--workspace",
            "--all-targets",
            "--locked",
            "--",
            "-D",
            "warnings",
        ])),
        Part::Docs => errand(
            workspace
                .cargo()
                .args(["doc", "--workspace", "--no-deps", "--document-private-items", "--locked"])
                .env("RUSTDOCFLAGS", "-D warnings"),
        ),
        Part::Generated => generate::run(workspace, true),
    }
}

const fn name(part: Part) -> &'static str {
    match part {
        Part::Format => "format",
        Part::Arrows => "arrows",
        Part::Sources => "sources",
        Part::Migrations => "migrations",
        Part::Dependencies => "dependencies",
        Part::Lints => "lints",
        Part::Docs => "docs",
        Part::Generated => "generated",
    }
}
