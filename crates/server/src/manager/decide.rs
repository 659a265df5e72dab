//! What to do next about one bot: a pure function of what is wanted, what is stored, what is seen and what time it is.

use std::time::Duration;

use astrfleet_core::{
    backoff::Backoff,
    instance::{Desired, Instance, Observed},
    ports::BotStatus,
    tenant::{Status, Tenant},
    time::Timestamp,
};

use super::ERASED;
use crate::config::{ManagerConfig, seconds};

/// The next step. Each is safe to repeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Start a process.
    Start,
    /// Write down that its process runs.
    NoteStarted,
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
    /// Write down that what was stopped is wanted again.
    NoteWanted,
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
            (false, Observed::Deleting, ERASED) => Step::Rest,
            (false, ..) => Step::Erase,
        };
    }
    if let Some(reason) = unwanted(instance, tenant) {
        return match (runs, instance.observed) {
            (true, _) => Step::Stop,
            (false, Observed::Suspended) if instance.reason == reason => Step::Rest,
            // Only the end of its erasure is left.
            (false, Observed::Deleting) => Step::Rest,
            (false, _) => Step::NoteStopped { reason },
        };
    }
    match seen {
        BotStatus::Running { generation, .. } => with_process(instance, *generation),
        BotStatus::Absent => without_process(instance, None, now, config, disorder),
        BotStatus::Exited { generation, how, last_words } => {
            // An end that was written down already has taken the port with it; one of an older process says nothing.
            let ended = (*generation == instance.generation && instance.port.is_some()).then(|| {
                if last_words.is_empty() { how.clone() } else { format!("{how}; its last words: {last_words}") }
            });
            without_process(instance, ended, now, config, disorder)
        }
    }
}

/// Why a bot is not to run; nothing where it is.
fn unwanted(instance: &Instance, tenant: &Tenant) -> Option<&'static str> {
    match (tenant.status, instance.desired) {
        (Status::Suspended, _) => Some("its tenant is suspended"),
        (Status::Deleting, _) => Some("its tenant is about to be erased"),
        (Status::Active, Desired::Stopped) => Some("stopped by request"),
        (Status::Active, Desired::Running | Desired::Deleted) => None,
    }
}

/// It is wanted, and a process runs.
fn with_process(instance: &Instance, generation: i64) -> Step {
    match instance.observed {
        // An older process than the one that is known: it must not go on beside a new one.
        _ if generation != instance.generation => Step::Stop,
        Observed::Failed | Observed::Suspended | Observed::Hibernated | Observed::Deleting => Step::Stop,
        // It was about to be stopped when it became wanted again: nobody finds it any more.
        Observed::Starting | Observed::Running | Observed::Degraded | Observed::Waking if instance.port.is_none() => {
            Step::Stop
        }
        // Begun, and interrupted before that was written down.
        Observed::Pending | Observed::Provisioning | Observed::Updating | Observed::Restoring => Step::NoteStarted,
        Observed::Starting | Observed::Running | Observed::Degraded | Observed::Waking => Step::Probe,
    }
}

/// It is wanted, and no process runs. `ended` says how its last one ended, where that is not written down yet.
fn without_process(
    instance: &Instance,
    ended: Option<String>,
    now: Timestamp,
    config: &ManagerConfig,
    disorder: u32,
) -> Step {
    let exit = |how| Step::NoteExit { how, give_up: instance.restarts.saturating_add(1) >= config.max_restarts };
    match (instance.observed, ended) {
        (Observed::Failed | Observed::Deleting, _) => Step::Rest,
        (Observed::Suspended, _) => Step::NoteWanted,
        (Observed::Starting | Observed::Running | Observed::Degraded, ended) => {
            exit(ended.unwrap_or_else(|| "its process is gone".to_owned()))
        }
        (Observed::Provisioning | Observed::Waking, Some(how)) => exit(how),
        (Observed::Pending, _) if instance.restarts > 0 => {
            let backoff =
                Backoff { first: seconds(config.restart_backoff_s), max: seconds(config.restart_backoff_max_s) };
            let waited = now.since(instance.since);
            match backoff.wait(instance.restarts, disorder).checked_sub(waited) {
                Some(left) if !left.is_zero() => Step::Wait(left),
                _ => Step::Start,
            }
        }
        (Observed::Pending | Observed::Hibernated | Observed::Updating | Observed::Restoring, _)
        | (Observed::Provisioning | Observed::Waking, None) => Step::Start,
    }
}

#[cfg(test)]
#[path = "decide_tests.rs"]
pub(super) mod tests;
