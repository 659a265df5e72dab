//! The chores of this repository: what `make` calls. It is built alone and knows no crate of the product; where it needs
//! the product's word (the API description, the help pages) it runs the built program. Nothing here may reach production.

mod arrows;
mod bench;
mod check;
mod config_reference;
mod deny;
mod errand;
mod faults;
mod generate;
mod migrations;
mod needs;
mod previous;
mod sources;
mod suites;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::errand::Workspace;

/// Checks, generators, tests and benchmarks of this repository.
#[derive(Parser)]
#[command(name = "xtask", arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Everything that can be judged without running a test: format, lints, docs, walls, licences, generated files
    Check {
        /// Only these: format, arrows, sources, migrations, dependencies, lints, docs, generated
        what: Vec<check::Part>,
    },
    /// Writes the generated files anew
    Gen {
        /// Writes nothing; fails when a committed file differs from what would be written
        #[arg(long)]
        check: bool,
    },
    /// Installs what the tests need, where it is missing, and runs them all
    Test {
        /// Passed to `cargo test`; with any, the suites outside cargo are left out
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        filter: Vec<String>,
    },
    /// Lets things go wrong with a fleet under load, and counts what became of its messages; writes `target/bench/faults.json`
    Faults {
        /// Only those whose name holds one of these words
        names: Vec<String>,
    },
    /// Measures us beside programs that people know, prints a table and writes `target/bench/<what>.json`
    Bench {
        /// Only these
        what: Vec<bench::What>,
        #[command(flatten)]
        effort: bench::Effort,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = Workspace::find().and_then(|workspace| match arguments.verb {
        Verb::Check { what } => check::run(&workspace, &what),
        Verb::Gen { check } => generate::run(&workspace, check),
        Verb::Test { filter } => suites::run(&workspace, &filter),
        Verb::Faults { names } => faults::run(&workspace, &names),
        Verb::Bench { what, effort } => bench::run(&workspace, &what, effort),
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
