//! What every cache does. It may always have nothing; so what must be there is waited for.

use std::{sync::Arc, time::Duration};

use astrfleet_core::{
    id::{Ids, TenantId},
    ports::{
        Cache,
        testing::{CountingRng, FixedClock},
    },
};
use bytes::Bytes;

/// The largest value that the caches of these suites keep.
pub const VALUE_BYTES_MAX: usize = 1_000;

const LONG: Duration = Duration::from_hours(1);
const PATIENCE: Duration = Duration::from_secs(30);

/// Two tenants.
#[must_use]
pub fn tenants() -> [TenantId; 2] {
    let ids = Ids::new(Arc::new(FixedClock::at(1)), Arc::new(CountingRng::default()));
    [ids.tenant(), ids.tenant()]
}

/// Puts until it is there.
///
/// # Panics
/// When it never is.
pub async fn kept(cache: &dyn Cache, tenant: &TenantId, key: u8, value: &'static [u8]) {
    let keeping = async {
        loop {
            cache.put(tenant, &[key; 32], Bytes::from_static(value), LONG);
            for _ in 0..20 {
                if cache.get(tenant, &[key; 32]).await.as_deref() == Some(value) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    };
    tokio::time::timeout(PATIENCE, keeping).await.expect("it is kept");
}

/// Waits until a value is what it should be.
///
/// # Panics
/// When it never is.
pub async fn becomes(cache: &dyn Cache, tenant: &TenantId, key: u8, value: Option<&[u8]>) {
    let becoming = async {
        while cache.get(tenant, &[key; 32]).await.as_deref() != value {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, becoming).await.expect("it becomes so");
}

/// Everything, on a cache that knows nothing yet and keeps values of [`VALUE_BYTES_MAX`] bytes.
///
/// # Panics
/// Where the cache does something else.
pub async fn all(cache: &dyn Cache) {
    let [ours, theirs] = tenants();
    assert_eq!(cache.get(&ours, &[1; 32]).await, None);
    kept(cache, &ours, 1, b"one \0 \xff").await;
    assert_eq!(cache.get(&ours, &[2; 32]).await, None, "another key");
    assert_eq!(cache.get(&theirs, &[1; 32]).await, None, "another tenant");
    kept(cache, &theirs, 1, b"theirs").await;
    kept(cache, &ours, 1, b"another one").await;
    assert_eq!(cache.get(&theirs, &[1; 32]).await.as_deref(), Some(&b"theirs"[..]), "each has its own");
    kept(cache, &ours, 3, b"").await;

    // One that comes after it is there, so it would be.
    cache.put(&ours, &[4; 32], Bytes::from(vec![b'x'; VALUE_BYTES_MAX + 1]), LONG);
    kept(cache, &ours, 5, &[b'x'; VALUE_BYTES_MAX]).await;
    assert_eq!(cache.get(&ours, &[4; 32]).await, None, "too large");

    cache.put(&ours, &[1; 32], Bytes::from_static(b"for a moment"), Duration::from_millis(1));
    becomes(cache, &ours, 1, None).await;
    cache.put(&ours, &[6; 32], Bytes::from_static(b"for nothing"), Duration::ZERO);
    becomes(cache, &ours, 6, None).await;
    assert_eq!(cache.get(&ours, &[5; 32]).await.map(|value| value.len()), Some(VALUE_BYTES_MAX), "others stay");
}

/// What one process puts another one has.
///
/// # Panics
/// Where it does not.
pub async fn across(one: &dyn Cache, other: &dyn Cache) {
    let [ours, theirs] = tenants();
    kept(one, &ours, 7, b"of one").await;
    becomes(other, &ours, 7, Some(b"of one")).await;
    assert_eq!(other.get(&theirs, &[7; 32]).await, None);
}
