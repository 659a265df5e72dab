//! Why the last call of each bot's model failed: a bot tells its user so in plain text only.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use astrfleet_core::{id::InstanceId, message::Failure, ports::Clock, time::Timestamp};

/// For how long one is kept: no message is answered for longer.
const KEPT_FOR: Duration = Duration::from_hours(1);
/// Looked through for old ones from this number on.
const MANY: usize = 1_000;

/// Of all bots.
pub(super) struct Failures {
    clock: Arc<dyn Clock>,
    last: Mutex<HashMap<InstanceId, (Timestamp, Failure)>>,
}

impl Failures {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, last: Mutex::default() }
    }

    /// It happened now.
    pub(super) fn note(&self, bot: &InstanceId, failure: Failure) {
        let now = self.clock.now();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.len() >= MANY {
            last.retain(|_, (at, _)| now.since(*at) < KEPT_FOR);
        }
        last.insert(bot.clone(), (now, failure));
    }

    /// The last one, if it happened since `since`.
    pub(super) fn since(&self, bot: &InstanceId, since: Timestamp) -> Option<Failure> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.get(bot).filter(|(at, _)| *at >= since).map(|(_, failure)| failure.clone())
    }
}
