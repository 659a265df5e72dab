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
        BusEvent::QueueReleased(ids.tenant()),
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

/// Runs what two processes on one bus do.
///
/// # Panics
/// Where they do something else.
pub async fn across(one: &dyn Bus, other: &dyn Bus) {
    let ids = Ids::new(Arc::new(FixedClock::at(0)), Arc::new(CountingRng::default()));
    let (mut here, mut there) = (one.subscribe(), other.subscribe());
    // What was said before is still on its way.
    let mark = BusEvent::LoginEnded(ids.login());
    one.publish(mark.clone());
    for listener in [&mut here, &mut there] {
        let marked = async { while listener.next().await.expect("the bus goes on") != mark {} };
        tokio::time::timeout(PATIENCE, marked).await.expect("the mark comes");
    }
    let mut told: Vec<_> = (0..500).map(|_| BusEvent::SessionChanged(ids.tenant(), ids.session())).collect();
    told.iter().cloned().for_each(|event| one.publish(event));
    assert!(heard(&mut there, told.len()).await == told, "the other process hears everything, in order");
    let answer = BusEvent::TenantChanged(ids.tenant());
    other.publish(answer.clone());
    told.push(answer);
    assert!(heard(&mut here, told.len()).await == told, "nobody hears what they said twice");
}

/// Runs what a listener is promised after the way between two processes was lost and is there again.
///
/// # Panics
/// Where it does not hear that it may have missed something, or hears nothing afterwards.
pub async fn recovers(one: &dyn Bus, there: &mut BusStream) {
    let missed = async { while there.next().await.expect("the bus goes on") != BusEvent::Missed {} };
    tokio::time::timeout(PATIENCE, missed).await.expect("a listener hears that it may have missed something");
    let ids = Ids::new(Arc::new(FixedClock::at(1_000_000)), Arc::new(CountingRng::default()));
    let again = async {
        // One event may be lost while the other side still connects: the next one is not.
        loop {
            let event = BusEvent::TenantChanged(ids.tenant());
            one.publish(event.clone());
            let hear = async { while there.next().await.expect("the bus goes on") != event {} };
            if tokio::time::timeout(Duration::from_millis(500), hear).await.is_ok() {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, again).await.expect("events come again");
}

async fn heard(listener: &mut BusStream, count: usize) -> Vec<BusEvent> {
    tokio::time::timeout(PATIENCE, listener.take(count).collect()).await.expect("the events come")
}
