//! Who follows which tenant. What happened to it is read once for all who follow it ([`Room`]), and only those are woken
//! for whom there is something.
//!
//! A room keeps what was read for a moment, as far as it goes by [`Keeping`]: whoever comes too late for that reads by
//! themselves. The bus and the loop `events.look` say when there may be something new.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use astrfleet_core::{
    Result,
    event::Event,
    id::{SessionId, TenantId},
    ports::BusEvent,
};
use futures_util::StreamExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::{app::Base, problem::chain};

/// Events read at once: with the longest texts, some 2 MiB.
pub(super) const PAGE: u32 = 32;
/// The wait after the store did not answer.
pub(super) const AGAIN: Duration = Duration::from_secs(1);
/// Events that a room keeps.
const KEPT_MAX: usize = 2 * PAGE as usize;
/// KiB of events that all rooms of this process keep together, and as much that all who are late do: enough for a thousand
/// rooms in which somebody has just written the longest texts, and little beside what a process needs otherwise.
const KEPT_KIB_MAX: usize = 32 * 1024;

/// The memory that there is to keep events in.
pub(super) struct Keeping(Arc<Semaphore>);

impl Keeping {
    fn new() -> Self {
        Self(Arc::new(Semaphore::new(KEPT_KIB_MAX)))
    }

    /// The place of an event in it, if there is one.
    pub(super) fn keep(&self, event: &Event) -> Option<OwnedSemaphorePermit> {
        let kib = u32::try_from(event.data.to_string().len() / 1024 + 1).unwrap_or(u32::MAX);
        Arc::clone(&self.0).try_acquire_many_owned(kib).ok()
    }
}

/// Those who follow, by tenant.
pub(super) struct Hub {
    base: Arc<Base>,
    rooms: Mutex<HashMap<TenantId, Arc<Room>>>,
    of_rooms: Keeping,
    /// Apart, so that those who are late take nothing from those who are not.
    of_late: Keeping,
}

/// Those who follow one tenant, and what they are about to see.
pub(super) struct Room {
    tenant: TenantId,
    state: Mutex<State>,
}

struct State {
    followers: usize,
    /// Up to here events were read; none until somebody said where to begin.
    read_to: Option<i64>,
    /// Whether somebody reads on, and whether they are to look once more when they have.
    is_read: bool,
    is_stale: bool,
    /// Everything after `kept_from` up to `read_to`, but for what was deleted.
    kept: VecDeque<Kept>,
    kept_from: i64,
    /// Up to here events were read when it was last looked.
    settled_to: i64,
    wake: watch::Sender<()>,
    sessions: HashMap<SessionId, Followed>,
}

struct Kept {
    event: Arc<Event>,
    _place: OwnedSemaphorePermit,
}

/// A session that somebody follows by itself.
struct Followed {
    wake: watch::Sender<()>,
    /// Its last event that is not kept any more, or may not be.
    missed: i64,
}

/// What a room has for somebody.
pub(super) enum Look {
    /// This comes next.
    Next(Arc<Event>),
    /// Nothing up to this place.
    Nothing(i64),
    /// It may have passed by: they have to read themselves. Whatever is up to this place can be read.
    Passed(i64),
}

/// One who follows. They are woken from the moment on in which they came, until they are dropped.
pub(super) struct Follower {
    hub: Arc<Hub>,
    pub(super) room: Arc<Room>,
    session: Option<SessionId>,
    pub(super) woken: watch::Receiver<()>,
}

impl Hub {
    pub(super) fn new(base: Arc<Base>) -> Self {
        Self { base, rooms: Mutex::default(), of_rooms: Keeping::new(), of_late: Keeping::new() }
    }

    /// None where `most` follow already.
    pub(super) fn enter(
        self: &Arc<Self>,
        tenant: &TenantId,
        session: Option<SessionId>,
        most: usize,
    ) -> Option<Follower> {
        let mut rooms = self.rooms();
        let room = rooms.entry(tenant.clone()).or_insert_with(|| Arc::new(Room::new(tenant.clone())));
        let woken = room.enter(session.as_ref(), most)?;
        Some(Follower { hub: Arc::clone(self), room: Arc::clone(room), session, woken })
    }

