//! Prints the statements of this version of the store, by name: `release_statements`. At a release, what it prints becomes
//! `crates/store/migrations/previous_release_statements.json`, and from then on every schema has to bear them
//! (`tests/previous_release.rs`).

fn main() -> Result<(), serde_json::Error> {
    println!("{}", serde_json::to_string_pretty(&astrfleet_store::texts())?);
    Ok(())
}
