//! What people ask of a bot: start, stop, restart. It is written down as a wish; the bot's keeper fulfils it.

use astrfleet_core::{
    Error, Result,
    instance::{Desired, Event, Instance, Observed},
    tenant::Tenant,
    time::Timestamp,
};

use super::Service;
use crate::stale::again_while_stale;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// To run; also to try again what was given up.
    Start,
    /// Not to run.
    Stop,
    /// To run in another process than now.
    Restart,
}

impl Service {
    /// Writes down what is wanted of a tenant's bot, and sees to it in the background. Asking twice for a start or a
    /// stop changes nothing.
    ///
    /// # Errors
    /// [`Error::Forbidden`] where the tenant is not served and its bot is to run; [`Error::Conflict`] where the bot's
    /// state does not allow it.
    pub async fn operate(&self, tenant: &Tenant, operation: Operation) -> Result<Instance> {
        if operation != Operation::Stop {
            tenant.must_be_served()?;
        }
        let written = again_while_stale(|| async {
            let instance = self.base.store.instances(&tenant.id).get().await?;
            match operated(&instance, operation, self.base.clock.now())? {
                Some(changed) => self.write(&changed).await,
                None => Ok(instance),
            }
        })
        .await;
        // Also after an error: what was written may only not have been acknowledged.
        self.wake(&tenant.id);
        written.map_err(|error| match error {
            Error::Stale { .. } => {
                Error::unavailable("the bot", "its state changed at every try to write down what is wanted")
            }
            other => other,
        })
    }
}

/// The bot with the wish written down; nothing where it is wanted so already.
fn operated(instance: &Instance, operation: Operation, now: Timestamp) -> Result<Option<Instance>> {
    if instance.desired == Desired::Deleted || instance.observed == Observed::Deleting {
        return Err(Error::conflict("this bot is being erased: it cannot be started or stopped any more"));
    }
    let again = || Ok(Instance { restarts: 0, ..instance.after(Event::TryAgain, "", now)? });
    let rests = matches!(instance.observed, Observed::Failed | Observed::Suspended);
    let changed = match operation {
        Operation::Start if rests => Instance { desired: Desired::Running, ..again()? },
        Operation::Start => Instance { desired: Desired::Running, ..instance.clone() },
        Operation::Stop => Instance { desired: Desired::Stopped, ..instance.clone() },
        Operation::Restart => {
            let anew = match instance.observed {
                Observed::Failed | Observed::Suspended | Observed::Pending => again()?,
                Observed::Updating | Observed::Restoring => {
                    return Err(Error::conflict(
                        "this bot is getting another version or older data: wait until that is over",
                    ));
                }
                Observed::Hibernated => instance.clone(),
                _ => instance.after(Event::Exited, "it is restarted by request", now)?,
            };
            // Of another generation than the process that runs: that one is stopped before a new one begins.
            let generation = instance.generation + 1;
            Instance { desired: Desired::Running, restarts: 0, generation, port: None, ..anew }
        }
    };
    Ok((changed != *instance).then_some(changed))
}

#[cfg(test)]
mod tests {
    use astrfleet_core::{
        Error,
        instance::{Desired, Observed},
        time::Timestamp,
    };

    use super::{Operation, operated};
    use crate::manager::decide::tests::instance;

    const NOW: Timestamp = Timestamp::from_micros(2);

    #[test]
    fn asking_twice_for_a_start_or_a_stop_changes_nothing() {
        for observed in [Observed::Running, Observed::Pending, Observed::Failed, Observed::Suspended] {
            for operation in [Operation::Start, Operation::Stop] {
                let before = instance(Desired::Running, observed);
                let once = operated(&before, operation, NOW).unwrap().unwrap_or(before);
                assert_eq!(operated(&once, operation, NOW).unwrap(), None, "{operation:?} {observed:?}");
            }
        }
    }

    #[test]
    fn a_start_tries_again_what_was_given_up() {
        let mut failed = instance(Desired::Running, Observed::Failed);
        failed.restarts = 5;
        let again = operated(&failed, Operation::Start, NOW).unwrap().unwrap();
        assert_eq!((again.observed, again.restarts), (Observed::Pending, 0));
    }

    #[test]
    fn a_restart_is_for_another_process() {
        for observed in [Observed::Running, Observed::Starting, Observed::Degraded, Observed::Failed] {
            let before = instance(Desired::Stopped, observed);
            let after = operated(&before, Operation::Restart, NOW).unwrap().unwrap();
            assert_eq!((after.desired, after.observed), (Desired::Running, Observed::Pending));
            assert!(after.generation > before.generation && after.port.is_none());
        }
    }

    #[test]
    fn what_is_being_erased_stays_so() {
        let erased = instance(Desired::Deleted, Observed::Running);
        for operation in [Operation::Start, Operation::Stop, Operation::Restart] {
            assert!(matches!(operated(&erased, operation, NOW), Err(Error::Conflict { .. })));
        }
    }
}
