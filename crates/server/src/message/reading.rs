//! How an answer is read, waited for and stopped.

use std::{sync::Arc, time::Duration};

use astrfleet_core::{
    Error, Result,
    id::{MessageId, SessionId, TenantId},
    message::{Exchange, Message, State},
};
use futures_util::{Stream, StreamExt, stream};
use tokio::time::{Instant, sleep, timeout};

use super::{
    Service,
    deliver::stopped,
    live::{Live, Position, Said},
    queue::Stopped,
};
use crate::{config::seconds, manager::Route};

/// How often the store is asked for what this process does not know.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a stop waits for the end of an answer.
const STOP_WAIT: Duration = Duration::from_secs(10);

impl Service {
    /// A message of a session.
    ///
    /// # Errors
    /// [`Error::NotFound`], also for a message of another session.
    pub async fn find(&self, tenant: &TenantId, session: &SessionId, message: &MessageId) -> Result<Exchange> {
        let exchange = self.base.store.messages(tenant).exchange(message).await?;
        if exchange.message.session_id == *session { Ok(exchange) } else { Err(Error::NotFound { what: "message" }) }
    }

    /// What a message's stream says after `position`, to its end: from memory where it is known, otherwise from the
    /// store.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn stream(
        &self,
        tenant: &TenantId,
        message: &MessageId,
        position: Position,
    ) -> Result<impl Stream<Item = Said> + Send + use<>> {
        let live = match self.lives.get(message) {
            Some(live) => Some(live),
            None => Live::rebuilt(&self.base.store.messages(tenant).exchange(message).await?).map(Arc::new),
        };
        let (service, tenant, message) = (self.clone(), tenant.clone(), message.clone());
        let found = async move {
            match live {
                Some(live) => live,
                None => service.look_for_end(&tenant, &message).await,
            }
        };
        Ok(stream::once(found).flat_map(move |live| live.follow(position)))
    }

    /// Waits for the end of a message that another process has, or that is being repaired.
    async fn look_for_end(&self, tenant: &TenantId, message: &MessageId) -> Arc<Live> {
        let config = &self.base.config.message;
        let until = Instant::now() + seconds(config.answer_timeout_s.saturating_add(config.wait_for_bot_s));
        while Instant::now() < until && !self.draining.is_cancelled() {
            if let Some(live) = self.lives.get(message) {
                return live;
            }
            // Where the store does not answer now, it may the next time.
            if let Ok(exchange) = self.base.store.messages(tenant).exchange(message).await
                && let Some(live) = Live::rebuilt(&exchange)
            {
                return Arc::new(live);
            }
            tokio::select! {
                () = self.draining.cancelled() => {}
                () = sleep(LOOK_EVERY) => {}
            }
        }
        Arc::new(Live::cut_off(message))
    }

    /// Waits until a message is at an end, or `limit` is over. Returns it as it is then.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn wait(&self, tenant: &TenantId, message: &MessageId, limit: Duration) -> Result<Exchange> {
        let messages = self.base.store.messages(tenant);
        let ended = async {
            loop {
                if let Some(live) = self.lives.get(message) {
                    live.ended().await;
                    return messages.exchange(message).await;
                }
                let exchange = messages.exchange(message).await?;
                if exchange.message.state.is_final() || self.draining.is_cancelled() {
                    return Ok(exchange);
                }
                sleep(LOOK_EVERY).await;
            }
        };
        match timeout(limit, ended).await {
            Ok(exchange) => exchange,
            Err(_) => messages.exchange(message).await,
        }
    }

    /// Stops a message: what was answered so far becomes the answer; where there was nothing yet, it fails as `stopped`.
    /// One that is at its end stays as it is.
    ///
    /// # Errors
    /// What the store says.
    pub async fn stop(&self, message: &Message) -> Result<Exchange> {
        let (tenant, id) = (&message.tenant_id, &message.id);
        match self.queues.stop(tenant, id) {
            Stopped::Told => return self.wait(tenant, id, STOP_WAIT).await,
            Stopped::Taken => {
                self.failed(message, stopped()).await?;
                self.pump(tenant);
            }
            Stopped::Absent if message.state == State::Accepted => {
                self.failed(message, stopped()).await?;
            }
            Stopped::Absent if matches!(message.state, State::Delivering | State::Streaming) => {
                // An earlier process left it with the bot; the repair finds what it says to this.
                if let Route::Ready { access, .. } = self.manager.route(tenant) {
                    let delivery = self.base.store.messages(tenant).delivery(id).await?;
                    let client = self.base.bots.client(&access);
                    client.stop_chat(&delivery.end_user, message.session_id.as_str()).await?;
                    self.wake_repair.notify_one();
                }
            }
            Stopped::Absent => {}
        }
        self.base.store.messages(tenant).exchange(id).await
    }
}
