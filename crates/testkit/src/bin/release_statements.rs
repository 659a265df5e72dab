//! Prints the statements of this version of the store, by name: `release_statements`. After a release, what it printed there
//! becomes `crates/store/migrations/previous_release_statements.json`, together with `previous_release` beside it, and from
//! then on every schema has to bear them (`tests/previous_release.rs`).

fn main() -> Result<(), serde_json::Error> {
    println!("{}", serde_json::to_string_pretty(&astrfleet_store::texts())?);
    Ok(())
}
