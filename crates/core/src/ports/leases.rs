//! Who alone may do something, for a while.
//!
//! A lease has a name, and at any time at most one holder. It runs out by the clock of whoever keeps the leases, so that a
//! process whose own clock is wrong does no harm. Its epoch grows with each change of hands: what somebody writes as
//! the holder is written only where the epoch is still the stored one ([`Fence`]), so a holder who slept through the
//! end of its lease changes nothing.

use std::time::Duration;

use async_trait::async_trait;

use crate::{error::Result, id::TenantId};

/// Somebody who holds leases. Two parts of one process that renew their leases apart from each other have two names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Nobody else's, and of one life of a process: after a restart it is another one.
    pub id: String,
    /// Where other processes reach it; empty where they cannot.
    pub url: String,
}

/// A lease as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Of what, such as `queue/ten_…`.
    pub name: String,
    /// Who has it, or had it last.
    pub owner: String,
    /// Where they are reached.
    pub url: String,
    /// How often it was taken.
    pub epoch: i64,
    /// How long it still lasts; zero where nobody holds it.
    pub remaining: Duration,
}

impl Lease {
    /// Whether anybody may take it.
    #[must_use]
    pub fn is_free(&self) -> bool {
        self.remaining.is_zero()
    }
}

/// What came of taking a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Taken {
    /// The caller has it now, under this epoch.
    Ours(i64),
    /// Somebody else has it.
    Theirs(Lease),
}

/// What a write depends on: this lease, still under this epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence {
    /// The name of the lease.
    pub lease: String,
    /// The epoch under which the writer holds it.
    pub epoch: i64,
}

/// The lease on the queue of a tenant: only its holder brings messages to the tenant's bot.
#[must_use]
pub fn queue_lease(tenant: &TenantId) -> String {
    format!("queue/{tenant}")
}

/// The lease on the erasure of a tenant, or of one of its end users, by a hash of their name: what is deleted is counted
/// by one process at a time.
#[must_use]
pub fn erasure_lease(tenant: &TenantId, end_user_hash: Option<&str>) -> String {
    end_user_hash.map_or_else(|| format!("erasure/{tenant}"), |hash| format!("erasure/{tenant}/{hash}"))
}

/// All leases. A holder counts from the moment *before* it asked, by its monotonic clock, how long it has what it was
/// given: so it stops before the lease has run out.
#[async_trait]
pub trait Leases: Send + Sync {
    /// Takes a lease that is free, or the holder's own again; each time under a new epoch.
    async fn take(&self, name: &str, holder: &Holder, life: Duration) -> Result<Taken>;
    /// Makes everything that `owner` holds last for `life` from now. Returns what that is, with its epochs: what has run
    /// out, or was taken by somebody else, is not among it and stays as it is.
    async fn renew(&self, owner: &str, life: Duration) -> Result<Vec<(String, i64)>>;
    /// Gives a lease back, if it is still held under `epoch`. Returns whether it was.
    async fn release(&self, name: &str, owner: &str, epoch: i64) -> Result<bool>;
    /// Gives everything back. Returns how many.
    async fn release_all(&self, owner: &str) -> Result<u64>;
    /// Gives back what *anybody* holds: for a process that knows that it is alone with the database, so that it need not
    /// wait for what an earlier one left. Returns how many.
    async fn free_all(&self) -> Result<u64>;
    /// How a lease stands; none that was never taken.
    async fn get(&self, name: &str) -> Result<Option<Lease>>;
}
