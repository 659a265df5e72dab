//! A cache within one process, of so many bytes at the most.

use std::time::{Duration, Instant};

use astrfleet_core::{id::TenantId, ports::Cache};
use async_trait::async_trait;
use bytes::Bytes;
use moka::Expiry;

/// What one value takes besides its bytes, roughly.
const OVERHEAD_BYTES: usize = 128;

/// Keeps in memory.
pub struct MemoryCache {
    kept: moka::sync::Cache<Key, Kept>,
    value_bytes_max: usize,
}

type Key = (TenantId, [u8; 32]);

#[derive(Clone)]
struct Kept {
    value: Bytes,
    ttl: Duration,
}

/// Each value has a time of its own.
struct OwnTime;

impl Expiry<Key, Kept> for OwnTime {
    fn expire_after_create(&self, _: &Key, kept: &Kept, _: Instant) -> Option<Duration> {
        Some(kept.ttl)
    }

    fn expire_after_update(&self, _: &Key, kept: &Kept, _: Instant, _: Option<Duration>) -> Option<Duration> {
        Some(kept.ttl)
    }
}

impl MemoryCache {
    /// Keeps values of at most `value_bytes_max` bytes, and `bytes_max` of them all; then those that are asked for least go.
    #[must_use]
    pub fn new(bytes_max: u64, value_bytes_max: usize) -> Self {
        let kept = moka::sync::Cache::builder()
            .max_capacity(bytes_max)
            .weigher(|_, kept: &Kept| u32::try_from(kept.value.len() + OVERHEAD_BYTES).unwrap_or(u32::MAX))
            .expire_after(OwnTime)
            .build();
        Self { kept, value_bytes_max }
    }
}

#[async_trait]
impl Cache for MemoryCache {
    async fn get(&self, tenant: &TenantId, key: &[u8; 32]) -> Option<Bytes> {
        self.kept.get(&(tenant.clone(), *key)).map(|kept| kept.value)
    }

    fn put(&self, tenant: &TenantId, key: &[u8; 32], value: Bytes, ttl: Duration) {
        if value.len() <= self.value_bytes_max {
            self.kept.insert((tenant.clone(), *key), Kept { value, ttl });
        }
    }
}
