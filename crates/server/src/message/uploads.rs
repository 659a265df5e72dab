//! How many files come in at the same moment, in this process: each has pieces in memory, or all of it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use astrfleet_core::{Error, Result, id::TenantId};

/// When somebody who was refused may try again.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// The places.
pub struct Uploads {
    most: u32,
    most_of_tenant: u32,
    taken: Mutex<HashMap<TenantId, u32>>,
}

/// A place, given back when dropped.
pub struct Place {
    uploads: Arc<Uploads>,
    tenant: TenantId,
}

impl Uploads {
    /// So many, and so many of one tenant.
    #[must_use]
    pub fn new(most: u32, most_of_tenant: u32) -> Self {
        Self { most, most_of_tenant, taken: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TenantId, u32>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place.
    ///
    /// # Errors
    /// [`Error::TooMany`].
    pub fn take(self: &Arc<Self>, tenant: &TenantId) -> Result<Place> {
        let mut taken = self.lock();
        let of_tenant = taken.get(tenant).copied().unwrap_or_default();
        if of_tenant >= self.most_of_tenant || taken.values().sum::<u32>() >= self.most {
            return Err(Error::TooMany { what: "files are uploaded at once", retry_after: RETRY_AFTER });
        }
        taken.insert(tenant.clone(), of_tenant + 1);
        Ok(Place { uploads: Arc::clone(self), tenant: tenant.clone() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.uploads.lock();
        match taken.get_mut(&self.tenant) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(taken.remove(&self.tenant)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use astrfleet_core::{
        Error,
        id::Ids,
        ports::testing::{CountingRng, FixedClock},
    };

    use super::Uploads;

    #[test]
    fn places_are_bounded_and_come_back() {
        let ids = Ids::new(Arc::new(FixedClock::at(0)), Arc::new(CountingRng::default()));
        let (uploads, tenants) = (Arc::new(Uploads::new(3, 2)), [ids.tenant(), ids.tenant()]);
        let mut places: Vec<_> = (0..2).map(|_| uploads.take(&tenants[0]).unwrap()).collect();
        assert!(matches!(uploads.take(&tenants[0]), Err(Error::TooMany { .. })), "as many as one tenant has");
        places.push(uploads.take(&tenants[1]).unwrap());
        assert!(matches!(uploads.take(&tenants[1]), Err(Error::TooMany { .. })), "as many as there are");
        places.remove(0);
        places.push(uploads.take(&tenants[1]).unwrap());
        places.clear();
        assert!(uploads.lock().is_empty(), "nothing is left behind");
    }
}
