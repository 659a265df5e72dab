//! The only SQL. One file an aggregate; `db` and `dialect` know the two engines, `migrate` the schema.
//!
//! A tenant's rows are reached through a struct that was made for that tenant, and every statement of it names the
//! tenant: there is no other door.

pub mod db;
mod dialect;
pub mod instances;
pub mod migrate;
mod values;

pub use db::{Db, PgSettings, Statement};

/// Every statement of this crate: the contract suite proves that each has run on both engines.
#[must_use]
pub fn statements() -> Vec<&'static Statement> {
    [migrate::STATEMENTS, instances::STATEMENTS].concat()
}
