//! Who waits, and who is served, in the queues that this process has. For each bot: a bounded queue, one message of a session at a time, and only so many
//! at the same moment. Pure memory: no I/O in here, and nothing durable depends on it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use astrfleet_core::id::{MessageId, SessionId, TenantId};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A message whose turn it is.
#[derive(Clone, Debug)]
pub struct Turn {
    /// Whose.
    pub tenant: TenantId,
    /// Of which conversation.
    pub session: SessionId,
    /// Which.
    pub message: MessageId,
    /// Since when it has been in the queue of this process.
    pub since: Instant,
    /// Set when somebody wants the answer stopped.
    pub stop: CancellationToken,
    /// Set when somebody else has ended the message: the bot does not answer in its session any more.
    pub left: CancellationToken,
}

/// A message that is served.
struct Served {
    session: SessionId,
    stop: CancellationToken,
    left: CancellationToken,
}

/// What became of a message that is to be stopped.
#[derive(Debug, PartialEq, Eq)]
pub enum Stopped {
    /// It was waiting and does not any more.
    Taken,
    /// Whoever serves it was told.
    Told,
    /// It is not here.
    Absent,
}

/// The queues of all bots.
#[derive(Default)]
pub struct Queues {
    bots: Mutex<HashMap<TenantId, BotQueue>>,
}

/// The queue before one bot. Ids sort by time, so the order of the map is the order of acceptance.
#[derive(Default)]
struct BotQueue {
    waiting: BTreeMap<MessageId, (SessionId, Instant)>,
    served: HashMap<MessageId, Served>,
    /// What an earlier process left on its way: until it is known what became of it, its session waits.
    doubtful: HashMap<MessageId, SessionId>,
    /// Room kept for messages that are being made durable.
    reserved: usize,
    concurrent: usize,
}

impl BotQueue {
    fn is_busy(&self, session: &SessionId) -> bool {
        self.served.values().any(|served| served.session == *session)
            || self.doubtful.values().any(|doubtful| doubtful == session)
    }

    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.served.is_empty() && self.doubtful.is_empty() && self.reserved == 0
    }
}

/// Room for one message in a queue, given back when dropped.
pub struct Room {
    queues: Arc<Queues>,
    tenant: TenantId,
}

impl Drop for Room {
    fn drop(&mut self) {
        let mut bots = self.queues.lock();
        if let Some(queue) = bots.get_mut(&self.tenant) {
            queue.reserved = queue.reserved.saturating_sub(1);
        }
        Queues::tidy(&mut bots, &self.tenant);
    }
}

impl Queues {
    fn lock(&self) -> MutexGuard<'_, HashMap<TenantId, BotQueue>> {
        self.bots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tidy(bots: &mut HashMap<TenantId, BotQueue>, tenant: &TenantId) {
        if bots.get(tenant).is_some_and(BotQueue::is_idle) {
            bots.remove(tenant);
        }
    }

    /// Keeps room for a message before it is made durable; none where `length` wait already.
    pub fn reserve(self: &Arc<Self>, tenant: &TenantId, length: usize) -> Option<Room> {
        let mut bots = self.lock();
        let queue = bots.entry(tenant.clone()).or_default();
        if queue.waiting.len() + queue.reserved >= length {
            Self::tidy(&mut bots, tenant);
            return None;
        }
        queue.reserved += 1;
        Some(Room { queues: Arc::clone(self), tenant: tenant.clone() })
    }

    /// Puts a durable message into its place; `concurrent` is how many its bot may serve at the same moment. Returns
    /// whether it was not there already.
    ///
    /// There is no limit here: what is durable was let in, and there is no other place for it.
    pub fn put(&self, tenant: &TenantId, session: &SessionId, message: &MessageId, concurrent: usize) -> bool {
        let mut bots = self.lock();
        let queue = bots.entry(tenant.clone()).or_default();
        queue.concurrent = concurrent.max(1);
        if queue.served.contains_key(message) || queue.waiting.contains_key(message) {
            return false;
        }
        queue.doubtful.remove(message);
        queue.waiting.insert(message.clone(), (session.clone(), Instant::now()));
        true
    }

    /// The next message of a bot that may be served now; it counts as served from then on, until
    /// [`Queues::finished`].
    pub fn next(&self, tenant: &TenantId) -> Option<Turn> {
        let mut bots = self.lock();
        let queue = bots.get_mut(tenant)?;
        if queue.served.len() >= queue.concurrent {
            return None;
        }
        let message = queue.waiting.iter().find(|(_, (session, _))| !queue.is_busy(session))?.0.clone();
        let (session, since) = queue.waiting.remove(&message)?;
        let (stop, left) = (CancellationToken::new(), CancellationToken::new());
        let served = Served { session: session.clone(), stop: stop.clone(), left: left.clone() };
        queue.served.insert(message.clone(), served);
        Some(Turn { tenant: tenant.clone(), session, message, since, stop, left })
    }

