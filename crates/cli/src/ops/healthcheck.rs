//! `healthcheck`: for containers, where no curl is at hand.

use anyhow::Result;

use crate::client::Client;

/// Succeeds where the platform is ready.
///
/// # Errors
/// Where it is not, or does not answer.
pub async fn run(client: &Client, json: bool) -> Result<()> {
    let answer = client.get("/ready").await?;
    if json {
        println!("{answer}");
    } else {
        println!("{} is ready", client.url());
    }
    Ok(())
}
