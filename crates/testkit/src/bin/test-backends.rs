//! What the browser's tests stand on, as a program: prints the variables that lead the real binary to its backends as
//! one line of JSON, and keeps the servers until its standard input ends. Which they are, the environment says
//! (`backends::BACKENDS`).

use std::{
    collections::BTreeMap,
    io::{Read as _, Result},
};

use astrfleet_testkit::backends::Backends;

#[tokio::main]
async fn main() -> Result<()> {
    let backends = Backends::chosen().await;
    println!("{}", serde_json::json!(backends.environment().into_iter().collect::<BTreeMap<_, _>>()));
    let mut nothing = Vec::new();
    std::io::stdin().read_to_end(&mut nothing)?;
    Ok(())
}
