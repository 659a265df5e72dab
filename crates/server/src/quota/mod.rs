//! Quotas at work: a tenant's amounts, used up by several replicas together ([`purse`]), and what the tenant is told of
//! it ([`notices`]). What the amounts are and what follows from them is the core's.

pub mod notices;
pub mod purse;

pub use notices::{Notices, Seen};
pub use purse::{Portion, Purse, Purses};
