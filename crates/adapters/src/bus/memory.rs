//! A bus within one process. It must never wait for a listener: one that is slow loses the oldest events.

use astrfleet_core::ports::{Bus, BusEvent, BusStream};
use futures_util::{StreamExt, stream};
use tokio::sync::broadcast::{self, error::RecvError};

/// Tells everybody in this process.
pub struct MemoryBus {
    sender: broadcast::Sender<BusEvent>,
}

impl MemoryBus {
    /// Keeps at most `capacity` events (at least one) for a listener that is behind.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { sender: broadcast::Sender::new(capacity.max(1)) }
    }
}

impl Bus for MemoryBus {
    fn publish(&self, event: BusEvent) {
        // It fails only where nobody listens, and then there is nobody to tell.
        let _ = self.sender.send(event);
    }

    fn subscribe(&self) -> BusStream {
        stream::unfold(self.sender.subscribe(), async |mut receiver| match receiver.recv().await {
            Ok(event) => Some((event, receiver)),
            Err(RecvError::Lagged(lost)) => {
                tracing::debug!(lost, "a listener of the bus was too slow");
                Some((BusEvent::Missed, receiver))
            }
            Err(RecvError::Closed) => None,
        })
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use astrfleet_core::{
        id::Ids,
        ports::{
            Bus, BusEvent,
            testing::{CountingRng, FixedClock},
        },
    };
    use futures_util::StreamExt;

    use super::MemoryBus;

    #[tokio::test]
    async fn a_slow_listener_loses_the_oldest_and_hears_that_it_did() {
        let bus = MemoryBus::new(2);
        let mut events = bus.subscribe();
        let ids = Ids::new(Arc::new(FixedClock::at(0)), Arc::new(CountingRng::default()));
        let told: Vec<_> = (0..4).map(|_| BusEvent::TenantChanged(ids.tenant())).collect();
        told.iter().cloned().for_each(|event| bus.publish(event));
        assert_eq!(events.next().await, Some(BusEvent::Missed));
        assert_eq!(events.next().await.as_ref(), Some(&told[2]));
        assert_eq!(events.next().await.as_ref(), Some(&told[3]));
        drop(bus);
        assert_eq!(events.next().await, None);
    }
}