    fn rooms(&self) -> MutexGuard<'_, HashMap<TenantId, Arc<Room>>> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn all(&self) -> Vec<Arc<Room>> {
        self.rooms().values().cloned().collect()
    }

    /// There may be something new.
    fn wake(self: &Arc<Self>, tenant: &TenantId) {
        let room = self.rooms().get(tenant).cloned();
        if let Some(room) = room {
            self.read_on(room);
        }
    }

    /// Reads what is new of a room, unless somebody does: then they look once more.
    fn read_on(self: &Arc<Self>, room: Arc<Room>) {
        if room.begin_reading() {
            let hub = Arc::clone(self);
            self.base.tasks.spawn(async move { hub.read(&room).await });
        }
    }

    async fn read(&self, room: &Room) {
        let events = self.base.store.events(&room.tenant);
        while let Some(after) = room.next_reading() {
            match events.after(after, None, PAGE).await {
                Ok(page) => room.take_in(page, &self.of_rooms),
                Err(error) => {
                    tracing::debug!(tenant_id = %room.tenant, error = chain(&error), "events could not be read");
                    room.stale();
                    tokio::select! {
                        () = self.base.stop.cancelled() => return,
                        () = tokio::time::sleep(AGAIN) => {}
                    }
                }
            }
        }
    }

    /// Looks for what nobody told of, and lets go of what was kept when it was last looked: whoever has not taken it by now is
    /// slow. Returns how many tenants had something new.
    pub(super) async fn look(self: &Arc<Self>) -> Result<u64> {
        let before: HashMap<TenantId, Option<i64>> =
            self.all().iter().map(|room| (room.tenant.clone(), room.let_go())).collect();
        if before.is_empty() {
            return Ok(0);
        }
        let tenants: Vec<TenantId> = before.keys().cloned().collect();
        let system = self.base.store.system("the newest events of tenants that somebody follows");
        let mut woken = 0;
        for (tenant, newest) in system.newest_events(&tenants).await? {
            let Some(room) = self.rooms().get(&tenant).cloned() else { continue };
            let read_to = before.get(&tenant).copied().flatten();
            if read_to.is_some_and(|read_to| newest < read_to) {
                room.begin_anew(newest);
            }
            if room.is_behind(newest) {
                self.read_on(room);
                woken += 1;
            }
        }
        Ok(woken)
    }
}

impl Follower {
    /// Where they begin: everything up to `newest` was there when they came.
    pub(super) fn begin(&self, newest: i64) {
        if self.room.begin(newest) {
            self.hub.read_on(Arc::clone(&self.room));
        }
    }

    /// What comes after a place.
    pub(super) fn look(&self, after: i64) -> Look {
        self.room.look(after, self.session.as_ref())
    }

    pub(super) fn session(&self) -> Option<&SessionId> {
        self.session.as_ref()
    }

    pub(super) fn keeping(&self) -> &Keeping {
        &self.hub.of_late
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let mut rooms = self.hub.rooms();
        if self.room.leave(self.session.as_ref()) {
            rooms.remove(&self.room.tenant);
        }
    }
}

