//! `openapi`: the description of the API, as it is committed in `openapi/`.

use anyhow::Result;

/// Prints it.
///
/// # Errors
/// Where it cannot be written as JSON.
pub fn run() -> Result<()> {
    println!("{}", astrfleet_server::app::description().to_pretty_json()?);
    Ok(())
}
