//! Lets one thing after the other go wrong with a fleet under load: `faults [--json FILE] [NAME…]` prints a row for each,
//! and fails when something was lost, doubled, out of order, read by another tenant, or answered as nothing may be. Without
//! names, all are tried.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use astrfleet_testkit::faults::{Fault, Field, Row, all};
use serde_json::json;

fn main() -> ExitCode {
    let (mut file, mut wanted) = (None, Vec::new());
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--json" => file = words.next().map(PathBuf::from),
            name => wanted.push(name.to_owned()),
        }
    }
    let faults: Vec<Fault> = all()
        .into_iter()
        .filter(|fault| wanted.is_empty() || wanted.iter().any(|name| fault.name.contains(name)))
        .collect();
    if faults.is_empty() {
        eprintln!("error: there is no such fault; there are:");
        for fault in all() {
            eprintln!("  {}", fault.name);
        }
        return ExitCode::from(2);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(suffer(&faults, file.as_deref())) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: the figures cannot be written: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Returns whether all went well. Whatever was found is in the file at any moment.
async fn suffer(faults: &[Fault], file: Option<&Path>) -> std::io::Result<bool> {
    let mut field = Field::prepare(faults).await;
    println!("{}", Row::head());
    let mut rows = Vec::new();
    for fault in faults {
        let row = field.suffer(fault).await;
        println!("{}", row.line());
        rows.push(row);
        if let Some(file) = file {
            let text = json!({"rows": rows.iter().map(Row::json).collect::<Vec<_>>()}).to_string();
            std::fs::write(file, text)?;
        }
    }
    if let Some(file) = file {
        println!("written: {}", file.display());
    }
    Ok(rows.iter().all(Row::is_good))
}
