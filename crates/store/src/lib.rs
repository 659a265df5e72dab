//! The only SQL. One file an aggregate; `db`, `postgres` and `dialect` know the two engines, `statement` how one is run
//! on either, `scope` whose rows it may touch, `migrate` the schema.
//!
//! A tenant's rows are reached through a struct that was made for that tenant, and every statement of it names the
//! tenant: there is no other door.

pub mod accept;
pub mod api_keys;
mod aside;
pub mod attachments;
pub mod audit;
pub mod blocklist;
pub mod bridge;
pub mod budgets;
pub mod db;
pub mod deliveries;
mod dialect;
mod erase;
pub mod events;
pub mod exports;
mod failed;
pub mod idempotency;
pub mod instances;
pub mod invitations;
pub mod leases;
mod lookup;
pub mod members;
pub mod messages;
pub mod migrate;
mod moments;
mod months;
mod postgres;
pub mod refresh_tokens;
pub mod retention;
mod rows;
mod scope;
pub mod search;
pub mod sessions;
mod statement;
mod store;
pub mod system;
pub mod tenants;
pub mod usage;
pub mod users;
mod values;
pub mod webhooks;

use std::collections::BTreeMap;

pub use accept::AcceptSettings;
pub use db::{Db, PgRole, PgSettings, Statement};

/// The texts of all statements by their names, of those that write many rows the one for a single row: what a release is
/// known by to the next one, whose schema has to bear them. What is PostgreSQL's alone says so in its name.
#[must_use]
pub fn texts() -> BTreeMap<&'static str, String> {
    let mut texts: BTreeMap<_, _> =
        statements().into_iter().map(|statement| (statement.name, statement.sql.to_owned())).collect();
    texts.extend([deliveries::text_of_one(), search::text_of_one(), usage::text_of_one()]);
    texts.extend(accept::texts_of_one());
    texts.extend(events::texts_of_one());
    texts.extend([(lookup::TEXT.0, lookup::TEXT.1.to_owned())]);
    texts
}

/// Every statement of this crate: the contract suite proves that each has run on both engines.
#[must_use]
pub fn statements() -> Vec<&'static Statement> {
    [
        accept::STATEMENTS,
        api_keys::STATEMENTS,
        attachments::STATEMENTS,
        audit::STATEMENTS,
        blocklist::STATEMENTS,
        bridge::STATEMENTS,
        budgets::STATEMENTS,
        deliveries::STATEMENTS,
        erase::STATEMENTS,
        events::STATEMENTS,
        exports::STATEMENTS,
        idempotency::STATEMENTS,
        instances::STATEMENTS,
        invitations::STATEMENTS,
        leases::STATEMENTS,
        members::STATEMENTS,
        messages::STATEMENTS,
        migrate::STATEMENTS,
        refresh_tokens::STATEMENTS,
        retention::STATEMENTS,
        search::STATEMENTS,
        sessions::STATEMENTS,
        system::STATEMENTS,
        tenants::STATEMENTS,
        usage::STATEMENTS,
        users::STATEMENTS,
        webhooks::STATEMENTS,
    ]
    .concat()
}