    /// Ends a turn.
    pub fn finished(&self, turn: &Turn) {
        let mut bots = self.lock();
        if let Some(queue) = bots.get_mut(&turn.tenant) {
            queue.served.remove(&turn.message);
        }
        Self::tidy(&mut bots, &turn.tenant);
    }

    /// Has a session wait until it is known what became of one of its messages.
    pub fn doubt(&self, tenant: &TenantId, session: &SessionId, message: &MessageId) {
        let mut bots = self.lock();
        let queue = bots.entry(tenant.clone()).or_default();
        queue.concurrent = queue.concurrent.max(1);
        queue.doubtful.insert(message.clone(), session.clone());
    }

    /// It is known now.
    pub fn settle(&self, tenant: &TenantId, message: &MessageId) {
        let mut bots = self.lock();
        if let Some(queue) = bots.get_mut(tenant) {
            queue.doubtful.remove(message);
        }
        Self::tidy(&mut bots, tenant);
    }

    /// Whether nothing is to be done before the bot of `tenant`.
    pub fn is_idle(&self, tenant: &TenantId) -> bool {
        !self.lock().contains_key(tenant)
    }

    /// Empties the queue of `tenant`, which another process has now. What is served ends by itself. Returns what waited.
    pub fn clear(&self, tenant: &TenantId) -> Vec<MessageId> {
        let mut bots = self.lock();
        let Some(queue) = bots.get_mut(tenant) else { return Vec::new() };
        queue.doubtful.clear();
        let waited = std::mem::take(&mut queue.waiting).into_keys().collect();
        Self::tidy(&mut bots, tenant);
        waited
    }

    /// Everything of which it is not known yet what became of it.
    pub fn doubtful(&self) -> Vec<(TenantId, MessageId)> {
        let bots = self.lock();
        let of = |(tenant, queue): (&TenantId, &BotQueue)| {
            queue.doubtful.keys().map(|message| (tenant.clone(), message.clone())).collect::<Vec<_>>()
        };
        bots.iter().flat_map(of).collect()
    }

    /// Takes a message out, or tells whoever serves it to stop.
    pub fn stop(&self, tenant: &TenantId, message: &MessageId) -> Stopped {
        let mut bots = self.lock();
        let Some(queue) = bots.get_mut(tenant) else { return Stopped::Absent };
        if let Some(served) = queue.served.get(message) {
            served.stop.cancel();
            return Stopped::Told;
        }
        let taken = queue.waiting.remove(message).is_some();
        Self::tidy(&mut bots, tenant);
        if taken { Stopped::Taken } else { Stopped::Absent }
    }

    /// Takes a message out that somebody else has ended, or tells whoever serves it.
    pub fn leave(&self, tenant: &TenantId, message: &MessageId) {
        let mut bots = self.lock();
        let Some(queue) = bots.get_mut(tenant) else { return };
        if let Some(served) = queue.served.get(message) {
            served.left.cancel();
        }
        queue.waiting.remove(message);
        Self::tidy(&mut bots, tenant);
    }

    /// What waits or is served here of a session.
    pub fn of_session(&self, tenant: &TenantId, session: &SessionId) -> Vec<MessageId> {
        let bots = self.lock();
        let Some(queue) = bots.get(tenant) else { return Vec::new() };
        let waiting = queue.waiting.iter().filter(|(_, (of, _))| of == session).map(|(message, _)| message);
        let served = queue.served.iter().filter(|(_, served)| served.session == *session).map(|(message, _)| message);
        waiting.chain(served).cloned().collect()
    }

    /// Everything that waits or is served here.
    pub fn all(&self) -> Vec<(TenantId, MessageId)> {
        let bots = self.lock();
        let of = |(tenant, queue): (&TenantId, &BotQueue)| {
            let messages = queue.waiting.keys().chain(queue.served.keys());
            messages.map(|message| (tenant.clone(), message.clone())).collect::<Vec<_>>()
        };
        bots.iter().flat_map(of).collect()
    }

    /// Whether a message waits or is served here.
    pub fn holds(&self, tenant: &TenantId, message: &MessageId) -> bool {
        self.lock()
            .get(tenant)
            .is_some_and(|queue| queue.waiting.contains_key(message) || queue.served.contains_key(message))
    }

    /// Whether somebody serves a message.
    pub fn serves(&self, tenant: &TenantId, message: &MessageId) -> bool {
        self.lock().get(tenant).is_some_and(|queue| queue.served.contains_key(message))
    }

    /// The tenants whose bots have something to do.
    pub fn tenants(&self) -> Vec<TenantId> {
        self.lock().keys().cloned().collect()
    }

    /// How many of a bot's messages are served.
    pub fn serving(&self, tenant: &TenantId) -> u64 {
        self.lock().get(tenant).map_or(0, |queue| queue.served.len() as u64)
    }

