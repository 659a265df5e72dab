//! Wakes those who follow a tenant. What there is to see they read themselves.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use astrfleet_core::{
    Result,
    id::TenantId,
    ports::{BusEvent, Store},
};
use futures_util::StreamExt;
use tokio::sync::watch;

use crate::app::Base;

/// Those who follow, by tenant.
#[derive(Default)]
pub(super) struct Hub {
    rooms: Mutex<HashMap<TenantId, Room>>,
}

struct Room {
    wake: watch::Sender<()>,
    /// The newest event when it was last looked.
    newest: Option<i64>,
}

impl Hub {
    /// Whoever enters is woken from now on. None where `most` are there already.
    pub(super) fn enter(&self, tenant: &TenantId, most: usize) -> Option<watch::Receiver<()>> {
        let mut rooms = self.rooms();
        let room = rooms.entry(tenant.clone()).or_insert_with(|| Room { wake: watch::Sender::new(()), newest: None });
        (room.wake.receiver_count() < most).then(|| room.wake.subscribe())
    }

    fn rooms(&self) -> MutexGuard<'_, HashMap<TenantId, Room>> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self, tenant: &TenantId) {
        if let Some(room) = self.rooms().get(tenant) {
            room.wake.send_replace(());
        }
    }

    fn wake_all(&self) {
        for room in self.rooms().values() {
            room.wake.send_replace(());
        }
    }

    /// Wakes whoever was not told of something. Returns how many tenants had something new.
    pub(super) async fn look(&self, store: &dyn Store) -> Result<u64> {
        let followed: Vec<TenantId> = {
            let mut rooms = self.rooms();
            rooms.retain(|_, room| room.wake.receiver_count() > 0);
            rooms.keys().cloned().collect()
        };
        if followed.is_empty() {
            return Ok(0);
        }
        let found = store.system("the newest events of tenants that somebody follows").newest_events(&followed).await?;
        let (mut rooms, mut woken) = (self.rooms(), 0);
        for (tenant, newest) in found {
            if let Some(room) = rooms.get_mut(&tenant)
                && room.newest != Some(newest)
            {
                room.newest = Some(newest);
                room.wake.send_replace(());
                woken += 1;
            }
        }
        Ok(woken)
    }
}

/// Wakes those who follow when the bus tells of something, until the process ends.
pub(super) async fn listen(base: Arc<Base>, hub: Arc<Hub>) {
    let mut events = base.bus_events();
    while let Some(event) = events.next().await {
        match event {
            BusEvent::MessageAccepted(tenant, _)
            | BusEvent::SessionChanged(tenant, _)
            | BusEvent::TenantChanged(tenant) => hub.wake(&tenant),
            BusEvent::Missed => hub.wake_all(),
            _ => {}
        }
    }
}
