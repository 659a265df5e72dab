//! Who keeps the bots, where several processes could: whoever has the lease `manager`. The others stand by, and take the
//! bots over when it runs out or is given back.
//!
//! At most one process may believe that it keeps them. It counts how long it may from before it asked, by a clock that is
//! never set; and once somebody else has had the lease, a process never keeps bots again: it has to be started anew,
//! because what its runtime remembers of them is old.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use astrfleet_core::{
    Error, Result,
    ports::{Holder, Lease, Taken},
};
use tokio_util::sync::CancellationToken;

use super::Service;
use crate::problem::chain;

/// The lease.
const LEASE: &str = "manager";

/// What this process is to the bots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// There is nobody else: it keeps them.
    Alone,
    /// Another process keeps them, or nobody.
    Elsewhere,
    /// It has the lease until then, and is finding out which bots run.
    TakingOver { epoch: i64, until: Instant },
    /// It has the lease until then, and keeps them.
    Keeping { epoch: i64, until: Instant },
    /// Somebody else has had the lease since.
    Lost,
}

/// Of one process.
pub(super) struct Lead {
    place: Mutex<Place>,
    /// Several processes share the lease.
    is_shared: AtomicBool,
    lost: CancellationToken,
}

impl Lead {
    /// Of a process that has the role alone, or does not have it.
    pub(super) fn new(keeps: bool) -> Self {
        let place = if keeps { Place::Alone } else { Place::Elsewhere };
        Self { place: Mutex::new(place), is_shared: AtomicBool::new(false), lost: CancellationToken::new() }
    }

    fn get(&self) -> Place {
        *self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, place: Place) {
        *self.place.lock().unwrap_or_else(PoisonError::into_inner) = place;
    }
}

impl Service {
    /// Whether this process keeps the bots now.
    #[must_use]
    pub fn keeps_bots(&self) -> bool {
        match self.lead.get() {
            Place::Alone => true,
            Place::Keeping { until, .. } => Instant::now() < until,
            Place::Elsewhere | Place::TakingOver { .. } | Place::Lost => false,
        }
    }

    /// Before a process is started or ended.
    ///
    /// # Errors
    /// [`Error::Unavailable`] where another process may keep the bots by now.
    pub fn must_keep_bots(&self) -> Result<()> {
        if self.keeps_bots() {
            return Ok(());
        }
        Err(Error::unavailable("the manager of the bots", "this process does not keep them any more"))
    }

    /// From here on this process keeps bots only while it has the lease. Said before anything is started.
    pub fn share(&self) {
        self.lead.set(Place::Elsewhere);
        self.lead.is_shared.store(true, Ordering::SeqCst);
    }

    pub(super) fn is_shared(&self) -> bool {
        self.lead.is_shared.load(Ordering::SeqCst)
    }

    /// Done when this process kept bots and another one does now: it has to end, and to leave the bots alone.
    pub async fn lost(&self) {
        self.lead.lost.cancelled().await;
    }

    /// One look at the lease: takes it, keeps it, or notes that it is lost. Returns whether something changed.
    pub(super) async fn seek(&self, life: Duration) -> Result<u64> {
        let asked_at = Instant::now();
        match self.lead.get() {
            Place::Alone | Place::Lost => Ok(0),
            Place::Elsewhere => {
                let Taken::Ours(epoch) = self.base.store.leases().take(LEASE, &self.holder(), life).await? else {
                    return Ok(0);
                };
                tracing::info!(epoch, "this process keeps the bots from now on");
                self.lead.set(Place::TakingOver { epoch, until: asked_at + life });
                Ok(1)
            }
            Place::TakingOver { epoch, .. } | Place::Keeping { epoch, .. } => self.hold(epoch, asked_at, life).await,
        }
    }

    async fn hold(&self, epoch: i64, asked_at: Instant, life: Duration) -> Result<u64> {
        let renewed = self.base.store.leases().renew(&self.holder().id, life).await?;
        if renewed.iter().any(|(name, held)| name == LEASE && *held == epoch) {
            self.extend(epoch, epoch, asked_at + life);
            return Ok(0);
        }
        // It ran out. As long as nobody else had it, nothing was done by anybody.
        match self.base.store.leases().take(LEASE, &self.holder(), life).await? {
            Taken::Ours(again) if again == epoch + 1 => {
                tracing::warn!(epoch = again, "the lease on the bots had run out, and nobody had taken it");
                self.extend(epoch, again, asked_at + life);
                Ok(1)
            }
            taken => {
                if let Taken::Ours(again) = taken {
                    self.base.store.leases().release(LEASE, &self.holder().id, again).await?;
                }
                tracing::error!("another process keeps the bots now: this one ends, to be started anew");
                self.lead.set(Place::Lost);
                self.lead.lost.cancel();
                Ok(1)
            }
        }
    }

    /// Where it still has what it asked about.
    fn extend(&self, epoch: i64, now: i64, until: Instant) {
        let mut place = self.lead.place.lock().unwrap_or_else(PoisonError::into_inner);
        match *place {
            Place::TakingOver { epoch: held, .. } if held == epoch => *place = Place::TakingOver { epoch: now, until },
            Place::Keeping { epoch: held, .. } if held == epoch => *place = Place::Keeping { epoch: now, until },
            _ => {}
        }
    }

    /// Finds the bots that run and keeps them, where the lease was just taken. The lease is renewed meanwhile.
    pub(super) async fn take_over_bots(&self) -> Result<u64> {
        if !matches!(self.lead.get(), Place::TakingOver { .. }) {
            return Ok(0);
        }
        let bots = self.adopt().await?;
        let mut place = self.lead.place.lock().unwrap_or_else(PoisonError::into_inner);
        if let Place::TakingOver { epoch, until } = *place {
            *place = Place::Keeping { epoch, until };
        }
        drop(place);
        tracing::info!(bots, "bots that ran already are kept");
        Ok(1)
    }

    /// Lets another process have the bots at once. After the keepers have ended.
    pub async fn give_back(&self) {
        let (Place::TakingOver { epoch, .. } | Place::Keeping { epoch, .. }) = self.lead.get() else { return };
        self.lead.set(Place::Elsewhere);
        if let Err(error) = self.base.store.leases().release(LEASE, &self.holder().id, epoch).await {
            tracing::warn!(error = chain(&error), "the lease on the bots was not given back: it runs out by itself");
        }
    }

    /// Where the process is that keeps the bots.
    ///
    /// # Errors
    /// [`Error::Unavailable`] where nobody does at the moment.
    pub(super) async fn keeper_url(&self) -> Result<String> {
        let lease: Option<Lease> = self.base.store.leases().get(LEASE).await?;
        match lease.filter(|lease| !lease.is_free() && !lease.url.is_empty()) {
            Some(lease) => Ok(lease.url),
            None => Err(Error::unavailable("the manager of the bots", "no process keeps them at the moment")),
        }
    }

    /// Apart from whatever else this process holds and renews.
    fn holder(&self) -> Holder {
        Holder { id: format!("{}/manager", self.base.me.id), url: self.base.me.url.clone() }
    }
}
