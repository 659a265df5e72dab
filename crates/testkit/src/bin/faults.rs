//! Lets one thing after the other go wrong with a fleet under load: `faults [--json FILE] [NAME…]` prints a row for each,
//! and fails when a message was lost, doubled, or read by another tenant. Without names, all are tried.

use std::{path::PathBuf, process::ExitCode};

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
    let rows = runtime.block_on(suffer(&faults));
    if let Some(file) = file {
        let text = json!({"rows": rows.iter().map(Row::json).collect::<Vec<_>>()}).to_string();
        if let Err(error) = std::fs::write(&file, text) {
            eprintln!("error: {} cannot be written: {error}", file.display());
            return ExitCode::FAILURE;
        }
        println!("written: {}", file.display());
    }
    if rows.iter().all(Row::is_good) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn suffer(faults: &[Fault]) -> Vec<Row> {
    let mut field = Field::prepare().await;
    println!(
        "{:<44}{:>9}{:>9}{:>7}{:>6}{:>8}{:>7}{:>8}{:>11}",
        "fault", "accepted", "answered", "failed", "lost", "doubled", "leaked", "refused", "outage (s)"
    );
    let mut rows = Vec::new();
    for fault in faults {
        let row = field.suffer(fault).await;
        println!(
            "{:<44}{:>9}{:>9}{:>7}{:>6}{:>8}{:>7}{:>8}{:>11.1}",
            row.fault,
            row.accepted,
            row.answered,
            row.failed,
            row.lost,
            row.doubled,
            row.leaked,
            row.refused,
            row.outage.as_secs_f64()
        );
        rows.push(row);
    }
    rows
}
