//! `openapi`: the description of the API, as it is committed in `openapi/`.

use anyhow::Result;

use crate::output::line;

/// Prints it.
///
/// # Errors
/// Where it cannot be written as JSON.
pub fn run() -> Result<()> {
    line(&astrfleet_server::app::description().to_pretty_json()?);
    Ok(())
}
