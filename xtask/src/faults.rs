//! `make faults`: lets one thing after the other go wrong with a fleet of real processes under load, and says what became
//! of all that was acknowledged. It fails when something was lost, doubled, out of order, or read by another tenant.

use std::fs;

use anyhow::Result;

use crate::{
    errand::{Workspace, run as errand},
    needs,
};

/// Tries the faults whose names hold one of `names`; without any, all.
pub fn run(workspace: &Workspace, names: &[String]) -> Result<()> {
    needs::meet(workspace, &[])?;
    errand(workspace.cargo().args([
        "build",
        "--locked",
        "--package",
        "astrfleet",
        "--package",
        "astrfleet-testkit",
        "--bins",
    ]))?;
    let folder = workspace.target.join("bench");
    fs::create_dir_all(&folder)?;
    let built = workspace.target.join("debug");
    let mut faults = std::process::Command::new(built.join("faults"));
    faults.env("ASTRFLEET_BIN", built.join("astrfleet")).arg("--json").arg(folder.join("faults.json")).args(names);
    errand(&mut faults)
}
