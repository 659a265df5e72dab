//! What to do next about one bot: a pure function of what is wanted, what is stored, what is seen and what time it is.

use std::time::Duration;

use astrfleet_core::{
    backoff::Backoff,
    instance::{Desired, Instance, Observed},
    ports::BotStatus,
    tenant::{Status, Tenant},
    time::Timestamp,
};

use crate::config::{ManagerConfig, seconds};

/// The next step. Each is safe to repeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Start a process.
    Start,
    /// Ask the process whether it answers.
    Probe,
    /// End the process, then look again.
    Stop,
    /// Write down that it is stopped as wanted.
    NoteStopped {
        /// Why.
        reason: &'static str,
    },
    /// Write down that its process ended by itself.
    NoteExit {
        /// How, with its last words.
        how: String,
        /// So often that it is given up.
        give_up: bool,
    },
    /// Erase its data.
    Erase,
    /// Nothing before so much time is over.
    Wait(Duration),
    /// Nothing until somebody wants something else.
    Rest,
}

/// Decides. `disorder` is a random number for the back-off.
#[must_use]
pub fn decide(
    instance: &Instance,
    tenant: &Tenant,
    seen: &BotStatus,
    now: Timestamp,
    config: &ManagerConfig,
    disorder: u32,
) -> Step {
    let runs = matches!(seen, BotStatus::Running { .. });
    if instance.desired == Desired::Deleted {
        return match (runs, instance.observed, instance.reason.as_str()) {
            (true, ..) => Step::Stop,
            (false, Observed::Deleting, super::ERASED) => Step::Rest,
            (false, ..) => Step::Erase,
        };
    }
    let reason = match (tenant.status, instance.desired) {
        (Status::Suspended, _) => Some("its tenant is suspended"),
        (Status::Deleting, _) => Some("its tenant is about to be erased"),
        (Status::Active, Desired::Stopped) => Some("stopped by request"),
        (Status::Active, Desired::Running | Desired::Deleted) => None,
    };
    if let Some(reason) = reason {
        return match (runs, instance.observed) {
            (true, _) => Step::Stop,
            (false, Observed::Suspended) if instance.reason == reason => Step::Rest,
            (false, _) => Step::NoteStopped { reason },
        };
    }
    match (instance.observed, seen) {
        // An older process than the one that is known: it must not go on beside a new one.
        (_, BotStatus::Running { generation, .. }) if *generation != instance.generation => Step::Stop,
        (Observed::Failed | Observed::Suspended, BotStatus::Running { .. }) => Step::Stop,
        (_, BotStatus::Running { .. }) => Step::Probe,
        (Observed::Failed | Observed::Suspended | Observed::Deleting, _) => Step::Rest,
        (Observed::Starting | Observed::Running | Observed::Degraded | Observed::Waking, ended) => {
            let how = match ended {
                BotStatus::Exited { how, last_words, .. } if last_words.is_empty() => how.clone(),
                BotStatus::Exited { how, last_words, .. } => format!("{how}; its last words: {last_words}"),
                _ => "its process is gone".to_owned(),
            };
            Step::NoteExit { how, give_up: instance.restarts + 1 >= config.max_restarts }
        }
        (Observed::Pending, _) if instance.restarts > 0 => {
            let backoff =
                Backoff { first: seconds(config.restart_backoff_s), max: seconds(config.restart_backoff_max_s) };
            let waited = now.since(instance.since);
            match backoff.wait(instance.restarts, disorder).checked_sub(waited) {
                Some(left) if !left.is_zero() => Step::Wait(left),
                _ => Step::Start,
            }
        }
        (
            Observed::Pending
            | Observed::Provisioning
            | Observed::Hibernated
            | Observed::Updating
            | Observed::Restoring,
            _,
        ) => Step::Start,
    }
}
