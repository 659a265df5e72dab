//! What saves asking somebody again. Nothing depends on it: whatever goes wrong is as if it had never been put.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::id::TenantId;

/// Keeps values of tenants for a while, each tenant's apart from all others'. A value that is larger than the backend
/// was told to keep is not kept.
#[async_trait]
pub trait Cache: Send + Sync {
    /// What was put under `key`, if it is there and can be had soon.
    async fn get(&self, tenant: &TenantId, key: &[u8; 32]) -> Option<Bytes>;
    /// Keeps `value` for `ttl`, in the place of what was there. Never waits.
    fn put(&self, tenant: &TenantId, key: &[u8; 32], value: Bytes, ttl: Duration);
}
