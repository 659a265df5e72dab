//! Every backend of a small port passes that port's suite.

use std::sync::Arc;

use astrfleet_adapters::{blobs::FolderBlobs, bus::MemoryBus, cache::MemoryCache, limiter::MemoryLimiter};
use astrfleet_core::ports::testing::FixedClock;
use astrfleet_testkit::contract;

#[tokio::test]
async fn memory_bus() {
    contract::bus::all(&MemoryBus::new(64)).await;
}

#[tokio::test]
async fn memory_cache() {
    contract::cache::all(&MemoryCache::new(1 << 20, contract::cache::VALUE_BYTES_MAX)).await;
}

#[test]
fn memory_limiter() {
    let clock = Arc::new(FixedClock::at(1_795_402_721_000_042));
    contract::limiter::all(&MemoryLimiter::new(clock.clone(), 1_000), &clock);
}

#[tokio::test]
async fn folder_blobs() {
    let folder = tempfile::tempdir().unwrap();
    contract::blobs::all(&FolderBlobs::open(folder.path()).unwrap()).await;
}
