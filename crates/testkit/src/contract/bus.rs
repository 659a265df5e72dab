//! What every bus does.

use std::{sync::Arc, time::Duration};

use astrfleet_core::{
    id::Ids,
    ports::{
        Bus, BusEvent, BusStream,
        testing::{CountingRng, FixedClock},
    },
};
use futures_util::StreamExt as _;

/// A wait that ends at all.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs all of it.
///
/// # Panics
/// Where the bus does something else.
pub async fn all(bus: &dyn Bus) {
    let ids = Ids::new(Arc::new(FixedClock::at(0)), Arc::new(CountingRng::default()));
    bus.publish(BusEvent::TenantChanged(ids.tenant()));
    let (mut one, mut other) = (bus.subscribe(), bus.subscribe());
    let told = [
        BusEvent::TenantChanged(ids.tenant()),
        BusEvent::InstanceChanged { tenant: ids.tenant(), instance: ids.instance() },
        BusEvent::SessionChanged(ids.tenant(), ids.session()),
        BusEvent::MessageAccepted(ids.tenant(), ids.message()),
        BusEvent::MembershipChanged(ids.user()),
        BusEvent::LoginEnded(ids.login()),
        BusEvent::KeyRevoked(ids.api_key()),
    ];
    told.iter().cloned().for_each(|event| bus.publish(event));
    for listener in [&mut one, &mut other] {
        assert_eq!(heard(listener, told.len()).await, told, "everybody hears everything since they began, in order");
    }
    drop(one);
    bus.publish(told[0].clone());
    assert_eq!(heard(&mut other, 1).await, told[..1], "one who leaves disturbs nobody");
    drop(other);
    bus.publish(told[0].clone());
}

async fn heard(listener: &mut BusStream, count: usize) -> Vec<BusEvent> {
    tokio::time::timeout(PATIENCE, listener.take(count).collect()).await.expect("the events come")
}
