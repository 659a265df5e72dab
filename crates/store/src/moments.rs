//! When something last happened to whom, roughly: a fixed number of places, which several names may share. A name that
//! shares its place is taken for more recent than it is, never for less.

use std::{
    collections::hash_map::RandomState,
    hash::BuildHasher,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::time::Instant;

/// The moments.
pub(crate) struct Moments {
    began: Instant,
    hasher: RandomState,
    /// Microseconds since `began`, plus one; 0: never.
    places: Box<[AtomicU64]>,
}

impl Moments {
    /// With so many places, at least one.
    pub(crate) fn new(places: usize) -> Self {
        let places = (0..places.max(1)).map(|_| AtomicU64::new(0)).collect();
        Self { began: Instant::now(), hasher: RandomState::new(), places }
    }

    /// It happens to `name`.
    pub(crate) fn note(&self, name: &str) {
        self.place(name).fetch_max(self.now(), Ordering::Relaxed);
    }

    /// Whether it happened to `name` within the last `time`.
    pub(crate) fn within(&self, name: &str, time: Duration) -> bool {
        let last = self.place(name).load(Ordering::Relaxed);
        let time = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        last > 0 && self.now().saturating_sub(last) < time
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX - 1) + 1
    }

    fn place(&self, name: &str) -> &AtomicU64 {
        let hash = self.hasher.hash_one(name);
        // Any part of the hash will do.
        let index = usize::try_from(hash % self.places.len() as u64).unwrap_or(0);
        &self.places[index]
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Moments;

    #[tokio::test(start_paused = true)]
    async fn what_happened_is_remembered_for_as_long_as_is_asked() {
        let moments = Moments::new(4_096);
        assert!(!moments.within("a", Duration::MAX), "never");
        moments.note("a");
        tokio::time::advance(Duration::from_secs(3)).await;
        assert!(moments.within("a", Duration::from_secs(4)));
        assert!(!moments.within("a", Duration::from_secs(2)));
    }
}
