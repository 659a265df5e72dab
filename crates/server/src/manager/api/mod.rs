//! `/tenants/{tenant}/instance` and `/instances`. One file per endpoint.

pub(super) mod events;
pub(super) mod get;
pub(super) mod view;