    /// Messages that wait, of all bots.
    pub fn waiting(&self) -> usize {
        self.lock().values().map(|queue| queue.waiting.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, sync::Arc};

    use astrfleet_core::{
        id::{Ids, MessageId, SessionId},
        ports::testing::{CountingRng, FixedClock},
    };
    use proptest::prelude::*;

    use super::{Queues, Stopped};

    fn ids() -> Ids {
        Ids::new(Arc::new(FixedClock::at(0)), Arc::new(CountingRng::default()))
    }

    proptest! {
        /// Whatever the order of arrivals and ends: never two of a session, never more than allowed, and each session
        /// in the order of acceptance.
        #[test]
        fn order_and_bounds_hold(steps in prop::collection::vec((any::<bool>(), 0usize..4), 1..80), at_once in 1usize..4) {
            let (ids, queues) = (ids(), Arc::new(Queues::default()));
            let tenant = ids.tenant();
            let sessions: Vec<SessionId> = (0..4).map(|_| ids.session()).collect();
            let mut served = Vec::new();
            let mut last: HashMap<SessionId, MessageId> = HashMap::new();
            for (arrives, which) in steps {
                if arrives {
                    queues.put(&tenant, &sessions[which], &ids.message(), at_once);
                } else if !served.is_empty() {
                    let turn = served.remove(which % served.len());
                    queues.finished(&turn);
                }
                while let Some(turn) = queues.next(&tenant) {
                    prop_assert!(served.iter().all(|other: &super::Turn| other.session != turn.session));
                    prop_assert!(last.insert(turn.session.clone(), turn.message.clone()).is_none_or(|before| before < turn.message));
                    served.push(turn);
                }
                prop_assert!(served.len() <= at_once);
            }
        }
    }

    #[test]
    fn room_is_bounded_and_comes_back() {
        let (ids, queues) = (ids(), Arc::new(Queues::default()));
        let tenant = ids.tenant();
        let first = queues.reserve(&tenant, 2);
        let second = queues.reserve(&tenant, 2);
        assert!(first.is_some() && second.is_some() && queues.reserve(&tenant, 2).is_none());
        drop(first);
        queues.put(&tenant, &ids.session(), &ids.message(), 1);
        assert!(queues.reserve(&tenant, 2).is_none(), "what waits takes room too");
        drop(second);
        assert!(queues.reserve(&tenant, 2).is_some());
    }

    #[test]
    fn a_session_waits_for_what_is_doubtful_in_it() {
        let (ids, queues) = (ids(), Arc::new(Queues::default()));
        let (tenant, session, earlier) = (ids.tenant(), ids.session(), ids.message());
        queues.doubt(&tenant, &session, &earlier);
        queues.put(&tenant, &session, &ids.message(), 4);
        assert!(queues.next(&tenant).is_none());
        queues.settle(&tenant, &earlier);
        assert!(queues.next(&tenant).is_some());
    }

    #[test]
    fn a_stop_finds_a_message_wherever_it_is() {
        let (ids, queues) = (ids(), Arc::new(Queues::default()));
        let (tenant, message) = (ids.tenant(), ids.message());
        assert_eq!(queues.stop(&tenant, &message), Stopped::Absent);
        queues.put(&tenant, &ids.session(), &message, 1);
        assert_eq!(queues.stop(&tenant, &message), Stopped::Taken);
        queues.put(&tenant, &ids.session(), &message, 1);
        let turn = queues.next(&tenant).unwrap();
        assert_eq!(queues.stop(&tenant, &message), Stopped::Told);
        assert!(turn.stop.is_cancelled());
        queues.finished(&turn);
        assert!(queues.tenants().is_empty(), "nothing is left behind");
    }

    #[test]
    fn what_somebody_else_has_ended_leaves_wherever_it_is() {
        let (ids, queues) = (ids(), Arc::new(Queues::default()));
        let (tenant, session, served, waits) = (ids.tenant(), ids.session(), ids.message(), ids.message());
        queues.put(&tenant, &session, &served, 1);
        let turn = queues.next(&tenant).unwrap();
        queues.put(&tenant, &session, &waits, 1);
        queues.put(&tenant, &ids.session(), &ids.message(), 1);
        assert_eq!(queues.of_session(&tenant, &session), [waits.clone(), served.clone()]);
        assert_eq!(queues.all().len(), 3);
        queues.leave(&tenant, &waits);
        queues.leave(&tenant, &served);
        assert!(turn.left.is_cancelled() && !turn.stop.is_cancelled());
        assert_eq!(queues.of_session(&tenant, &session), [served], "until whoever serves it has let go");
        queues.finished(&turn);
        assert_eq!((queues.of_session(&tenant, &session), queues.all().len()), (Vec::new(), 1));
    }
}
