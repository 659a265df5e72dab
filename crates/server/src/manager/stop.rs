//! How a bot that answers is stopped: nobody brings it anything new, what it is saying may end, and then its process ends.
//! A bot that does not answer, and one whose data is to go, is stopped at once.

use std::time::Duration;

use astrfleet_core::{
    Result,
    id::TenantId,
    instance::{Desired, Instance},
    message::State,
};

use super::Service;

/// How long the answers of a bot may go on.
const ANSWERS_MAX: Duration = Duration::from_secs(15);
/// Between two looks at them.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Messages of a tenant that are looked at: more than may be answered at once.
const OPEN_MAX: u32 = 200;

impl Service {
    /// Lets the answers end that a bot is giving, for as long as is bearable. From here on nobody finds the bot; where it
    /// is then wanted again, it gets another process.
    ///
    /// # Errors
    /// What the store says; [`astrfleet_core::Error::Stale`] where something else is wanted of it meanwhile.
    pub(super) async fn finish_answers(&self, instance: &Instance) -> Result<()> {
        if instance.port.is_some() {
            self.write(&Instance { port: None, ..instance.clone() }).await?;
        }
        if instance.desired == Desired::Deleted {
            return Ok(());
        }
        let ended = self.answers_ended(&instance.tenant_id);
        tokio::time::timeout(ANSWERS_MAX, ended).await.unwrap_or(Ok(()))
    }

    async fn answers_ended(&self, tenant: &TenantId) -> Result<()> {
        let messages = self.base.store.messages(tenant);
        loop {
            let open = messages.open(None, OPEN_MAX).await?;
            if open.iter().all(|(_, _, state)| *state == State::Accepted) {
                return Ok(());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}
