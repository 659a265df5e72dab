//! The life of a tenant's bot: what is wanted (`desired`) beside what is seen (`observed`).
//!
//! A `generation` grows whenever another process becomes the bot: whatever an older one still says is not believed.

use serde::{Deserialize, Serialize};

use crate::{
    error::Error,
    id::{InstanceId, TenantId},
    time::Timestamp,
};

/// What is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Desired {
    /// Ready to answer.
    Running,
    /// Not running, its data kept.
    Stopped,
    /// Gone, with its data.
    Deleted,
}

/// What is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Observed {
    /// Not begun, or waiting before the next try: `reason` says which.
    Pending,
    /// Its folder and configuration are being made, or it waits for its turn to start.
    Provisioning,
    /// Its process runs and is not ready yet.
    Starting,
    /// Ready: it answers.
    Running,
    /// Its process runs and does not answer at the moment.
    Degraded,
    /// Stopped to save memory; a message wakes it.
    Hibernated,
    /// Starting since a message came for it.
    Waking,
    /// Getting another version.
    Updating,
    /// Getting older data back.
    Restoring,
    /// Stopped on purpose: by somebody, or since its tenant is suspended. `reason` says which.
    Suspended,
    /// Given up, after crash upon crash. `reason` ends with its last words; a start or restart tries again.
    Failed,
    /// Being erased.
    Deleting,
}

/// What can happen to a bot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The manager begins to bring it up.
    ProvisioningBegan,
    /// Its process was started, or one that was running already was found.
    ProcessStarted,
    /// It answers.
    BecameReady,
    /// It did not answer for a while.
    StoppedAnswering,
    /// Its process ended, or could not be started. It will be tried again.
    Exited,
    /// Its process ended too often.
    GivenUp,
    /// It was stopped as wanted.
    Stopped,
    /// Its erasure begins.
    ErasureBegan,
    /// Somebody wants another try after it was given up or stopped.
    TryAgain,
}

/// The state after `event`.
///
/// # Errors
/// [`Error::Conflict`] where `event` cannot happen in `state`.
pub fn next(state: Observed, event: Event) -> Result<Observed, Error> {
    use Observed as O;
    match (state, event) {
        (_, Event::ErasureBegan) => Ok(O::Deleting),
        // Nothing leads out of an erasure.
        (O::Deleting, _) => Err(Error::conflict("this bot is being erased")),
        (_, Event::Stopped) => Ok(O::Suspended),
        (O::Pending | O::Provisioning, Event::ProvisioningBegan) => Ok(O::Provisioning),
        (O::Hibernated | O::Waking, Event::ProvisioningBegan) | (O::Waking, Event::ProcessStarted) => Ok(O::Waking),
        (O::Pending | O::Provisioning | O::Starting | O::Updating | O::Restoring, Event::ProcessStarted) => {
            Ok(O::Starting)
        }
        (O::Starting | O::Waking | O::Degraded | O::Running, Event::BecameReady) => Ok(O::Running),
        (O::Running | O::Degraded, Event::StoppedAnswering) => Ok(O::Degraded),
        (state, Event::Exited) if may_have_ended(state) => Ok(O::Pending),
        (state, Event::GivenUp) if may_have_ended(state) => Ok(O::Failed),
        (O::Failed | O::Suspended | O::Pending, Event::TryAgain) => Ok(O::Pending),
        (state, event) => Err(Error::conflict(format!("a bot that is {state:?} cannot be {event:?}").to_lowercase())),
    }
}

/// Whether the end of a process, or of the try to start one, makes sense in `state`.
fn may_have_ended(state: Observed) -> bool {
    use Observed as O;
    match state {
        O::Pending
        | O::Provisioning
        | O::Starting
        | O::Waking
        | O::Running
        | O::Degraded
        | O::Updating
        | O::Restoring => true,
        O::Hibernated | O::Suspended | O::Failed | O::Deleting => false,
    }
}

/// A tenant's bot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// `bot_…`
    pub id: InstanceId,
    /// Whose it is.
    pub tenant_id: TenantId,
    /// See [`Desired`].
    pub desired: Desired,
    /// See [`Observed`].
    pub observed: Observed,
    /// Grows with every start of a process.
    pub generation: i64,
    /// In words for people: why it is in this state. Empty where there is nothing to say.
    pub reason: String,
    /// Since when it has been in this state.
    pub since: Timestamp,
    /// Its AstrBot's version; empty before the first start.
    pub version: String,
    /// Its port on the machine that runs it; none while it has none. Never two bots on one port.
    pub port: Option<u16>,
    /// Exits without being asked to, since it was last ready for a while.
    pub restarts: u32,
    /// Counts the seed's secrets: a rotation makes new ones.
    pub secrets_version: u32,
    /// When it was made.
    pub created_at: Timestamp,
    /// Grows with every change.
    pub version_lock: i64,
}

impl Instance {
    /// Whether a message can be brought to it now: not to one that is about to be stopped, which has no port any more.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.observed == Observed::Running && self.port.is_some()
    }

    /// The bot after `event` at `now`.
    ///
    /// # Errors
    /// See [`next`].
    pub fn after(&self, event: Event, reason: impl Into<String>, now: Timestamp) -> Result<Self, Error> {
        let observed = next(self.observed, event)?;
        let since = if observed == self.observed { self.since } else { now };
        Ok(Self { observed, since, reason: reason.into(), ..self.clone() })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Event, Observed, next};

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            Just(Event::ProvisioningBegan),
            Just(Event::ProcessStarted),
            Just(Event::BecameReady),
            Just(Event::StoppedAnswering),
            Just(Event::Exited),
            Just(Event::GivenUp),
            Just(Event::Stopped),
            Just(Event::ErasureBegan),
            Just(Event::TryAgain),
        ]
    }

    proptest! {
        #[test]
        fn nothing_leads_out_of_an_erasure(events in prop::collection::vec(event(), 0..40)) {
            let mut state = Observed::Pending;
            for event in events {
                let before = state;
                state = next(state, event).unwrap_or(state);
                prop_assert!(before != Observed::Deleting || state == Observed::Deleting);
            }
        }

        #[test]
        fn a_bot_that_was_given_up_or_stopped_runs_only_after_another_try(events in prop::collection::vec(event(), 0..40)) {
            let (mut state, mut resting) = (Observed::Pending, false);
            for event in events {
                state = next(state, event).unwrap_or(state);
                match state {
                    Observed::Failed | Observed::Suspended => resting = true,
                    Observed::Pending => resting = false,
                    Observed::Running | Observed::Starting => prop_assert!(!resting),
                    _ => {}
                }
            }
        }
    }
}
