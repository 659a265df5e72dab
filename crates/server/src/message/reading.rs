//! How an answer is read, waited for and stopped.

use std::{sync::Arc, time::Duration};

use astrfleet_core::{
    Error, Result,
    id::{MessageId, SessionId, TenantId},
    message::{Exchange, Message, State},
};
use futures_util::{Stream, StreamExt, stream, stream::BoxStream};
use tokio::time::{Instant, sleep, timeout};

use super::{
    Service,
    deliver::stopped,
    live::{Live, Position, Progress, Said},
    owners::Whereabouts,
    queue::Stopped,
};
use crate::{config::seconds, manager::Route};

/// How often the store is asked for what this process does not know.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a stop waits for the end of an answer.
const STOP_WAIT: Duration = Duration::from_secs(10);

/// What is known of a message here.
enum Known {
    /// Its stream.
    Stream(Arc<Live>),
    /// It is not over, and not in memory.
    Open(Box<Message>),
}

impl Service {
    /// A message of a session.
    ///
    /// # Errors
    /// [`Error::NotFound`], also for a message of another session.
    pub async fn find(&self, tenant: &TenantId, session: &SessionId, message: &MessageId) -> Result<Exchange> {
        let exchange = self.base.store.messages(tenant).exchange(message).await?;
        if exchange.message.session_id == *session { Ok(exchange) } else { Err(Error::NotFound { what: "message" }) }
    }

    /// What a message's stream says after `position`, to its end: from memory where it is known, from the process that has
    /// its queue, or from the store.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn stream(
        &self,
        tenant: &TenantId,
        message: &MessageId,
        position: Position,
    ) -> Result<impl Stream<Item = Said> + Send + use<>> {
        let known = self.known(tenant, message).await?;
        let (service, tenant, message) = (self.clone(), tenant.clone(), message.clone());
        let found = async move {
            match known {
                Known::Stream(live) => live.follow(position).boxed(),
                Known::Open(_) => service.look_for(&tenant, &message, position).await,
            }
        };
        Ok(stream::once(found).flatten())
    }

    /// The stream of a message that is under way here, or over. None where its queue is elsewhere, or it is not known what
    /// became of it.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub(super) async fn stream_here(&self, tenant: &TenantId, message: &MessageId) -> Result<Option<Arc<Live>>> {
        match self.known(tenant, message).await? {
            Known::Stream(live) => Ok(Some(live)),
            Known::Open(open) => {
                // Whoever asks has taken it in, perhaps, and was quicker than the bus.
                self.queue_one(tenant, message).await?;
                Ok(self.open_here(&open))
            }
        }
    }

    /// The stream of a message from memory, or from the store where the message is over.
    async fn known(&self, tenant: &TenantId, message: &MessageId) -> Result<Known> {
        if let Some(live) = self.lives.get(message) {
            return Ok(Known::Stream(live));
        }
        let exchange = self.base.store.messages(tenant).exchange(message).await?;
        let attachments = self.base.store.attachments(tenant);
        let mut files = Vec::new();
        for id in exchange.reply.iter().flat_map(|reply| &reply.attachments) {
            match attachments.get(id).await {
                Ok(file) => files.push(file),
                // It was erased since: the answer is told without it.
                Err(Error::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(match Live::rebuilt(&exchange, &files) {
            Some(live) => Known::Stream(Arc::new(live)),
            None => Known::Open(Box::new(exchange.message)),
        })
    }

    /// The stream of a message that waits or is served here.
    fn open_here(&self, message: &Message) -> Option<Arc<Live>> {
        if !self.queues.holds(&message.tenant_id, &message.id) {
            return None;
        }
        let live = self.lives.open(&message.id, &message.session_id);
        if message.state == State::Accepted {
            live.progress_if_none(Progress::Queued);
        }
        Some(live)
    }

    /// Looks for a message that this process does not know, until it is over, or somebody has it who tells.
    async fn look_for(&self, tenant: &TenantId, message: &MessageId, position: Position) -> BoxStream<'static, Said> {
        let config = &self.base.config.message;
        let until = Instant::now() + seconds(config.answer_timeout_s.saturating_add(config.wait_for_bot_s));
        while Instant::now() < until && !self.draining.is_cancelled() {
            // Where something does not answer now, it may the next time.
            if let Ok(Some(found)) = self.look_once(tenant, message, position).await {
                return found;
            }
            tokio::select! {
                () = self.draining.cancelled() => {}
                () = sleep(LOOK_EVERY) => {}
            }
        }
        Arc::new(Live::cut_off(message)).follow(position).boxed()
    }

    async fn look_once(
        &self,
        tenant: &TenantId,
        message: &MessageId,
        position: Position,
    ) -> Result<Option<BoxStream<'static, Said>>> {
        if let Known::Stream(live) = self.known(tenant, message).await? {
            return Ok(Some(live.follow(position).boxed()));
        }
        Ok(match self.whereabouts(tenant).await? {
            Whereabouts::Here(_) => {
                let live = self.stream_here(tenant, message).await?;
                live.map(|live| live.follow(position).boxed())
            }
            Whereabouts::There(url) => self.read_from(&url, tenant, message, position).await,
            Whereabouts::Nowhere => None,
        })
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
                }
                // A stream may have ended here, and its message goes on elsewhere.
                let exchange = messages.exchange(message).await?;
                if exchange.message.state.is_final() || self.draining.is_cancelled() {
                    return Ok(exchange);
                }
                if let Ok(Some(mut rest)) = self.look_once(tenant, message, Position::END).await {
                    while rest.next().await.is_some() {}
                    let exchange = messages.exchange(message).await?;
                    if exchange.message.state.is_final() {
                        return Ok(exchange);
                    }
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
        if message.sender.is_some() {
            // Of an IM channel: its bot asks before it sends the answer, and is told no.
            self.failed_at_channel(message, stopped()).await?;
        } else if !self.stop_here(message).await? && !message.state.is_final() {
            let told = match self.whereabouts(tenant).await {
                Ok(Whereabouts::There(url)) => self.stop_at(&url, tenant, id).await,
                Ok(Whereabouts::Here(_)) => self.stop_here(message).await?,
                Ok(Whereabouts::Nowhere) | Err(_) => false,
            };
            if !told {
                self.stop_alone(message).await?;
            }
        }
        self.base.store.messages(tenant).exchange(id).await
    }

    /// Stops a message that waits or is served here. Returns whether it is.
    ///
    /// # Errors
    /// What the store says.
    pub(super) async fn stop_here(&self, message: &Message) -> Result<bool> {
        let (tenant, id) = (&message.tenant_id, &message.id);
        match self.queues.stop(tenant, id) {
            Stopped::Told => {
                self.wait(tenant, id, STOP_WAIT).await?;
            }
            Stopped::Taken => {
                self.failed_waiting(message, stopped()).await?;
                self.pump(tenant);
            }
            Stopped::Absent => return Ok(false),
        }
        Ok(true)
    }

    /// Nobody has it in a queue, or nobody who answers.
    async fn stop_alone(&self, message: &Message) -> Result<()> {
        let (tenant, id) = (&message.tenant_id, &message.id);
        if message.state == State::Accepted {
            self.failed_waiting(message, stopped()).await?;
        } else if let Route::Ready { access, .. } = self.manager.route(tenant) {
            // An earlier process left it with the bot; the repair finds what it says to this.
            let delivery = self.base.store.messages(tenant).delivery(id).await?;
            let client = self.base.bots.client(&access);
            client.stop_chat(&delivery.end_user, message.session_id.as_str()).await?;
            self.wake_repair.notify_one();
        }
        Ok(())
    }
}
