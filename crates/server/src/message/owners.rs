//! Which queues this process has, and where the others are. A queue is owned through a lease: whoever has none brings
//! nothing to that bot. What is written for a delivery depends on the lease ([`Held::fence`]), and a bot is only asked
//! while there is time left of it by the monotonic clock ([`Held::must_be_in_time`]); so a process that was stopped for
//! a while, and does not know, changes nothing.

use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::BuildHasher,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use astrfleet_core::{
    Error, Result,
    id::TenantId,
    ports::{Fence, Holder, Lease, queue_lease},
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Takes of different queues that go on beside each other, at the most.
const TURNS: usize = 64;
/// Queues of others that are remembered.
const ELSEWHERE_MAX: usize = 50_000;

/// A queue that this process has.
pub struct Held {
    /// Whose.
    pub tenant: TenantId,
    /// The epoch of its lease.
    pub epoch: i64,
    /// Set when it is this process's no more, or the process ends: deliveries are left where they are.
    pub over: CancellationToken,
    state: Mutex<State>,
}

struct State {
    until: Instant,
    used: Instant,
    /// It is known what was left in it.
    ready: bool,
    /// Something was put into it by another process before that.
    heard: bool,
}

impl Held {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What writes depend on.
    pub fn fence(&self) -> Fence {
        Fence { lease: queue_lease(&self.tenant), epoch: self.epoch }
    }

    /// Until when it is this process's without being renewed.
    pub fn until(&self) -> Instant {
        self.lock().until
    }

    /// Whether it is this process's at this moment.
    pub fn is_in_time(&self) -> bool {
        !self.over.is_cancelled() && Instant::now() < self.until()
    }

    /// # Errors
    /// [`Error::Stale`] where it may be another's by now.
    pub fn must_be_in_time(&self) -> Result<()> {
        if self.is_in_time() { Ok(()) } else { Err(Error::Stale { what: "lease" }) }
    }

    /// It is known what was left in it: from here on, messages are served. Returns whether another process put something
    /// into it meanwhile.
    pub fn set_ready(&self) -> bool {
        let mut state = self.lock();
        state.ready = true;
        state.heard
    }

    /// Its lease was renewed.
    pub fn extend(&self, until: Instant) {
        let mut state = self.lock();
        state.until = state.until.max(until);
    }

    /// Something is done in it.
    pub fn touch(&self) {
        self.lock().used = Instant::now();
    }

    /// How long nothing was done in it.
    pub fn idle(&self) -> Duration {
        self.lock().used.elapsed()
    }
}

/// Where a queue is.
#[derive(Clone)]
pub enum Whereabouts {
    /// Here.
    Here(Arc<Held>),
    /// At the process that is reached at this address.
    There(String),
    /// Nobody has it, and this process does not take it now.
    Nowhere,
}

struct Elsewhere {
    url: String,
    until: Instant,
}

/// The queues of all tenants.
pub struct Owners {
    /// Who this process is to the others.
    pub holder: Holder,
    /// How long a lease lasts.
    pub life: Duration,
    /// A take and a renewal do not go on at the same moment: each would take the other's lease for something left over.
    pub taking: tokio::sync::RwLock<()>,
    hasher: RandomState,
    turns: Vec<tokio::sync::Mutex<()>>,
    held: Mutex<HashMap<TenantId, Arc<Held>>>,
    elsewhere: Mutex<HashMap<TenantId, Elsewhere>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Owners {
    /// With none.
    #[must_use]
    pub fn new(holder: Holder, life: Duration) -> Self {
        Self {
            holder,
            life,
            taking: tokio::sync::RwLock::default(),
            hasher: RandomState::new(),
            turns: (0..TURNS).map(|_| tokio::sync::Mutex::default()).collect(),
            held: Mutex::default(),
            elsewhere: Mutex::default(),
        }
    }

    /// The end of a lease that was asked for at `asked`: a little before its real one, since clocks do not all run at
    /// the same speed.
    #[must_use]
    pub fn end(&self, asked: Instant) -> Instant {
        asked + self.life - self.life / 10
    }

    /// One at a time looks for a queue.
    pub async fn turn(&self, tenant: &TenantId) -> tokio::sync::MutexGuard<'_, ()> {
        let hash = self.hasher.hash_one(tenant);
        // Any part of the hash will do.
        let index = usize::try_from(hash % TURNS as u64).unwrap_or(0);
        self.turns[index].lock().await
    }

    /// A queue that is here, and served.
    pub fn held(&self, tenant: &TenantId) -> Option<Arc<Held>> {
        lock(&self.held).get(tenant).filter(|held| held.lock().ready && held.is_in_time()).cloned()
    }

    /// Another process put something into a queue. Returns whether that is here, and served.
    pub fn hear(&self, tenant: &TenantId) -> bool {
        let held = lock(&self.held).get(tenant).cloned();
        held.is_some_and(|held| {
            let mut state = held.lock();
            state.heard |= !state.ready;
            state.ready
        })
    }

    /// All that are here, also those that are not served yet.
    pub fn all(&self) -> Vec<Arc<Held>> {
        lock(&self.held).values().cloned().collect()
    }

    /// A lease was taken.
    pub fn hold(&self, tenant: &TenantId, epoch: i64, until: Instant, over: CancellationToken) -> Arc<Held> {
        let state = Mutex::new(State { until, used: Instant::now(), ready: false, heard: false });
        let held = Arc::new(Held { tenant: tenant.clone(), epoch, over, state });
        lock(&self.elsewhere).remove(tenant);
        // What was under way under an earlier epoch ends.
        if let Some(earlier) = lock(&self.held).insert(tenant.clone(), Arc::clone(&held)) {
            earlier.over.cancel();
        }
        held
    }

    /// It is not here any more. Returns whether it was.
    pub fn forget(&self, held: &Arc<Held>) -> bool {
        held.over.cancel();
        let mut all = lock(&self.held);
        let was = all.get(&held.tenant).is_some_and(|current| Arc::ptr_eq(current, held));
        if was {
            all.remove(&held.tenant);
        }
        was
    }

    /// Somebody else has it, as long as this lease lasts at least.
    pub fn note(&self, tenant: &TenantId, lease: &Lease) {
        let mut elsewhere = lock(&self.elsewhere);
        let now = Instant::now();
        if elsewhere.len() >= ELSEWHERE_MAX {
            elsewhere.retain(|_, known| known.until > now);
        }
        if elsewhere.len() < ELSEWHERE_MAX {
            let until = now + lease.remaining.min(self.life);
            elsewhere.insert(tenant.clone(), Elsewhere { url: lease.url.clone(), until });
        }
    }

    /// Where somebody else has it, as far as is known.
    pub fn elsewhere(&self, tenant: &TenantId) -> Option<String> {
        let now = Instant::now();
        lock(&self.elsewhere).get(tenant).filter(|known| known.until > now).map(|known| known.url.clone())
    }

    /// Whoever had it does not have it any more, or does not answer.
    pub fn forget_elsewhere(&self, tenant: &TenantId) {
        lock(&self.elsewhere).remove(tenant);
    }

    /// Nothing is known of others any more.
    pub fn forget_all_elsewhere(&self) {
        lock(&self.elsewhere).clear();
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use astrfleet_core::{
        id::{Ids, TenantId},
        ports::{
            Holder, Lease,
            testing::{CountingRng, FixedClock},
        },
    };
    use tokio::time::{Instant, advance};
    use tokio_util::sync::CancellationToken;

    use super::Owners;

    fn owners() -> (Owners, TenantId) {
        let ids = Ids::new(Arc::new(FixedClock::at(0)), Arc::new(CountingRng::default()));
        let holder = Holder { id: "us".to_owned(), url: String::new() };
        (Owners::new(holder, Duration::from_secs(10)), ids.tenant())
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_is_over_here_before_it_is_over_for_others() {
        let (owners, tenant) = owners();
        let asked = Instant::now();
        let held = owners.hold(&tenant, 1, owners.end(asked), CancellationToken::new());
        assert!(owners.held(&tenant).is_none(), "it is not known yet what was left in it");
        assert!(!owners.hear(&tenant), "but something may come into it");
        assert!(held.set_ready(), "which is looked for then");
        assert!(owners.held(&tenant).is_some() && owners.hear(&tenant));
        advance(Duration::from_millis(8_999)).await;
        assert!(held.must_be_in_time().is_ok());
        advance(Duration::from_millis(1)).await;
        assert!(held.must_be_in_time().is_err() && owners.held(&tenant).is_none(), "a second before");
        held.extend(owners.end(Instant::now()));
        assert!(owners.held(&tenant).is_some(), "a renewal says that it never was over");
        held.extend(owners.end(asked));
        assert!(held.is_in_time(), "an answer that comes late takes nothing back");
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_epoch_ends_what_was_under_way_under_the_one_before() {
        let (owners, tenant) = owners();
        let until = owners.end(Instant::now());
        let first = owners.hold(&tenant, 1, until, CancellationToken::new());
        let second = owners.hold(&tenant, 2, until, CancellationToken::new());
        assert!(first.over.is_cancelled() && !second.over.is_cancelled());
        assert!(!owners.forget(&first), "it was not there any more");
        assert!(!second.over.is_cancelled() && owners.forget(&second) && second.over.is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn what_others_have_is_believed_as_long_as_their_lease_lasts() {
        let (owners, tenant) = owners();
        let lease = Lease {
            name: "any".to_owned(),
            owner: "them".to_owned(),
            url: "http://them".to_owned(),
            epoch: 1,
            remaining: Duration::from_secs(4),
        };
        owners.note(&tenant, &lease);
        assert_eq!(owners.elsewhere(&tenant).as_deref(), Some("http://them"));
        advance(Duration::from_secs(4)).await;
        assert_eq!(owners.elsewhere(&tenant), None);
        owners.note(&tenant, &Lease { remaining: Duration::from_hours(1), ..lease });
        advance(Duration::from_secs(10)).await;
        assert_eq!(owners.elsewhere(&tenant), None, "never longer than one life");
    }
}
