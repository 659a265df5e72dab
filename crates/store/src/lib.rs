//! The only SQL. One file an aggregate; `db` and `dialect` know the two engines, `migrate` the schema.
//!
//! A tenant's rows are reached through a struct that was made for that tenant, and every statement of it names the
//! tenant: there is no other door.

pub mod api_keys;
pub mod audit;
pub mod db;
mod dialect;
mod erase;
pub mod idempotency;
pub mod instances;
pub mod invitations;
pub mod members;
pub mod migrate;
pub mod refresh_tokens;
pub mod tenants;
pub mod users;
mod values;

pub use db::{Db, PgSettings, Statement};

/// Every statement of this crate: the contract suite proves that each has run on both engines.
#[must_use]
pub fn statements() -> Vec<&'static Statement> {
    [
        api_keys::STATEMENTS,
        audit::STATEMENTS,
        erase::STATEMENTS,
        idempotency::STATEMENTS,
        instances::STATEMENTS,
        invitations::STATEMENTS,
        members::STATEMENTS,
        migrate::STATEMENTS,
        refresh_tokens::STATEMENTS,
        tenants::STATEMENTS,
        users::STATEMENTS,
    ]
    .concat()
}