impl Room {
    fn new(tenant: TenantId) -> Self {
        let state = State {
            followers: 0,
            read_to: None,
            is_read: false,
            is_stale: false,
            kept: VecDeque::new(),
            kept_from: 0,
            settled_to: 0,
            wake: watch::Sender::new(()),
            sessions: HashMap::new(),
        };
        Self { tenant, state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, session: Option<&SessionId>, most: usize) -> Option<watch::Receiver<()>> {
        let mut state = self.state();
        if state.followers >= most {
            return None;
        }
        state.followers += 1;
        let Some(session) = session else { return Some(state.wake.subscribe()) };
        // What was there before anybody followed it is not known.
        let missed = state.read_to.unwrap_or(0);
        let followed = state.sessions.entry(session.clone());
        let followed = followed.or_insert_with(|| Followed { wake: watch::Sender::new(()), missed });
        Some(followed.wake.subscribe())
    }

    /// Returns whether they were the last.
    fn leave(&self, session: Option<&SessionId>) -> bool {
        let mut state = self.state();
        state.followers -= 1;
        // The one who leaves still counts.
        if let Some(session) = session
            && state.sessions.get(session).is_some_and(|followed| followed.wake.receiver_count() <= 1)
        {
            state.sessions.remove(session);
        }
        state.followers == 0
    }

    /// Returns whether there was a call to read meanwhile.
    fn begin(&self, newest: i64) -> bool {
        let mut state = self.state();
        if state.read_to.is_some() {
            return false;
        }
        state.begin_at(newest);
        state.is_stale
    }

    /// The database was put back to an earlier state.
    fn begin_anew(&self, newest: i64) {
        let mut state = self.state();
        state.begin_at(newest);
        state.wake_all();
    }

    fn is_behind(&self, newest: i64) -> bool {
        self.state().read_to.is_some_and(|read_to| newest > read_to)
    }

    fn begin_reading(&self) -> bool {
        let mut state = self.state();
        state.is_stale = true;
        let begins = !state.is_read && state.read_to.is_some();
        state.is_read |= begins;
        begins
    }

    /// Where to read on; none where all is read.
    fn next_reading(&self) -> Option<i64> {
        let mut state = self.state();
        if !std::mem::take(&mut state.is_stale) {
            state.is_read = false;
            return None;
        }
        state.read_to
    }

    fn stale(&self) {
        self.state().is_stale = true;
    }

    fn take_in(&self, page: Vec<Event>, keeping: &Keeping) {
        let mut state = self.state();
        state.is_stale |= page.len() >= PAGE as usize;
        if page.is_empty() {
            return;
        }
        for event in page {
            state.take_in(event, keeping);
        }
        state.wake.send_replace(());
    }

    /// Returns up to where was read.
    fn let_go(&self) -> Option<i64> {
        let mut state = self.state();
        while state.kept.front().is_some_and(|kept| kept.event.seq() <= state.settled_to) {
            state.let_go_of_one();
        }
        state.settled_to = state.read_to.unwrap_or(0);
        state.read_to
    }

    fn look(&self, after: i64, session: Option<&SessionId>) -> Look {
        let state = self.state();
        let read_to = state.read_to.unwrap_or(0);
        let missed = match session {
            None => state.kept_from,
            Some(session) => state.sessions.get(session).map_or(i64::MAX, |followed| followed.missed),
        };
        if after < missed {
            return Look::Passed(read_to);
        }
        let first = state.kept.partition_point(|kept| kept.event.seq() <= after);
        let mut later = state.kept.range(first..).map(|kept| &kept.event);
        let next = later.find(|event| session.is_none_or(|session| event.session_id.as_ref() == Some(session)));
        next.map_or(Look::Nothing(read_to), |event| Look::Next(Arc::clone(event)))
    }
}

impl State {
    fn begin_at(&mut self, newest: i64) {
        self.kept.clear();
        self.kept_from = newest;
        self.read_to = Some(newest);
        for followed in self.sessions.values_mut() {
            followed.missed = newest;
        }
    }

    fn wake_all(&self) {
        self.wake.send_replace(());
        for followed in self.sessions.values() {
            followed.wake.send_replace(());
        }
    }

    fn take_in(&mut self, event: Event, keeping: &Keeping) {
        let (seq, session) = (event.seq(), event.session_id.clone());
        self.read_to = Some(seq);
        if let Some(place) = keeping.keep(&event) {
            self.kept.push_back(Kept { event: Arc::new(event), _place: place });
            if self.kept.len() > KEPT_MAX {
                self.let_go_of_one();
            }
        } else {
            while self.let_go_of_one() {}
            self.passed(seq, session.as_ref());
        }
        if let Some(followed) = session.and_then(|session| self.sessions.get(&session)) {
            followed.wake.send_replace(());
        }
    }

    /// Lets go of the oldest that is kept. Returns whether there was one.
    fn let_go_of_one(&mut self) -> bool {
        let Some(kept) = self.kept.pop_front() else { return false };
        self.passed(kept.event.seq(), kept.event.session_id.as_ref());
        true
    }

    /// This event is not to be had here.
    fn passed(&mut self, seq: i64, session: Option<&SessionId>) {
        self.kept_from = seq;
        if let Some(followed) = session.and_then(|session| self.sessions.get_mut(session)) {
            followed.missed = seq;
        }
    }
}

/// Reads on when the bus tells of something, until the process ends.
pub(super) async fn listen(hub: Arc<Hub>) {
    let mut events = hub.base.bus_events();
    while let Some(event) = events.next().await {
        match event {
            BusEvent::MessageAccepted(tenant, _)
            | BusEvent::SessionChanged(tenant, _)
            | BusEvent::TenantChanged(tenant) => hub.wake(&tenant),
            BusEvent::Missed => {
                for room in hub.all() {
                    hub.read_on(room);
                }
            }
            _ => {}
        }
    }
}
